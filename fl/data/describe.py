"""What a node tells about its data before training: counts, means and a label histogram, as metric sums.

Sums add up the tree like any metric (:mod:`fl.metrics`): ``samples`` sums to the total and averages to the mean per
node; ``label.3`` sums to the number of threes and averages to their share; ``mean.x.5`` averages to the mean of feature
5.  A sum over very few samples would tell their values, so means are given from ``PRIVATE`` samples on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fl.spec import Field

from .dataset import Dataset

MAX_CLASSES = 16
MAX_FEATURES = 8
"""Per field; wider ones are averaged into one number.  Together they stay within what one message carries."""
PRIVATE = 5


def describe(data: Dataset, fields: Mapping[str, Field]) -> dict[str, float]:
    """Metric sums of ``data``, at most 64 numbers."""
    samples = float(len(data))
    result = {"samples": samples, "samples.n": 1.0}
    for name in data.fields:
        classes = fields[name].classes if name in fields else 0
        array = data[name]
        if 0 < classes <= MAX_CLASSES:
            counts = np.bincount(array.reshape(-1), minlength=classes)
            summary = {f"label.{label}": float(count) for label, count in enumerate(counts)}
        elif not classes and samples >= PRIVATE and array.dtype.kind in "fiub":
            flat = array.reshape(len(data), -1).astype(np.float64)
            wide = flat.shape[1] > MAX_FEATURES
            sums = flat.mean(axis=1).sum(keepdims=True) if wide else flat.sum(axis=0)
            names = [f"mean.{name}"] if wide or not array.shape[1:] else [f"mean.{name}.{i}" for i in range(sums.size)]
            summary = dict(zip(names, sums.tolist(), strict=True))
        else:
            continue
        for key, value in summary.items():
            if len(result) <= 62 and len(key) <= 48:
                result[key], result[f"{key}.n"] = value, samples
    return result
