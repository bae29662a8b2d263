"""Named float32 tensors as bytes: the safetensors format, in the one canonical form that we write.

    file   = N (8 bytes, little-endian) ‖ header (N bytes of JSON, padded with spaces) ‖ data
    header = {"__metadata__": {str: str}?, name: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, …}

*Canonical* means: names sorted, data contiguous in that order, the header padded so that data begin on a multiple of 8.
Equal tensors therefore give equal bytes, hence equal digests, and a model's data are **one flat float32 vector**:
aggregation adds such vectors and never looks at a tensor (:mod:`fl.aggregate`).  Any safetensors reader can open what
we write; :func:`decode` opens what others write as long as it is float32.

Decoding is zero-copy and never trusts a length: sizes are limited before JSON is parsed, and every offset is checked
against the shape that it claims.  Only :class:`CodecError` and :class:`LimitError` escape.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.errors import CodecError, LimitError

Tensor = NDArray[np.float32]
Tensors = dict[str, Tensor]

MAX_HEADER = 4 << 20
"""Bytes of JSON.  10,000 tensors take about 1 MB; parsing costs memory before anything is known to be true."""
MAX_TENSORS = 16_384
MAX_NAME = 256
MAX_RANK = 8
MAX_ELEMENTS = 1 << 40
_METADATA = "__metadata__"
_PREFIX = 8
_ALIGN = 8
_ITEM = 4
_WIRE = np.dtype("<f4")
# Names and metadata are printed by command lines: no control characters.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Layout(NamedTuple):
    """Where the tensors of a file lie."""

    shapes: dict[str, tuple[int, ...]]
    """Name → shape, in the order of the data."""
    offsets: dict[str, int]
    """Name → first byte, counted from the start of the file."""
    metadata: dict[str, str]
    start: int
    """First byte of the data."""


def encode(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> bytes:
    """Canonical bytes.  Arrays of other floating types are cast to float32; ``metadata`` is for exported files only.

    Raises CodecError for names, shapes or types that cannot be written.
    """
    names = sorted(tensors)
    arrays = [_as_float32(name, tensors[name]) for name in names]
    header = header_of(dict(zip(names, arrays, strict=True)), metadata)
    return b"".join((header, *(array.tobytes() for array in arrays)))


def header_of(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> bytes:
    """What stands before the data when ``tensors`` are encoded.  Raises LimitError."""
    return _header({name: array.shape for name, array in tensors.items()}, metadata or {})


def decode(content: bytes | memoryview) -> Tensors:
    """The tensors in ``content``: read-only views of it, without a copy.  Raises CodecError, LimitError."""
    found = layout(content)
    return {
        name: np.frombuffer(content, _WIRE, math.prod(shape), found.offsets[name]).reshape(shape)
        for name, shape in found.shapes.items()
    }


def flat(content: bytes | memoryview) -> tuple[bytes, Tensor]:
    """Header and data of a canonical file: ``(header, vector)``, the vector a read-only float32 view of shape (n,).

    Two files with equal headers have the same tensors in the same places.  Raises CodecError when the file is not in
    canonical form or carries metadata, which no model inside the fabric does.
    """
    found = layout(content)
    header = bytes(content[: found.start])
    if header != _header(found.shapes, {}):
        raise CodecError("tensors are not in canonical form")
    return header, np.frombuffer(content, _WIRE, offset=found.start)


def layout(content: bytes | memoryview) -> Layout:
    """Read and check the header alone.  Raises CodecError, LimitError."""
    if len(content) < _PREFIX:
        raise CodecError(f"tensors of {len(content)} bytes: too short for a header")
    length = int.from_bytes(content[:_PREFIX], "little")
    if length > MAX_HEADER:
        raise LimitError(f"tensor header of {length} bytes, the limit is {MAX_HEADER}")
    start = _PREFIX + length
    if start > len(content):
        raise CodecError(f"tensor header of {length} bytes in a file of {len(content)}")
    entries, metadata = _parse(bytes(content[_PREFIX:start]))
    if len(entries) > MAX_TENSORS:
        raise LimitError(f"{len(entries)} tensors, the limit is {MAX_TENSORS}")
    spans = sorted((_entry(name, entry) for name, entry in entries.items()), key=lambda span: (span[1], span[2]))
    position = 0
    for name, begin, end, _ in spans:
        if begin != position:
            raise CodecError(f"tensor {name!r} begins at byte {begin}, expected {position}: a gap or an overlap")
        position = end
    if start + position != len(content):
        raise CodecError(f"tensors end at byte {start + position} of {len(content)}")
    shapes = {name: shape for name, _, _, shape in spans}
    offsets = {name: start + begin for name, begin, _, _ in spans}
    return Layout(shapes, offsets, metadata, start)


def _as_float32(name: str, array: NDArray[Any]) -> Tensor:
    array = np.asarray(array)
    if array.dtype.kind != "f":
        raise CodecError(f"tensor {name!r} is {array.dtype}; only floating-point tensors travel")
    if not 0 < len(name) <= MAX_NAME or name == _METADATA or _CONTROL.search(name):
        raise CodecError(f"{name[:MAX_NAME]!r} cannot be the name of a tensor")
    if array.ndim > MAX_RANK:
        raise CodecError(f"tensor {name!r} has {array.ndim} dimensions, the limit is {MAX_RANK}")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as such by whoever checks
        return array.astype(_WIRE, order="C", copy=False)


def _header(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> bytes:
    if len(shapes) > MAX_TENSORS:
        raise LimitError(f"{len(shapes)} tensors, the limit is {MAX_TENSORS}")
    document: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name in sorted(shapes):
        end = position + _ITEM * math.prod(shapes[name])
        document[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [position, end]}
        position = end
    # Names may hold any character, lone surrogates included, so the JSON stays ASCII.
    text = json.dumps(document, separators=(",", ":")).encode("ascii")
    text += b" " * (-(_PREFIX + len(text)) % _ALIGN)
    if len(text) > MAX_HEADER:
        raise LimitError(f"tensor header of {len(text)} bytes, the limit is {MAX_HEADER}")
    return len(text).to_bytes(_PREFIX, "little") + text


def _parse(text: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """Entries and metadata of a header.  JSON constants and repeated names are refused: readers disagree on them."""
    if text[:1] != b"{":
        raise CodecError("tensor header is not a JSON object")
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"tensor header is not JSON: {error}") from None
    metadata = document.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CodecError("tensor metadata must map strings to strings")
    return document, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _entry(name: str, entry: Any) -> tuple[str, int, int, tuple[int, ...]]:
    """``(name, begin, end, shape)`` of one tensor, checked against each other."""
    if not 0 < len(name) <= MAX_NAME or _CONTROL.search(name):
        raise CodecError(f"{name[:MAX_NAME]!r} cannot be the name of a tensor")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CodecError(f"tensor {name!r} lacks dtype, shape or data_offsets")
    if entry["dtype"] != "F32":
        raise CodecError(f"tensor {name!r} is {str(entry['dtype'])[:16]}; models travel as F32")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape) or len(shape) > MAX_RANK or not _naturals(offsets) or len(offsets) != 2:
        raise CodecError(f"tensor {name!r} has a shape or offsets that are not small lists of counts")
    begin, end = offsets
    # Counted without zeros: numpy refuses an empty array whose other dimensions are too many.
    if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise LimitError(f"tensor {name!r} of shape {shape} is too large")
    if end - begin != _ITEM * math.prod(shape):
        raise CodecError(f"tensor {name!r} of shape {shape} takes {end - begin} bytes")
    return name, begin, end, tuple(shape)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= _ITEM * MAX_ELEMENTS for value in values
    )
