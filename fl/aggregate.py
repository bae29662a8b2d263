"""Arithmetic of a round: sums up the tree, one step at the root.

A contribution is ``weight × (local − global)``, a partial is a sum of contributions, and only the root divides: a mean
of means is biased on an unbalanced tree.  The wire carries float32 and sums are formed in float64, so the tree adds to
the error of plain averaging one float32 rounding per level (relative 6e-8).

Everything works on the flat data section (:func:`fl.codec.flat`), block by block: no float64 copy of a model exists.
Peak memory beside the inputs, for a model of *m* bytes:

    merge       m + 1 block           all inputs at hand, e.g. mapped files
    Accumulator 2 m + 1 block         inputs come one at a time and are dropped
    finish      m (+ m for momentum) + 1 block
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.errors import AggregationError, CodecError, LimitError

from . import strategies
from .codec import Tensor, Tensors, encode, flat
from .spec import Scalar

Buffer = bytes | memoryview

BLOCK = 1 << 16
"""Elements that are in float64 at a time: 512 KiB, which stays in the second-level cache."""


class InputError(AggregationError):
    """One input of a merge cannot be used.  ``index`` tells which, so that its sender can be named and counted."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(f"update {index}: {why}")
        self.index = index


def contribution(local: Mapping[str, NDArray[np.float32]], model: Tensors, weight: float) -> bytes:
    """``weight × (local − model)`` as tensors.  Raises AggregationError when the two do not match or a value is not
    finite, and names the tensor."""
    if not np.isfinite(weight) or weight <= 0:
        raise AggregationError(
            f"a weight of {weight} cannot be averaged", "return a positive number, such as the sample count"
        )
    missing, extra = sorted(set(model) - set(local)), sorted(set(local) - set(model))
    if missing or extra:
        raise AggregationError(
            f"the trained model {_lacks('lacks', missing)}{_lacks(' and adds' if missing else 'adds', extra)}"
        )
    result: Tensors = {}
    for name, before in model.items():
        after = local[name]
        if after.shape != before.shape:
            raise AggregationError(f"tensor {name!r} had shape {before.shape} and has {after.shape} after training")
        with np.errstate(over="ignore", invalid="ignore"):
            delta = (weight * (after.astype(np.float64) - before)).astype(np.float32)
        if not np.isfinite(delta).all():
            raise AggregationError(f"tensor {name!r} is not finite after training", "lower the learning rate")
        result[name] = delta
    return encode(result)


def _lacks(verb: str, names: list[str]) -> str:
    return f"{verb} tensor {names[0]!r}" if names else ""


def check_update(update: Buffer, model: Buffer) -> None:
    """Refuse what must not enter a sum: other tensors than the model's, or a value that is not finite.

    Raises AggregationError.
    """
    _vector(0, update, flat(model)[0])


def merge(inputs: Sequence[Buffer]) -> bytes:
    """Sum of ``inputs`` in the given order.  Raises InputError for one that is malformed, different or not finite, and
    AggregationError when there are none or the sum leaves float32."""
    if not inputs:
        raise AggregationError("nothing to merge")
    header: bytes | None = None
    vectors: list[Tensor] = []
    for index, content in enumerate(inputs):
        header, vector = _vector(index, content, header)
        vectors.append(vector)
    assert header is not None
    total = np.empty(vectors[0].shape, np.float32)
    for part in _blocks(total.size):
        block = vectors[0][part].astype(np.float64)
        for vector in vectors[1:]:
            block += vector[part]
        _narrow(block, total[part])
    return header + total.data


class Accumulator:
    """The same sum for inputs that come one at a time: bit for bit what :func:`merge` gives in that order."""

    def __init__(self) -> None:
        self._header: bytes | None = None
        self._blocks: list[NDArray[np.float64]] = []
        self.count = 0

    def add(self, content: Buffer) -> None:
        """Add one input.  Raises InputError, and the sum is then as before."""
        self._header, vector = _vector(self.count, content, self._header)
        parts = _blocks(vector.size)
        if not self.count:
            self._blocks = [vector[part].astype(np.float64) for part in parts]
        else:
            for block, part in zip(self._blocks, parts, strict=True):
                np.add(block, vector[part], out=block)
        self.count += 1

    def result(self) -> bytes:
        """The sum; the accumulator is empty afterwards.  Raises AggregationError when nothing was added."""
        if self._header is None:
            raise AggregationError("nothing to merge")
        output = bytearray(self._header)
        narrow = np.empty(BLOCK, np.float32)
        # Blocks are freed as they are written, so that both never exist whole.
        self._blocks.reverse()
        while self._blocks:
            block = self._blocks.pop()
            _narrow(block, narrow[: block.size])
            output += narrow[: block.size].data
        self._header, self.count = None, 0
        return bytes(output)


def finish(
    strategy: str, options: Mapping[str, Scalar], model: Buffer, state: Buffer, total: Buffer, weight: float
) -> tuple[bytes, bytes]:
    """``(next model, next server state)`` from the sum ``total`` of contributions that weigh ``weight`` together.

    ``state`` is empty at first and for strategies that keep none.  Raises AggregationError when the inputs do not
    belong together or the new model is not finite, UsageError for an unknown strategy or option.
    """
    step = strategies.create(strategy, options)
    if not np.isfinite(weight) or weight <= 0:
        raise AggregationError(f"contributions weigh {weight} together")
    header, before = flat(model)
    _, sums = _vector(0, total, header)
    keeps = step.keeps_state
    memory = _vector(1, state, header)[1] if keeps and len(state) else None
    after = np.empty(before.shape, np.float32)
    kept = np.empty(before.shape, np.float32) if keeps else None
    for part in _blocks(before.size):
        old = np.zeros(part.stop - part.start) if memory is None else memory[part].astype(np.float64)
        moved, new = step(sums[part].astype(np.float64) / weight, old)
        _narrow(before[part] + moved, after[part])
        if kept is not None:
            _narrow(new, kept[part])
    return header + after.data, b"" if kept is None else header + kept.data


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


def _vector(index: int, content: Buffer, expected: bytes | None) -> tuple[bytes, Tensor]:
    """Header and data of an input that is known to be addable.  Raises InputError."""
    try:
        header, vector = flat(content)
    except (CodecError, LimitError) as error:
        raise InputError(index, str(error)) from None
    if expected is not None and header != expected:
        raise InputError(index, "its tensors differ from the model's in name or shape")
    if not all(np.isfinite(vector[part]).all() for part in _blocks(vector.size)):
        raise InputError(index, "it holds values that are not finite")
    return header, vector


def _narrow(block: NDArray[np.float64], into: Tensor) -> None:
    with np.errstate(over="ignore"):
        into[:] = block
    if not np.isfinite(into).all():
        raise AggregationError("the sum leaves the range of float32", "check the updates' weights and learning rates")
