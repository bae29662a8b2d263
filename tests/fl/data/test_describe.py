"""What a node tells about its data, and what it keeps to itself."""

from __future__ import annotations

import numpy as np

from fl import metrics
from fl.data.dataset import Dataset
from fl.data.describe import describe
from fl.spec import Field

LABELS = {"y": Field("int64", classes=3)}


def data(samples: int, features: int = 2) -> Dataset:
    x = np.arange(samples * features, dtype=np.float32).reshape(samples, features)
    return Dataset({"x": x, "y": np.arange(samples) % 2})


def test_sums_of_two_nodes_add_up_to_the_whole() -> None:
    whole = data(12)
    parts = [whole.take(np.arange(0, 5)), whole.take(np.arange(5, 12))]
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in describe(part, LABELS).items():
            totals[name] = totals.get(name, 0.0) + value
    assert totals["samples"] == 12
    assert [totals[f"label.{label}"] for label in range(3)] == [6, 6, 0]
    means = metrics.means(totals)
    assert means["label.0"] == 0.5
    assert means["mean.x.1"] == whole["x"][:, 1].mean()


def test_a_mean_over_few_samples_would_tell_their_values() -> None:
    assert not any(name.startswith("mean") for name in describe(data(4), LABELS))


def test_wide_fields_and_many_classes_stay_within_a_message() -> None:
    wide = describe(data(20, 100), {"y": Field("int64", classes=1000)})
    assert [name for name in wide if not name.endswith(".n")] == ["samples", "mean.x"]
    many = Dataset({f"f{i}": np.zeros((9, 8), np.float32) for i in range(16)})
    assert len(describe(many, {})) <= 64
