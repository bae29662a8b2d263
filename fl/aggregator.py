"""The aggregator's part: from the partials of the children and one's own to one partial for the parent.

Weights, contributors and metric sums are merged here; the values, which may be whole models, are merged by a ``Merge``
task off the loop.  An input that the task refuses (other shapes, NaN) is left out with all that it stood for, so that
one bad child costs its own subtree and nobody else.  Every value of a child is looked at, also one that needs no
adding: what is passed on is passed on in one's own name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from protocol.ids import NodeId
from protocol.messages import EMPTY, Value
from pubsub.heads import MAX_METRICS
from pubsub.messages import Partial
from pubsub.partials import WEIGHT

from .jobs import Jobs
from .spec import AppSpec
from .tasks import Merge, Merged


class Combined(msgspec.Struct, frozen=True, gc=False):
    """What became of some partials."""

    total: Partial | None
    """One that stands for those that were kept; None when there are none."""
    refused: tuple[int, ...] = ()
    """Indices of those that nobody may hand in."""
    lost: tuple[int, ...] = ()
    """Indices of those that could not be added, for which nobody is to blame."""

    @property
    def left_out(self) -> tuple[int, ...]:
        return self.refused + self.lost


def merge_metrics(parts: Sequence[Partial]) -> dict[str, float]:
    """Sum by name; of too many, the first in sorted order, each with its weight."""
    names = dict.fromkeys(name for part in parts for name in part.metrics)
    bases = sorted(dict.fromkeys(name.removesuffix(WEIGHT) for name in names))[: MAX_METRICS // 2]
    chosen = sorted(name for base in bases for name in (base, base + WEIGHT) if name in names)
    return {name: sum(part.metrics.get(name, 0.0) for part in parts) for name in chosen}


def join(parts: Sequence[Partial], value: Value) -> Partial:
    """One partial that stands for all ``parts``, whose values are already summed in ``value``."""
    return Partial(
        weight=sum(part.weight for part in parts),
        value=value,
        contributors=tuple(sorted(member for part in parts for member in part.contributors)),
        metrics=merge_metrics(parts),
    )


def combine(
    spec: AppSpec, parts: Sequence[Partial], me: NodeId, jobs: Jobs, then: Callable[[Combined, int], None], now: int
) -> None:
    """Merge ``parts`` in the order given and call ``then`` with the result.  The one of ``me`` alone is not looked at:
    this node made it."""
    valued = [index for index, part in enumerate(parts) if part.value.size]
    if not any(parts[index].contributors != (me,) for index in valued):
        value = parts[valued[0]].value if valued else EMPTY
        then(Combined(join(parts, value) if parts else None), now)
        return

    def merged(result: Merged | None, error: str, at: int) -> None:
        if result is None:
            then(Combined(None, lost=tuple(range(len(parts)))), at)
            return
        refused = tuple(valued[index] for index in result.rejected)
        lost = tuple(valued[index] for index in result.lost)
        kept = [part for index, part in enumerate(parts) if index not in refused + lost]
        then(Combined(join(kept, result.value) if kept else None, refused, lost), at)

    inputs = [parts[index] for index in valued]
    task = Merge(spec.id, spec, tuple(part.value for part in inputs), tuple(len(part.contributors) for part in inputs))
    jobs.run(task, merged)
