"""The bare loop: what a run must give when nothing but arithmetic happens.

From the first model and, for each round, who contributed with which seed, every round is computed again: the same
runner trains, local models are averaged in float64 by three lines of numpy, and no code of the fabric takes part — no
partials, no merge, no server step of :mod:`fl.aggregate`.  What the fabric produced must agree to 1e-5; the rest is the
rounding of its float32 partials, one per level of the tree.

The bound is for smooth models.  Where a network has kinks (ReLU), a difference in the last bit can put one sample on
the other side of one, and further rounds make more of it: digits with ReLU reached 7e-5 in one of 16 runs, with tanh
never 1e-6.

Plain averaging is what FedAvg with ``server_lr`` 1 means, so this is for such runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from . import codec
from .data.dataset import Split, concat
from .learn.inline import InlineRunner, Job
from .sdk import App
from .spec import Scalar


class Round(NamedTuple):
    """One committed round as it was logged."""

    number: int
    contributors: Sequence[tuple[str, int]]
    """``(node label, task seed)`` of each."""


def replay(
    app: App, initial: bytes, rounds: Sequence[Round], data: Mapping[str, Split], options: Mapping[str, Scalar]
) -> Iterator[bytes]:
    """The model after each of ``rounds``, as float32 tensors.  Raises KeyError for a contributor without data."""
    runners = {label: InlineRunner(app, split, node=label, emit=_silent) for label, split in data.items()}
    model = initial
    for number, contributors in rounds:
        fits = [runners[label].fit(model, Job(seed, number, app.rounds, dict(options))) for label, seed in contributors]
        weights = np.array([fit.weight for fit in fits])
        model = codec.encode(
            {
                name: np.tensordot(weights, np.stack([fit.tensors[name].astype(np.float64) for fit in fits]), 1)
                / weights.sum()
                for name in fits[0].tensors
            }
        )
        yield model


def central(
    app: App, initial: bytes, data: Sequence[Split], options: Mapping[str, Scalar], rounds: int, seed: int
) -> bytes:
    """The same training on all data in one place: ``rounds`` rounds of one worker that has every node's samples."""
    together = Split(concat([split.train for split in data]), concat([split.test for split in data]))
    runner = InlineRunner(app, together, emit=_silent)
    model = initial
    for number in range(1, rounds + 1):
        model = codec.encode(runner.fit(model, Job(seed + number, number, rounds, dict(options))).tensors)
    return model


def max_abs_diff(a: bytes, b: bytes) -> float:
    """Largest difference between two models in any weight.  Raises KeyError when tensors differ in name."""
    first, second = codec.decode(a), codec.decode(b)
    differences = [np.abs(first[name].astype(np.float64) - second[name]).max(initial=0.0) for name in first | second]
    return float(max(differences, default=0.0))


def _silent(_: str) -> None:
    pass
