"""What the user's functions receive: named arrays whose first axis is the sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ConfigError

Array = NDArray[Any]


class Dataset:
    """``data["x"]`` is an array of shape (samples, …); ``len(data)`` is the number of samples."""

    __slots__ = ("_arrays", "_samples")

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        """Raises ConfigError when there is no array or their first axes differ."""
        lengths = {name: (array.shape[0] if array.ndim else -1) for name, array in arrays.items()}
        if not lengths or len(set(lengths.values())) > 1 or -1 in lengths.values():
            raise ConfigError(
                f"the fields of a data set must have one entry per sample each, found {lengths}",
                "give every array the sample as its first axis",
            )
        self._arrays = dict(arrays)
        self._samples = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, field: str) -> Array:
        """The array of ``field``.  Raises KeyError."""
        return self._arrays[field]

    def __contains__(self, field: object) -> bool:
        return field in self._arrays

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self._arrays)

    def take(self, indices: NDArray[np.intp]) -> Dataset:
        """The samples at ``indices``, in that order, as a copy."""
        return Dataset({name: array[indices] for name, array in self._arrays.items()})

    def batches(self, size: int, rng: np.random.Generator | None = None) -> Iterator[Dataset]:
        """The samples in batches of ``size``, the last one smaller; shuffled when ``rng`` is given (``ctx.rng``)."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        for start in range(0, len(self), size):
            yield self.take(order[start : start + size])


def concat(parts: list[Dataset]) -> Dataset:
    """All samples of ``parts``, which have the same fields, in order."""
    return Dataset({name: np.concatenate([part[name] for part in parts]) for name in parts[0].fields})


class Split(NamedTuple):
    """A node's samples: ``train`` to learn from, ``test`` never trained on (may be empty)."""

    train: Dataset
    test: Dataset
