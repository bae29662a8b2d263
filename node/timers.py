"""All timers of a node behind one alarm of the loop.

A heap with lazy deletion: replacing or cancelling a timer only forgets its number, and what the heap still holds of
it is skipped when it comes up, or swept out when more than half of the heap is such refuse.
"""

from __future__ import annotations

import heapq

from protocol.events import Timer

_SWEEP = 64
"""Entries below which refuse is not worth sweeping."""


class Timers:
    """Named deadlines in ns of the driver's clock."""

    __slots__ = ("_current", "_heap", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer]] = []
        self._current: dict[Timer, int] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._current)

    def set(self, timer: Timer, at: int) -> None:
        """Due at ``at``; replaces a pending timer of the same name."""
        self._number += 1
        self._current[timer] = self._number
        heapq.heappush(self._heap, (at, self._number, timer))
        if len(self._heap) > 2 * len(self._current) + _SWEEP:
            self._heap = [entry for entry in self._heap if self._current.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def cancel(self, timer: Timer) -> None:
        self._current.pop(timer, None)

    def next_due(self) -> int | None:
        """When the earliest timer is due; None when there is none."""
        heap = self._heap
        while heap and self._current.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop(self, now: int) -> tuple[Timer, int] | None:
        """The earliest timer that is due by ``now``, with its due time; equal times come in the order of setting."""
        due = self.next_due()
        if due is None or due > now:
            return None
        _, _, timer = heapq.heappop(self._heap)
        del self._current[timer]
        return timer, due
