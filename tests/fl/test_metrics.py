"""Weighted sums that add up in any order."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl import metrics
from protocol.errors import UsageError


def test_means_come_back_weighted() -> None:
    totals = metrics.sums({"loss": 1.0, "accuracy": 0.5}, 10)
    for name, value in metrics.sums({"loss": 4.0}, 20).items():
        totals[name] += value
    assert metrics.means(totals) == {"loss": 3.0, "accuracy": 0.5}


def test_a_mean_that_is_not_finite_is_left_out() -> None:
    assert metrics.sums({"loss": math.nan, "accuracy": 1.0}, 2) == {"accuracy": 2.0, "accuracy.n": 2.0}


@pytest.mark.parametrize("name", ["", "a b", "loss.n", "x" * 49, "é", ".hidden"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a metric"):
        metrics.sums({name: 1.0}, 1)


def test_values_are_numbers_and_few() -> None:
    with pytest.raises(UsageError, match="loss is a str"):
        metrics.sums({"loss": "low"}, 1)  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="33 metrics"):
        metrics.sums({f"m{i}": 0.0 for i in range(33)}, 1)


@given(st.dictionaries(st.text(max_size=6), st.floats(), max_size=8))
def test_means_of_anything_raise_nothing(totals: dict[str, float]) -> None:
    metrics.means(totals)
