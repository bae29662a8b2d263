"""How an operator binds a name to local data.

Applications ask for data by name; where it lies and what it looks like is the operator's business.  The keys are those
of ``[data.NAME]`` in a node's configuration, and an SDK user writes them in Python for ``app.run(data=[...])``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Local samples, or this node's share of a common data set."""

    kind: Literal["digits", "npz", "csv"]
    """``digits`` (8×8 digits shipped with the package), ``npz`` (one array per field) or ``csv`` (with a header)."""
    path: str = ""
    """File of ``npz`` and ``csv``."""
    columns: tuple[str, ...] = ()
    """For ``csv``: feature columns, in order; they become field ``x``.  Default: all but the target.  Any other field
    of an application's schema is the column of its name."""
    target: str = ""
    """For ``csv``: the column that becomes field ``y``."""
    partition: Literal["all", "iid", "dirichlet"] = "all"
    """Which samples this node takes: ``all``, or share ``part`` of ``parts``."""
    part: int = 0
    """Number of this node's share, from 0."""
    parts: int = 1
    """Number of shares that the data set is cut into; the same on all nodes."""
    alpha: float = 0.5
    """For ``dirichlet``: concentration of the label skew."""
    seed: int = 0
    """Seed of the partition; the same on all nodes, or shares overlap."""
    holdout: float = 0.2
    """Share kept for evaluation and never trained on. Of a data set that is partitioned, it is taken off the whole, so
    that no node has it, and each node keeps half as much again of its own share."""


def shares(kind: Literal["digits"], parts: int, *, alpha: float | None = None, seed: int = 0) -> list[Binding]:
    """One binding per node for a data set of the package, cut into ``parts``: Dirichlet(``alpha``), or IID for None."""
    how: Literal["iid", "dirichlet"] = "iid" if alpha is None else "dirichlet"
    return [
        Binding(kind=kind, partition=how, part=part, parts=parts, alpha=alpha or 0.5, seed=seed)
        for part in range(parts)
    ]
