"""Real learning under virtual time: the compute port that runs the user's own functions, in this process.

What the daemon hands to a worker process, the emulation calls directly, so a debugger stops in user code and the rest
of the fabric waits with it.  The result of a task depends on nothing but its inputs (``fl.learn.inline``); how long it
is said to take is drawn from the seed, so the emulated fabric has fast and slow nodes and the run is repeatable.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fl import aggregate, execute, tasks
from protocol.errors import MyceliaError
from protocol.ids import NodeId
from protocol.messages import EMPTY, INLINE_LIMIT, Value
from protocol.streams import Stream

from .artifacts import Artifacts
from .clock import MILLISECOND, SECOND
from .compute import Outcome
from .host import Host

if TYPE_CHECKING:
    from fl.learn.inline import InlineRunner


class LearningCompute:
    """Runs ``fl.tasks`` with one ``InlineRunner`` per node."""

    def __init__(self, runners: Mapping[NodeId, InlineRunner], artifacts: Artifacts, seed: int) -> None:
        self._runners, self._artifacts, self._seed = runners, artifacts, seed
        # By name: torch must not be imported by whoever merely reads this package.
        self._job = importlib.import_module("fl.learn.inline").Job
        self._tasks = 0

    def run(self, host: Host, task: Any) -> Outcome:
        """Raises nothing: an error of user code comes back as a sentence, as from a worker process."""
        self._tasks += 1
        took = self._duration(host, task)
        try:
            return Outcome(self._result(host, task), "", took)
        except MyceliaError as error:
            return Outcome(None, str(error), took)

    def _result(self, host: Host, task: Any) -> Any:
        if isinstance(task, tasks.Merge):
            merged, content = execute.merge(task, [self._found(host, value) for value in task.inputs])
            return execute.with_value(merged, self.value(host, content)) if content else merged
        if isinstance(task, tasks.Finish):
            model, state = aggregate.finish(
                task.spec.strategy, task.spec.options, self.content(task.model), self.content(task.state),
                self.content(task.total), task.weight,
            )  # fmt: skip
            return tasks.Finished(self.value(host, model), self.value(host, state))
        runner = self._runners[host.id]
        if isinstance(task, tasks.Describe):
            sums = runner.describe(task.spec.schema)
            return tasks.Contribution(EMPTY, sums.get("samples", 1.0), sums)
        job = self._job(
            seed=getattr(task, "seed", 0), round=task.round, rounds=task.spec.rounds, options=task.spec.options,
            evaluate=getattr(task, "evaluate", False),
        )  # fmt: skip
        if isinstance(task, tasks.Evaluate):
            return tasks.Contribution(EMPTY, 1.0, runner.evaluate(self.content(task.model), job))
        update, weight, sums = runner.train(self.content(task.model), job)
        return tasks.Contribution(self.value(host, update), weight, sums)

    def content(self, value: Value) -> bytes:
        """The bytes that ``value`` holds or names."""
        return bytes(self._artifacts.content(value.blob)) if value.blob else value.inline

    def _found(self, host: Host, value: Value) -> bytes | None:
        return None if value.blob and not self._artifacts.holds(host, value.blob) else self.content(value)

    def value(self, host: Host, content: bytes) -> Value:
        """``content`` as a value; ``host`` then holds it if it is too large to ride along."""
        if len(content) > INLINE_LIMIT:
            return Value(len(content), b"", self._artifacts.create(host, len(content), content))
        return Value(len(content), content)

    def _duration(self, host: Host, task: Any) -> int:
        """Virtual time: a node is up to four times as fast as another, merging is nearly free."""
        if isinstance(task, tasks.Merge | tasks.Finish):
            return MILLISECOND
        speed = Stream(self._seed, "speed", host.index).uniform(0.5, 2.0)
        jitter = Stream(self._seed, "job", self._tasks).uniform(0.9, 1.1)
        return int(SECOND * speed * jitter * (1.0 if isinstance(task, tasks.Train) else 0.1))
