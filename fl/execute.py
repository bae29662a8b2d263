"""What a task does with its inputs, the same under every driver.

A driver finds the contents that a task names, calls this, off its loop if they are large, and makes values of what
comes back.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.messages import EMPTY, Value

from . import aggregate
from .aggregate import Buffer
from .tasks import Merge, Merged


def merge(task: Merge, inputs: Sequence[Buffer | None]) -> tuple[Merged, bytes]:
    """Result and content of the sum; no content when the result holds its value already, since fewer than two inputs
    were added.  ``inputs``: the contents that the task names; None for one that is not here any more.

    One bad input costs itself and nothing else.  Raises AggregationError when the descriptor does not say what an
    input has to be.
    """
    layout = aggregate.layout_in(task.spec)
    lost = tuple(index for index, content in enumerate(inputs) if content is None)
    found = [(index, content) for index, content in enumerate(inputs) if content is not None]
    kept = [(index, content) for index, content in found if aggregate.fits(content, layout, task.members[index])]
    good = [index for index, _ in kept]
    rejected = tuple(index for index, _ in found if index not in good)
    value = task.inputs[good[0]] if len(good) == 1 else EMPTY
    content = aggregate.merge([content for _, content in kept]) if len(good) > 1 else b""
    return Merged(value, rejected, lost), content


def with_value(merged: Merged, value: Value) -> Merged:
    """``merged`` with the value that the driver made of the content."""
    return Merged(value, merged.rejected, merged.lost)
