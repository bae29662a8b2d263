"""What a machine may ask to be computed, and what comes back (``Compute`` / ``ComputeDone``).

Tasks name artifacts; the driver resolves them, runs user code in a worker process and everything else on its own
executor.  The simulator runs the same tasks on integers and charges a cost model.
"""

from __future__ import annotations

from typing import Any, dataclass_transform

import msgspec

from protocol.ids import AppId
from protocol.messages import Value

from .spec import AppSpec


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Task(msgspec.Struct, frozen=True, gc=False):
    app: AppId


class Train(Task):
    """Run the application's ``train`` on local data, from ``model``, and before it ``evaluate`` if asked for."""

    spec: AppSpec
    round: int
    model: Value
    seed: int
    """Derived from the application's seed, the round and the node, so that a replay trains alike."""
    evaluate: bool


class Evaluate(Task):
    """Run ``evaluate`` alone: the closing wave of a run."""

    spec: AppSpec
    round: int
    model: Value


class Describe(Task):
    """Counts, means and label histogram of the local data, as metric sums."""

    spec: AppSpec


class Merge(Task):
    """Add the ``inputs`` in the given order (child-id order) in double precision, but for those that cannot be added:
    each is compared with what the descriptor says of the model, never with another input."""

    spec: AppSpec
    inputs: tuple[Value, ...]
    members: tuple[int, ...]
    """How many contributors stand behind each input: bounds are so much per contributor."""


class Finish(Task):
    """From the last model, the merged partial and the server's state to the next model."""

    spec: AppSpec
    round: int
    model: Value
    state: Value
    total: Value
    weight: float


class Contribution(msgspec.Struct, frozen=True, gc=False):
    """Result of Train, Evaluate and Describe.

    ``value`` is the *weighted sum*: ``weight × (local − global)`` for training, empty for the others.
    ``metrics`` are weighted sums too, each beside its weight ``NAME.n``.
    """

    value: Value
    weight: float
    metrics: dict[str, float]


class Merged(msgspec.Struct, frozen=True, gc=False):
    """Result of Merge.  What was left out is named by its index among the inputs."""

    value: Value
    """The sum; the input itself when only one was added, empty when none was."""
    rejected: tuple[int, ...] = ()
    """Not tensors, other tensors than the model's, or numbers that nobody can have: whoever handed one in could have
    seen it."""
    lost: tuple[int, ...] = ()
    """Not in this node's store any more: nobody's fault."""


class Finished(msgspec.Struct, frozen=True, gc=False):
    """Result of Finish."""

    model: Value
    state: Value


def describe(task: Any) -> str:
    """A short name for logs."""
    return type(task).__name__.lower()
