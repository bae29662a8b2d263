"""What the root does with the mean update: the server's optimiser.

FedAvg (McMahan et al. 2017, algorithm 1) adds the mean.  FedAvgM (Hsu, Qi & Brown 2019, section 3) keeps a velocity,
``v ← β v + Δ; x ← x + η v``, which steadies rounds in which only some workers take part and their labels are skewed.
A strategy is elementwise, so that it works on one block of a model at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from . import validation
from .spec import Scalar

Block = NDArray[np.float64]


class Strategy(Protocol):
    """One server step on a block of float64, shape (n,)."""

    @property
    def keeps_state(self) -> bool: ...

    def __call__(self, mean: Block, state: Block) -> tuple[Block, Block]:
        """``(movement of the model, next state)`` from the mean update and the state, zero at first."""
        ...


@dataclass(frozen=True, slots=True)
class FedAvg:
    """The model moves by ``server_lr`` times the mean update."""

    server_lr: float = 1.0

    keeps_state: ClassVar[bool] = False

    def __call__(self, mean: Block, state: Block) -> tuple[Block, Block]:
        return self.server_lr * mean, state


@dataclass(frozen=True, slots=True)
class FedAvgM:
    """Server momentum ``server_momentum`` in ``[0, 1)``.  A steady update is amplified by 1/(1 − β): scale
    ``server_lr`` accordingly."""

    server_lr: float = 1.0
    server_momentum: float = 0.9

    keeps_state: ClassVar[bool] = True

    def __call__(self, mean: Block, state: Block) -> tuple[Block, Block]:
        velocity = self.server_momentum * state + mean
        return self.server_lr * velocity, velocity


def create(name: str, options: Mapping[str, Scalar]) -> Strategy:
    """The strategy called ``name`` with its options among ``options``; those of others are not looked at.

    Raises UsageError for an unknown name or a value out of range.
    """
    validation.strategy(name, options)
    chosen = {key: float(options[key]) for key in validation.STRATEGIES[name] if key in options}
    return _MAKERS[name](**chosen)


_MAKERS: Mapping[str, Callable[..., Strategy]] = {"fedavg": FedAvg, "fedavgm": FedAvgM}
