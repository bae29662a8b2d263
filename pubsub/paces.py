"""How often somebody may do something: a bucket for each, filled up at a steady pace.

A key that nobody asked about for long is forgotten first, and is then met with a full bucket: the table bounds memory,
and whoever can fill it with keys of its own is bounded by something else.
"""

from __future__ import annotations


class Paces:
    """``burst`` times in quick succession, then once per ``pause`` ns; remembered for the ``capacity`` latest keys."""

    __slots__ = ("_buckets", "_burst", "_capacity", "_pause")

    def __init__(self, burst: int, pause: int, capacity: int) -> None:
        self._burst, self._pause, self._capacity = burst, pause, capacity
        self._buckets: dict[bytes, tuple[int, int]] = {}
        """Key → (what is left, since when, ns)."""

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: bytes, now: int) -> bool:
        """Once more?  True when that is within the pace of ``key``."""
        left, since = self._buckets.pop(key, (self._burst, now))
        gained = (now - since) // self._pause
        left, since = min(left + gained, self._burst), since + gained * self._pause
        self._buckets[key] = (max(left - 1, 0), since)
        if len(self._buckets) > self._capacity:
            del self._buckets[next(iter(self._buckets))]
        return left > 0
