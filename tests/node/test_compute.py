"""Running tasks: user code by way of the workers, results by size, errors in one sentence, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from fl.spec import AppSpec
from fl.tasks import Contribution, Describe, Evaluate, Finish, Finished, Train
from node.artifacts import ArtifactStore
from node.compute import Outcome, TaskRunner, Workers
from node.supervisor import Supervisor
from protocol.errors import UsageError
from protocol.events import ComputeDone, Event
from protocol.messages import EMPTY, INLINE_LIMIT, Contact, Value

from .fabric import until

SPEC = AppSpec(
    name="test", owner=b"o" * 32, salt=b"", zone=0, voters=(), rounds=1, initial=EMPTY, home=Contact(b"h" * 16),
    bundle=Value(4, b"code"),
)  # fmt: skip


class FakeWorkers:
    """Answers with what it was given; hangs or fails when told to."""

    def __init__(self, value: bytes = b"", failure: str = "", hang: bool = False) -> None:
        self.value, self.failure, self.hang = value, failure, hang
        self.seen: list[bytes | Path] = []
        self.stopped = False

    async def train(self, task: Train, model: bytes | Path, bundle: bytes) -> Outcome:
        self.seen += [model, bundle]
        if self.failure:
            raise UsageError(self.failure)
        try:
            if self.hang:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.stopped = True
            raise
        return self.value, 3.0, {"loss": 1.0}

    async def evaluate(self, task: Evaluate, model: bytes | Path, bundle: bytes) -> Outcome:
        return b"", 2.0, {}

    async def describe(self, task: Describe, bundle: bytes) -> Outcome:
        raise RuntimeError("a bug of ours")


def scenario_of(
    path: Path, workers: Workers | None, scenario: Callable[[TaskRunner, ArtifactStore, list[Event]], Awaitable[None]]
) -> dict[str, int]:
    async def main() -> dict[str, int]:
        artifacts, supervisor, events = ArtifactStore(path), Supervisor(), list[Event]()
        artifacts.open()
        runner = TaskRunner(artifacts, workers, supervisor, events.append)
        try:
            await scenario(runner, artifacts, events)
        finally:
            runner.close()
            await supervisor.close()
            artifacts.close()
        return supervisor.failures

    return asyncio.run(asyncio.wait_for(main(), 30))


def train(model: Value) -> Train:
    return Train(SPEC.id, SPEC, 1, model, 7, evaluate=False)


def test_a_large_model_is_handed_over_as_a_file_and_a_large_update_comes_back_as_an_artifact(tmp_path: Path) -> None:
    model, update = b"m" * (INLINE_LIMIT + 1), b"u" * (INLINE_LIMIT + 1)
    workers = FakeWorkers(update)

    async def scenario(runner: TaskRunner, artifacts: ArtifactStore, events: list[Event]) -> None:
        blob = await artifacts.put(model)
        runner.start(1, train(Value(len(model), blob=blob)))
        await until(lambda: events)
        assert workers.seen == [artifacts.path(blob), b"code"]
        (done,) = events
        assert isinstance(done, ComputeDone)
        contribution = done.result
        assert isinstance(contribution, Contribution)
        assert (contribution.weight, contribution.metrics) == (3.0, {"loss": 1.0})
        assert await artifacts.read(contribution.value.blob) == update

    assert not scenario_of(tmp_path, workers, scenario)


def test_failures_are_one_sentence_and_bugs_are_counted(tmp_path: Path) -> None:
    async def scenario(runner: TaskRunner, artifacts: ArtifactStore, events: list[Event]) -> None:
        runner.start(1, train(EMPTY))
        runner.start(2, train(Value(5, blob=b"\0" * 32)))
        runner.start(3, Describe(SPEC.id, SPEC))
        await until(lambda: len(events) == 3)
        errors = {event.job: event.error for event in events if isinstance(event, ComputeDone)}
        assert errors[1] == "column 'age' is missing"
        assert "no artifact" in errors[2]
        assert "internal error" in errors[3]

    assert scenario_of(tmp_path, FakeWorkers(failure="column 'age' is missing"), scenario) == {"compute": 1}


def test_without_workers_user_code_is_refused_and_the_rest_runs(tmp_path: Path) -> None:
    async def scenario(runner: TaskRunner, artifacts: ArtifactStore, events: list[Event]) -> None:
        model, total = (save({"w": np.full(3, x, np.float32)}) for x in (1.0, 4.0))
        runner.start(1, train(EMPTY))
        runner.start(2, Finish(SPEC.id, SPEC, 1, Value(len(model), model), EMPTY, Value(len(total), total), weight=2.0))
        await until(lambda: len(events) == 2)
        done = {event.job: event for event in events if isinstance(event, ComputeDone)}
        assert done[1].error == "this node runs no user code"
        finished = done[2].result
        assert isinstance(finished, Finished)
        assert load(finished.model.inline)["w"].tolist() == [3.0] * 3
        assert finished.state == EMPTY

    assert not scenario_of(tmp_path, None, scenario)


def test_a_cancelled_job_stops_its_worker_and_is_heard_of_no_more(tmp_path: Path) -> None:
    workers = FakeWorkers(hang=True)

    async def scenario(runner: TaskRunner, artifacts: ArtifactStore, events: list[Event]) -> None:
        runner.start(1, train(EMPTY))
        await until(lambda: workers.seen)
        runner.cancel(1)
        await until(lambda: workers.stopped)
        assert not events
        assert not runner.running

    assert not scenario_of(tmp_path, workers, scenario)
