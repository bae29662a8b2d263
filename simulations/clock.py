"""Virtual time: a heap of calls keyed ``(time_ns, sequence number)``.

Time is an integer number of nanoseconds and ties are broken by the order of scheduling (iroh-gossip's simulator), so
that a run is a function of its seed alone.  Nothing is ever removed from the heap: whoever cancels leaves the entry
where it is and recognises it as stale when it comes up.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Any

from protocol.errors import MyceliaError

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000

Call = Callable[..., None]


class StepLimitError(MyceliaError):
    """A run made more steps than it was allowed: something talks to itself for ever."""


class StuckError(MyceliaError):
    """Nothing is left to happen, or the time is up, and what was waited for did not come."""


class Schedule:
    """The clock and everything that is still to happen."""

    __slots__ = ("_heap", "_sequence", "limit", "now", "steps")

    def __init__(self, limit: int = 1 << 62) -> None:
        self.now = 0
        self.steps = 0
        self.limit = limit
        self._heap: list[tuple[int, int, Call, tuple[Any, ...]]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, time: int, call: Call, *args: Any) -> None:
        """Have ``call(*args)`` made at ``time`` (ns), or now if that is past."""
        self._sequence = sequence = self._sequence + 1
        if time < self.now:
            time = self.now
        heappush(self._heap, (time, sequence, call, args))

    def after(self, delay: int, call: Call, *args: Any) -> None:
        """Have ``call(*args)`` made ``delay`` ns from now."""
        self.at(self.now + delay, call, *args)

    def run(self, until: int) -> None:
        """Make every call due up to and including ``until``; the clock then stands at ``until``.

        Raises StepLimitError when the limit of steps is reached.
        """
        heap, steps, limit = self._heap, self.steps, self.limit
        with _collector_paused():
            try:
                while heap and heap[0][0] <= until:
                    time, _, call, args = heappop(heap)
                    self.now = time
                    steps += 1
                    call(*args)
                    if steps > limit:
                        raise StepLimitError(
                            f"more than {limit} steps by {self.now / SECOND:.3f} s of virtual time",
                            "raise the limit of steps, or look for parts that answer each other for ever",
                        )
            finally:
                self.steps = steps
        self.now = max(self.now, until)

    def run_until(self, satisfied: Callable[[], bool], timeout: int, step: int = 100 * MILLISECOND) -> int:
        """Run until ``satisfied()``, looking every ``step`` ns; returns the time it took, in ns.

        Raises StuckError after ``timeout`` ns, or when nothing is left that could change the answer.
        """
        start = self.now
        deadline = start + timeout
        while not satisfied():
            if self.now >= deadline or not self._heap:
                raise StuckError(f"still waiting at {self.now / SECOND:.3f} s; next: {self.pending(5)}")
            self.run(min(deadline, max(self.now + step, self._heap[0][0])))
        return self.now - start

    def pending(self, count: int) -> list[str]:
        """The next ``count`` entries, for people."""
        return [f"{time / SECOND:.6f} {call.__qualname__}" for time, _, call, _ in sorted(self._heap)[:count]]


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Cycles are rare here and a full collection walks every node: at 10^5 nodes it would cost more than the run."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
