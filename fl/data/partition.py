"""Cutting one data set into the shares of many nodes, alike on every machine.

The draws come from numpy's ``RandomState``, whose streams are frozen for all future versions (NEP 19): nodes with
different numpy must agree on who has what.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigError
from protocol.streams import Stream

Indices = NDArray[np.intp]

MINIMUM = 2
"""Samples that the poorest share has: one to train on, one to measure."""


def generator(seed: int, *purpose: str | int) -> np.random.RandomState:
    """An independent frozen stream for ``purpose``."""
    return np.random.RandomState(Stream(seed, *purpose).bits() >> 32)


def hold_out(samples: int, share: float, seed: int, *purpose: str | int) -> tuple[Indices, Indices]:
    """``(kept, held out)``: a random ``share`` of the indices is held out, rounded down but at least one of two or
    more, and never all.  Both sorted."""
    count = min(max(int(samples * share), 1), samples - 1) if share > 0 and samples > 1 else 0
    order = generator(seed, "holdout", *purpose).permutation(samples)
    return np.sort(order[count:]), np.sort(order[:count])


def iid(samples: int, parts: int, seed: int) -> list[Indices]:
    """Random shares whose sizes differ by one at most.  Raises ConfigError when there are too few samples."""
    _check(samples, parts)
    order = generator(seed, "iid", parts).permutation(samples)
    return [np.sort(share) for share in np.array_split(order, parts)]


def dirichlet(labels: NDArray[np.integer], parts: int, alpha: float, seed: int) -> list[Indices]:
    """Label-skewed shares (Hsu, Qi & Brown 2019, section 4): the samples of each class are dealt out in proportions
    drawn from Dirichlet(``alpha``).  Shares that end up below MINIMUM take from the largest.

    Raises ConfigError when there are too few samples.
    """
    _check(labels.size, parts)
    random = generator(seed, "dirichlet", parts)
    shares: list[list[int]] = [[] for _ in range(parts)]
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        proportions = random.dirichlet(np.full(parts, alpha))
        if not np.isfinite(proportions).all():  # every gamma draw underflowed: one node has the whole class
            proportions = np.eye(parts)[random.randint(parts)]
        cuts = np.floor(np.cumsum(proportions)[:-1] * members.size + 0.5).astype(np.intp)
        for share, dealt in zip(shares, np.split(members, cuts), strict=True):
            share.extend(dealt.tolist())
    for share in shares:
        while len(share) < MINIMUM:
            share.append(max(shares, key=len).pop())
    return [np.sort(np.array(share, np.intp)) for share in shares]


def _check(samples: int, parts: int) -> None:
    if samples < MINIMUM * parts:
        raise ConfigError(
            f"{samples} samples cannot be shared by {parts} nodes", f"use at most {max(samples // MINIMUM, 1)} parts"
        )
