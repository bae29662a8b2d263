"""Long work as an effect: a task goes out as ``Compute`` and its result comes back as an event (dask's worker)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol.effects import CancelCompute, Compute, Outbox
from protocol.events import ComputeDone

from .tasks import Task

Continuation = Callable[[Any, str, int], None]
"""Called with (result, error sentence, now); the result is None when there is an error."""


class Jobs:
    """The computations that a node is waiting for."""

    __slots__ = ("_next", "_out", "_waiting")

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._next = 1
        self._waiting: dict[int, Continuation] = {}

    def run(self, task: Task, then: Continuation) -> int:
        """Start ``task``; ``then`` hears of its end unless the job is cancelled first."""
        job, self._next = self._next, self._next + 1
        self._waiting[job] = then
        self._out.effects.append(Compute(job, task))
        return job

    def cancel(self, job: int) -> None:
        if self._waiting.pop(job, None) is not None:
            self._out.effects.append(CancelCompute(job))

    def done(self, event: ComputeDone, now: int) -> None:
        then = self._waiting.pop(event.job, None)
        if then is not None:
            then(event.result, event.error, now)

    def __len__(self) -> int:
        return len(self._waiting)
