"""Counter-based random streams.

Protocol code may not touch global randomness.  A :class:`Stream` is two integers: a key, derived from the root
seed and the purpose it serves, and a counter.  Draw ``n`` is a mix of the two (SplitMix64, Steele, Lea & Flood
2014), so streams are cheap (no 2.5 kB ``random.Random`` per node), independent, and adding a draw to one purpose
never shifts the draws of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import MutableSequence, Sequence
from typing import TypeVar

T = TypeVar("T")

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class Stream:
    """A seeded sequence of draws for one purpose."""

    __slots__ = ("_counter", "_key")

    def __init__(self, seed: int, *purpose: str | bytes | int) -> None:
        hasher = hashlib.blake2b(repr(seed).encode(), digest_size=8)
        for part in purpose:
            raw = repr(part).encode()
            hasher.update(len(raw).to_bytes(4, "big") + raw)
        self._key = int.from_bytes(hasher.digest(), "big")
        self._counter = 0

    def bits(self) -> int:
        """64 uniform bits."""
        self._counter += 1
        return _mix((self._key + self._counter * _GOLDEN) & _MASK)

    def token(self) -> int:
        """63 bits for others to see: unlike :meth:`bits`, they tell nothing of the draws before and after them."""
        drawn = hashlib.blake2b(self.bits().to_bytes(8, "big"), digest_size=8, person=b"token").digest()
        return int.from_bytes(drawn, "big") >> 1

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform in ``[low, high)``."""
        return low + (high - low) * (self.bits() >> 11) / (1 << 53)

    def below(self, n: int) -> int:
        """Uniform in ``[0, n)``; the bias of the multiply-shift is below ``n / 2^64``."""
        return (self.bits() * n) >> 64

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """``k`` distinct items (all of them when there are fewer), in random order."""
        pool = list(items)
        self.shuffle(pool)
        return pool[:k]

    def shuffle(self, items: MutableSequence[T]) -> None:
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]

    def raw(self, n: int) -> bytes:
        return b"".join(self.bits().to_bytes(8, "big") for _ in range(-(-n // 8)))[:n]
