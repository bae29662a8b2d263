"""The aggregator's part: from the partials of the children and one's own to one partial for the parent.

Weights, contributors and metric sums are merged here; the values, which may be whole models, are merged by a ``Merge``
task off the loop.  An input that the task refuses (other shapes, NaN) is left out with all that it stood for, so that
one bad child costs its own subtree and nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protocol.ids import AppId
from protocol.messages import EMPTY, Value
from pubsub.messages import MAX_METRICS, Partial

from .jobs import Jobs
from .tasks import Merge, Merged


def merge_metrics(parts: Sequence[Partial]) -> dict[str, float]:
    """Sum by name, the first MAX_METRICS names in sorted order."""
    names = sorted({name for part in parts for name in part.metrics})[:MAX_METRICS]
    return {name: sum(part.metrics.get(name, 0.0) for part in parts) for name in names}


def join(parts: Sequence[Partial], value: Value) -> Partial:
    """One partial that stands for all ``parts``, whose values are already summed in ``value``."""
    return Partial(
        weight=sum(part.weight for part in parts),
        value=value,
        contributors=tuple(sorted(member for part in parts for member in part.contributors)),
        metrics=merge_metrics(parts),
    )


def combine(
    app: AppId,
    parts: Sequence[Partial],
    jobs: Jobs,
    then: Callable[[Partial | None, tuple[int, ...], int], None],
    now: int,
) -> None:
    """Merge ``parts`` in the order given and call ``then`` with the result and the indices of refused parts."""
    valued = [index for index, part in enumerate(parts) if part.value.size]
    if len(valued) < 2:
        value = parts[valued[0]].value if valued else EMPTY
        then(join(parts, value) if parts else None, (), now)
        return

    def merged(result: Merged | None, error: str, at: int) -> None:
        if result is None:
            then(None, tuple(range(len(parts))), at)
            return
        refused = tuple(valued[index] for index in result.rejected)
        kept = [part for index, part in enumerate(parts) if index not in refused]
        then(join(kept, result.value) if kept else None, refused, at)

    jobs.run(Merge(app, tuple(parts[index].value for index in valued)), merged)
