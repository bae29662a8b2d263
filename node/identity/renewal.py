"""When to make the next leaf.

At two thirds of its life, so that a third is left for whatever keeps a machine from renewing (asleep, out of disk, a
stopped process), and at once when the clock stands outside the leaf's window: then either the leaf is from before a
sleep, or it was made while the clock was wrong, and peers refuse it in both cases.  Pure; the daemon asks with its wall
clock at each wake-up and after each jump of that clock.
"""

from __future__ import annotations

from .certificates import Leaf


def renew_at(leaf: Leaf) -> int:
    """Unix seconds at which ``leaf`` is due for renewal."""
    return leaf.not_before + (leaf.not_after - leaf.not_before) * 2 // 3


def is_due(leaf: Leaf, now: int) -> bool:
    """Whether ``leaf`` is to be replaced at ``now`` (Unix seconds)."""
    return not leaf.not_before <= now < renew_at(leaf)


def seconds_left(leaf: Leaf, now: int) -> int:
    """Seconds until :func:`is_due` turns true if the clock runs steadily; 0 when it is."""
    return 0 if is_due(leaf, now) else renew_at(leaf) - now
