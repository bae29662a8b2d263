"""Named arrays with one entry per sample."""

from __future__ import annotations

import numpy as np
import pytest

from fl.data.dataset import Dataset, concat
from protocol.errors import ConfigError

DATA = Dataset({"x": np.arange(10).reshape(5, 2), "y": np.arange(5)})


def test_batches_cover_all_samples_once() -> None:
    batches = list(DATA.batches(2, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert sorted(np.concatenate([batch["y"] for batch in batches]).tolist()) == [0, 1, 2, 3, 4]
    assert [batch["y"].tolist() for batch in DATA.batches(3)] == [[0, 1, 2], [3, 4]]


def test_samples_are_taken_with_all_their_fields() -> None:
    taken = DATA.take(np.array([4, 0]))
    assert taken["x"].tolist() == [[8, 9], [0, 1]]
    assert len(concat([taken, DATA])) == 7
    assert "x" in DATA
    assert "z" not in DATA
    assert DATA.fields == ("x", "y")


@pytest.mark.parametrize("arrays", [{}, {"x": np.zeros(2), "y": np.zeros(3)}, {"x": np.float64(1)}])
def test_fields_of_different_lengths_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ConfigError, match="one entry per sample"):
        Dataset(arrays)
