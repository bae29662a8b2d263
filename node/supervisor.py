"""The one place where an unexpected exception stops.

A daemon survives its own bugs: a failing step or task is logged with its traceback, counted, and shows in ``status``;
the rest goes on.  Everywhere else exceptions are either expected and typed, or travel up to here.  The supervisor
also owns every task, so that nothing outlives the daemon and no exception is lost with a forgotten task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

log = logging.getLogger("mycelia.node")


class Guard:
    """``with supervisor.guard("what"):`` — an exception inside is logged and counted instead of raised."""

    __slots__ = ("_supervisor", "_what")

    def __init__(self, supervisor: Supervisor, what: str) -> None:
        self._supervisor = supervisor
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        # Not for CancelledError, KeyboardInterrupt and the like, which are no failures.
        if not isinstance(error, Exception):
            return False
        self._supervisor.report(self._what, error)
        return True


class Supervisor:
    """Owns tasks; counts and logs what fails."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        """By what failed.  Anything here is a bug of ours."""
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def spawn(self, coroutine: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[Any]:
        """Run ``coroutine`` as a task of the daemon.  ``what`` is a fixed phrase: it becomes a metric."""
        task = asyncio.get_running_loop().create_task(self._run(coroutine, what), name=what)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        # A task that is cancelled before its first step would leave the coroutine never awaited.
        task.add_done_callback(lambda _: coroutine.close())
        return task

    def guard(self, what: str) -> Guard:
        return Guard(self, what)

    def report(self, what: str, error: BaseException) -> None:
        self.failures[what] = self.failures.get(what, 0) + 1
        log.error("%s failed: %r", what, error, exc_info=error)

    async def close(self) -> None:
        """Cancel every task and wait until all have ended."""
        current = asyncio.current_task()
        while tasks := [task for task in self._tasks if task is not current]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _run(self, coroutine: Coroutine[Any, Any, Any], what: str) -> None:
        with self.guard(what):
            await coroutine
