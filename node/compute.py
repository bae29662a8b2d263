"""Runs what machines ask to be computed: ``Compute`` in, ``ComputeDone`` out.

User code (train, evaluate, describe) runs in worker processes. Merging and finishing are ours and pure: small inputs
on the spot, large ones in a thread, where numpy lets go of the interpreter. Inputs that lie in the artifact store are
mapped, not read, and results too large for a message go there, so that a node in the middle of a tree holds little
more than the sum.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fl import aggregate, execute
from fl.learn.errors import AppError
from fl.tasks import Contribution, Describe, Evaluate, Finish, Finished, Merge, Merged, Train, describe
from protocol.errors import MyceliaError, UsageError
from protocol.events import ComputeDone, Event
from protocol.messages import EMPTY, INLINE_LIMIT, Value

from .artifacts import ArtifactStore
from .supervisor import Supervisor

SMALL = 1 << 20
"""Bytes of input up to which a merge runs on the loop: about a millisecond."""

Buffer = bytes | memoryview
Outcome = tuple[bytes, float, dict[str, float]]
"""Value (safetensors), weight, metric sums."""
T = TypeVar("T")


class Workers(Protocol):
    """The processes that run user code.  All raise MyceliaError, and stop the work when they are cancelled."""

    async def train(self, task: Train, model: bytes | Path, bundle: bytes) -> Outcome: ...

    async def evaluate(self, task: Evaluate, model: bytes | Path, bundle: bytes) -> Outcome: ...

    async def describe(self, task: Describe, bundle: bytes) -> Outcome: ...


class TaskRunner:
    """See the module.  All methods are called on the loop."""

    def __init__(
        self,
        artifacts: ArtifactStore,
        workers: Workers | None,
        supervisor: Supervisor,
        post: Callable[[Event], None],
    ) -> None:
        """Without ``workers`` this node refuses user code and does the rest."""
        self.counts: dict[str, int] = {}
        self._artifacts = artifacts
        self._workers = workers
        self._supervisor = supervisor
        self._post = post
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="compute")
        self._running: dict[int, asyncio.Task[Any]] = {}

    @property
    def running(self) -> int:
        return len(self._running)

    def start(self, job: int, task: Any) -> None:
        """Run ``task``; ``ComputeDone(job, …)`` follows unless it is cancelled."""
        name = describe(task)
        self.counts[name] = self.counts.get(name, 0) + 1
        self._running[job] = self._supervisor.spawn(self._run(job, task), "compute")

    def cancel(self, job: int) -> None:
        if (running := self._running.pop(job, None)) is not None:
            running.cancel()

    def close(self) -> None:
        """Stop everything.  A merge that is under way in a thread ends by itself."""
        for job in list(self._running):
            self.cancel(job)
        self._threads.shutdown(wait=True)

    async def _run(self, job: int, task: Any) -> None:
        result, error = None, "internal error; the daemon's log has it"
        with self._supervisor.guard("compute"):
            try:
                result, error = await self._execute(task), ""
            except MyceliaError as failure:
                error = _told(failure)
        if self._running.pop(job, None) is not None:
            self._post(ComputeDone(job, result, error))

    async def _execute(self, task: Any) -> Contribution | Merged | Finished:
        match task:
            case Merge():
                return await self._merge(task)
            case Finish():
                return await self._finish(task)
            case Train() | Evaluate() | Describe():
                return await self._work(task)
            case _:
                raise UsageError(f"nobody computes {describe(task)}")

    async def _merge(self, task: Merge) -> Merged:
        with ExitStack() as held:
            inputs = [
                self._buffer(value, held) if not value.blob or self._artifacts.has(value.blob) else None
                for value in task.inputs
            ]
            here = [content for content in inputs if content is not None]
            merged, content = await self._off_loop(here, lambda: execute.merge(task, inputs))
        return execute.with_value(merged, await self._value(content)) if content else merged

    async def _finish(self, task: Finish) -> Finished:
        spec = task.spec
        with ExitStack() as held:
            model, state, total = inputs = [self._buffer(value, held) for value in (task.model, task.state, task.total)]
            after, kept = await self._off_loop(
                inputs, lambda: aggregate.finish(spec.strategy, spec.options, model, state, total, task.weight)
            )
        return Finished(await self._value(after), await self._value(kept))

    async def _work(self, task: Train | Evaluate | Describe) -> Contribution:
        workers = self._workers
        if workers is None:
            raise UsageError("this node runs no user code", "set [worker] enabled, and install the extra 'torch'")
        bundle = await self._content(task.spec.bundle)
        with ExitStack() as held:
            if isinstance(task, Describe):
                value, weight, metrics = await workers.describe(task, bundle)
            elif isinstance(task, Train):
                value, weight, metrics = await workers.train(task, self._source(task.model, held), bundle)
            else:
                value, weight, metrics = await workers.evaluate(task, self._source(task.model, held), bundle)
        return Contribution(await self._value(value), weight, metrics)

    # ---- values -----------------------------------------------------------------------------------------------------

    def _buffer(self, value: Value, held: ExitStack) -> Buffer:
        return held.enter_context(self._artifacts.mapped(value.blob)) if value.blob else value.inline

    def _source(self, value: Value, held: ExitStack) -> bytes | Path:
        """What a worker process can read itself, it does."""
        return held.enter_context(self._artifacts.using(value.blob)) if value.blob else value.inline

    async def _content(self, value: Value) -> bytes:
        return await self._artifacts.read(value.blob) if value.blob else value.inline

    async def _value(self, content: bytes) -> Value:
        if not content:
            return EMPTY
        if len(content) <= INLINE_LIMIT:
            return Value(len(content), content)
        return Value(len(content), blob=await self._artifacts.put(content))

    async def _off_loop(self, inputs: list[Buffer], work: Callable[[], T]) -> T:
        if sum(len(buffer) for buffer in inputs) <= SMALL:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _told(failure: MyceliaError) -> str:
    """One line for the sentence, and further ones for the traceback if user code raised."""
    sentence = " ".join(str(failure).split())
    return f"{sentence}\n{failure.trace}" if isinstance(failure, AppError) and failure.trace else sentence
