"""What must never happen, and what must have happened in the end.

Each checker watches a run from outside: the messages that leave, the writes that become durable, the state of cores at
intervals.  What it finds it reports as a :class:`Violation`; it changes nothing.
"""

from __future__ import annotations

from ..world import World
from .attendance import Attendances
from .base import Checker, Report, Violation
from .blame import Blame
from .bounds import Bounds
from .guardians import Guardians
from .heads import Heads
from .keeping import Keeping
from .liveness import Liveness
from .places import Places
from .rings import Rings
from .stickiness import Stickiness
from .trees import Trees
from .waves import Waves

__all__ = [
    "Attendances", "Blame", "Bounds", "Checker", "Guardians", "Heads", "Keeping", "Liveness", "Places", "Report",
    "Rings", "Stickiness", "Trees", "Violation", "Waves", "attach",
]  # fmt: skip


def attach(world: World, report: Report, *, exact: bool) -> tuple[Heads, list[Checker]]:
    """All checkers, watching ``world``.  ``exact``: contributions are integers, so that sums can be recomputed."""
    heads = Heads(world, report, exact=exact)
    others: list[Checker] = [
        Waves(world, report, heads, exact=exact),
        Attendances(world, report, heads),
        Trees(world, report),
        Places(world, report),
        Rings(world, report),
        Bounds(world, report),
        Blame(world, report),
        Keeping(world, report, heads),
        Stickiness(world, report),
        Guardians(world, report, heads),
        Liveness(world, report, heads),
    ]
    return heads, [heads, *others]
