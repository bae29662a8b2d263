"""Names, options and their ranges."""

from __future__ import annotations

import numpy as np
import pytest

from fl import strategies
from fl.spec import Scalar
from protocol.errors import UsageError


def test_fedavg_moves_by_the_mean_and_keeps_nothing() -> None:
    step = strategies.create("fedavg", {"server_lr": 0.5, "lr": "not ours"})
    moved, _ = step(np.array([2.0]), np.zeros(1))
    assert moved.tolist() == [1.0]
    assert not step.keeps_state


def test_fedavgm_without_momentum_is_fedavg() -> None:
    mean = np.array([1.0, -2.0])
    moved, _ = strategies.create("fedavgm", {"server_momentum": 0})(mean, np.ones(2))
    assert moved.tolist() == mean.tolist()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("krum", {}, "no strategy 'krum'"),
        ("fedavg", {"server_lr": "fast"}, "server_lr"),
        ("fedavg", {"server_lr": -1.0}, "server_lr"),
        ("fedavg", {"server_lr": float("nan")}, "server_lr"),
        ("fedavg", {"server_lr": float("inf")}, "server_lr"),
        ("fedavg", {"server_lr": True}, "server_lr"),
        ("fedavgm", {"server_momentum": 1.0}, "server_momentum"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, options: dict[str, Scalar], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        strategies.create(name, options)
