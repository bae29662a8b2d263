"""Virtual time for networks that a test plays: what is to happen, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable

SECOND = 1_000_000_000


class Happenings:
    """A clock that goes on only when something happens.  Of two things at one moment the first planned comes first."""

    def __init__(self, now: int) -> None:
        self.now = now
        """ns."""
        self._planned: list[tuple[int, int, Callable[[], object]]] = []
        self._count = 0

    def serial(self) -> int:
        """Another number each time."""
        self._count += 1
        return self._count

    def after(self, delay: int, happening: Callable[[], object]) -> None:
        heapq.heappush(self._planned, (self.now + delay, self.serial(), happening))

    def run(self, span: int) -> None:
        self.run_until(lambda: False, span, must=False)

    def run_until(self, condition: Callable[[], bool], limit: int = 120 * SECOND, *, must: bool = True) -> None:
        """Until ``condition`` holds; AssertionError when it does not within ``limit`` ns."""
        end = self.now + limit
        while not condition():
            if not self._planned or self._planned[0][0] > end:
                self.now = end
                assert not must, "the condition did not come true in time"
                return
            self.now, _, happening = heapq.heappop(self._planned)
            happening()
