"""From a binding to a node's samples.

Everything an operator can get wrong — a missing file, a column that is not there, a cell that is not a number — is one
ConfigError that names file, line and column.  Nothing is unpickled: ``npz`` is read with ``allow_pickle=False``.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from itertools import islice
from pathlib import Path

import numpy as np

from fl.spec import Field
from protocol.errors import ConfigError

from . import partition, schema
from .binding import Binding
from .dataset import Array, Dataset, Split

PEEK_ROWS = 1000
"""Rows of a table that are looked at to learn its types without reading it whole."""


def load(binding: Binding, fields: Mapping[str, Field] | None = None, node: str = "") -> Split:
    """The samples that ``binding`` gives this node, cast to the types of ``fields`` (the application's schema).

    Raises ConfigError, which names the field and ``node``.
    """
    whole = _read(binding, fields or {})
    if fields:
        schema.check(schema.observed(whole), fields, binding, node)
        whole = schema.cast(whole, fields, binding, node)
    mine = whole if binding.partition == "all" else whole.take(_shares(binding, whole)[binding.part])
    share = binding.holdout if binding.partition == "all" else binding.holdout / 2
    train, test = partition.hold_out(len(mine), share, binding.seed, "node", binding.part)
    return Split(mine.take(train), mine.take(test))


def outside(binding: Binding, fields: Mapping[str, Field] | None = None) -> Dataset:
    """The part of a partitioned data set that no node has: what a model is measured on from outside.

    Raises ConfigError, also for a binding that is not partitioned.
    """
    if binding.partition == "all":
        raise ConfigError("this data is one node's own; there is no part of it that no node has", "bind a partition")
    whole = _read(binding, fields or {})
    held = partition.hold_out(len(whole), binding.holdout, binding.seed)[1]
    return schema.cast(whole, fields or {}, binding, "").take(held)


def sizes(binding: Binding) -> list[int]:
    """Samples in each share of a partitioned data set, in order.  Raises ConfigError."""
    return [share.size for share in _shares(binding, _read(binding, {}))]


def peek(binding: Binding, fields: Mapping[str, Field]) -> schema.Observed:
    """Types and shapes as far as they show without reading the data whole.  Raises ConfigError."""
    if binding.kind == "csv":
        return schema.observed(_csv(binding, fields, PEEK_ROWS))
    if binding.kind == "npz":
        return _npz_header(Path(binding.path))
    return schema.observed(_digits())


def mismatch(binding: Binding, fields: Mapping[str, Field], node: str = "") -> str:
    """Why ``binding`` does not fit the schema, in one sentence; empty when it does as far as headers tell."""
    try:
        schema.check(peek(binding, fields), fields, binding, node)
    except ConfigError as error:
        return _prefixed(str(error), node)
    return ""


def _shares(binding: Binding, whole: Dataset) -> list[partition.Indices]:
    if not 0 <= binding.part < binding.parts:
        raise ConfigError(f"part {binding.part} of {binding.parts} does not exist", "parts count from 0")
    kept, _ = partition.hold_out(len(whole), binding.holdout, binding.seed)
    if binding.partition == "iid":
        shares = partition.iid(kept.size, binding.parts, binding.seed)
    else:
        if "y" not in whole or whole["y"].dtype.kind not in "iu":
            raise ConfigError("a dirichlet partition needs integer labels in field 'y'", 'use partition = "iid"')
        shares = partition.dirichlet(whole["y"][kept], binding.parts, binding.alpha, binding.seed)
    return [kept[share] for share in shares]


def _read(binding: Binding, fields: Mapping[str, Field]) -> Dataset:
    if binding.kind == "csv":
        return _csv(binding, fields, None)
    return _npz(Path(binding.path)) if binding.kind == "npz" else _digits()


def _digits() -> Dataset:
    with resources.files("fl.data").joinpath("digits.npz").open("rb") as stream, np.load(stream) as archive:
        return Dataset({"x": archive["x"].astype(np.float32) / np.float32(16), "y": archive["y"].astype(np.int64)})


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what can go wrong with a file into one sentence about it."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}", "check the path of the binding") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, csv.Error) as error:
        raise ConfigError(f"{path} is damaged or not of its kind: {error}", "check the kind of the binding") from None


def _npz(path: Path) -> Dataset:
    with _reading(path), path.open("rb") as stream:
        archive = np.load(stream, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ConfigError(f"{path} holds a single array, not an archive of named ones", "write it with numpy.savez")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    return Dataset(arrays)


def _npz_header(path: Path) -> schema.Observed:
    found: schema.Observed = {}
    with _reading(path), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
            found[member.removesuffix(".npy")] = (dtype, tuple(shape[1:]))
    return found


def _csv(binding: Binding, fields: Mapping[str, Field], limit: int | None) -> Dataset:
    """``columns`` as ``x``, ``target`` as ``y``, and each other field of the schema from the column of its name."""
    path = Path(binding.path)
    with _reading(path), path.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.reader(stream, strict=True)
        header = [name.strip() for name in next(rows, [])]
        if not header:
            raise ConfigError(f"{path} is empty", "the first line names the columns")
        features = list(binding.columns) or [name for name in header if name != binding.target]
        groups = {"x": features} if "x" in fields or not fields else {}
        groups |= {"y": [binding.target]} if binding.target else {}
        groups |= {name: [name] for name in fields if name not in ("x", "y")}
        positions = {name: _position(path, header, name) for group in groups.values() for name in group}
        columns = {name: array("d") for name in positions}
        for row in islice(rows, limit):
            if not row:
                continue
            for name, position in positions.items():
                cell = row[position] if position < len(row) else ""
                columns[name].append(_number(path, rows.line_num, name, cell))
    if not columns or not len(next(iter(columns.values()))):
        raise ConfigError(f"{path} has no samples", "bind a table with at least one row and one feature column")
    arrays = {name: np.frombuffer(column, np.float64) for name, column in columns.items()}
    return Dataset(
        {
            name: np.stack([arrays[column] for column in group], axis=1).astype(np.float32)
            if name == "x"
            else _narrowed(arrays[group[0]])
            for name, group in groups.items()
        }
    )


def _prefixed(sentence: str, node: str) -> str:
    return sentence if not node or f"node {node}" in sentence else f"node {node}: {sentence}"


def _narrowed(column: Array) -> Array:
    """Integers when all are, so that labels are labels."""
    whole = bool((column == np.floor(column)).all() and (np.abs(column) < 2**53).all())
    return column.astype(np.int64 if whole else np.float32)


def _position(path: Path, header: list[str], name: str) -> int:
    if name not in header:
        raise ConfigError(
            f"column {name!r} is not in {path}, which has {', '.join(header[:20])}", "correct the binding or the file"
        )
    return header.index(name)


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ConfigError(
            f"{path} line {line}, column {column!r}: {cell[:32]!r} is not a number",
            "clean the file, or leave the column out",
        ) from None
