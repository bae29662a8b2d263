"""Arithmetic of a round: sums up the tree, one step at the root.

A contribution is ``weight × (local − global)``, a partial is a sum of contributions, and only the root divides: a mean
of means is biased on an unbalanced tree.  The wire carries float32 and sums are formed in float64, so the tree adds to
the error of plain averaging one float32 rounding per level (relative 6e-8).

Everything works on the flat data section (:func:`fl.codec.flat`), block by block: no float64 copy of a model exists.
Peak memory beside the inputs, for a model of *m* bytes and blocks of 512 KiB:

    contribution  m + blocks
    merge         m + blocks                 all inputs at hand, e.g. mapped files
    Accumulator   2 m + blocks               inputs come one at a time and are dropped
    finish        m (+ m for momentum) + blocks
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.errors import AggregationError, CodecError, LimitError
from pubsub.partials import MAX_SUM

from . import strategies
from .codec import Tensor, Tensors, flat, header_of
from .spec import AppSpec, Scalar

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
    for name in model:
        if local[name].shape != model[name].shape:
            raise AggregationError(
                f"tensor {name!r} had shape {model[name].shape} and has {local[name].shape} after training"
            )
    output = _Output(header_of(model), sum(before.size for before in model.values()))
    position = 0
    for name in sorted(model):
        end = position + model[name].size
        if not _difference(local[name], model[name], weight, output.vector[position:end]):
            raise AggregationError(
                f"tensor {name!r} is not finite, or beyond all bounds, after training", "lower the learning rate"
            )
        position = end
    return output.content()


def _difference(after: Tensor, before: Tensor, weight: float, into: Tensor) -> bool:
    """Write ``weight × (after − before)``; whether all of it is finite."""
    after, before = after.reshape(-1), before.reshape(-1)
    for part in _blocks(before.size):
        with np.errstate(over="ignore", invalid="ignore"):
            into[part] = weight * (after[part].astype(np.float64) - before[part])
    return _within(into, MAX_SUM)


def _lacks(verb: str, names: list[str]) -> str:
    return f"{verb} tensor {names[0]!r}" if names else ""


def check_update(update: Buffer, model: Buffer) -> None:
    """Refuse what must not enter a sum: other tensors than the model's, or a value that is not finite.

    Raises AggregationError.
    """
    _vector(0, update, flat(model)[0], MAX_SUM)


def layout_of(model: Buffer) -> bytes:
    """What a descriptor says of the tensors of ``model`` (``AppSpec.layout``).  Raises CodecError, LimitError."""
    return hashlib.sha256(flat(model)[0]).digest()


def layout_in(spec: AppSpec) -> bytes:
    """What the owner signed about the tensors.  Raises AggregationError when that is nothing."""
    try:
        return spec.layout or layout_of(spec.initial.inline)
    except (CodecError, LimitError):
        raise AggregationError(
            f"the descriptor of {spec.name} does not say which tensors its model has", "submit it again"
        ) from None


def fits(update: Buffer, layout: bytes, members: int) -> bool:
    """May ``update``, the sum of what ``members`` contributors made, enter a sum of models of this layout?  Total."""
    try:
        header, vector = flat(update)
    except (CodecError, LimitError):
        return False
    return hashlib.sha256(header).digest() == layout and _within(vector, MAX_SUM * members)


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
    output = _Output(header, vectors[0].size)
    for part in _blocks(vectors[0].size):
        block = vectors[0][part].astype(np.float64)
        for vector in vectors[1:]:
            block += vector[part]
        _narrow(block, output.vector[part])
    return output.content()


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
        output = _Output(self._header, sum(block.size for block in self._blocks))
        # Blocks are freed as they are written, so that both never lie in memory whole.
        self._blocks.reverse()
        start = 0
        while self._blocks:
            block = self._blocks.pop()
            _narrow(block, output.vector[start : start + block.size])
            start += block.size
        self._header, self.count = None, 0
        return output.content()


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
    after = _Output(header, before.size)
    kept = _Output(header, before.size) if keeps else None
    for part in _blocks(before.size):
        old = np.zeros(part.stop - part.start) if memory is None else memory[part].astype(np.float64)
        moved, new = step(sums[part].astype(np.float64) / weight, old)
        _narrow(before[part] + moved, after.vector[part])
        if kept is not None:
            _narrow(new, kept.vector[part])
    return after.content(), b"" if kept is None else kept.content()


class _Output:
    """A tensor file that is written in place: its bytes are handed out without a copy."""

    def __init__(self, header: bytes, elements: int) -> None:
        self._stream = io.BytesIO(bytes(len(header) + 4 * elements))
        self._stream.write(header)
        self.vector: Tensor = np.frombuffer(self._stream.getbuffer(), np.dtype("<f4"), offset=len(header))

    def content(self) -> bytes:
        """The whole file.  Nothing can be written afterwards."""
        del self.vector
        return self._stream.getvalue()


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


def _vector(
    index: int, content: Buffer, expected: bytes | None, bound: float = float(np.finfo(np.float32).max)
) -> tuple[bytes, Tensor]:
    """Header and data of an input that is known to be addable.  Raises InputError."""
    try:
        header, vector = flat(content)
    except (CodecError, LimitError) as error:
        raise InputError(index, str(error)) from None
    if expected is not None and header != expected:
        raise InputError(index, "its tensors differ from the model's in name or shape")
    if not _within(vector, bound):
        raise InputError(index, "it holds values that are not finite")
    return header, vector


def _within(vector: Tensor, bound: float) -> bool:
    """Is every element a number of at most that magnitude?  NaN wins every minimum, and no comparison."""
    parts = (vector[part] for part in _blocks(vector.size))
    return all(part.min() >= -bound and part.max() <= bound for part in parts)


def _narrow(block: NDArray[np.float64], into: Tensor) -> None:
    with np.errstate(over="ignore"):
        into[:] = block
    if not np.isfinite(into).all():
        raise AggregationError("the sum leaves the range of float32", "check the updates' weights and learning rates")
