"""The application's schema against what a node really has.

Checked twice: at admission on types and shapes alone (:func:`fl.data.loaders.mismatch`, cheap, in the daemon), and on
every value when a worker loads the data.  A refusal is one sentence that names the node and the field.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fl.spec import Field
from protocol.errors import ConfigError

from .binding import Binding
from .dataset import Array, Dataset

Observed = dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]
"""Field → dtype and shape of one sample."""


def observed(data: Dataset) -> Observed:
    """What ``data`` looks like."""
    return {name: (data[name].dtype, data[name].shape[1:]) for name in data.fields}


def check(found: Observed, fields: Mapping[str, Field], binding: Binding, node: str) -> None:
    """Raises ConfigError when a field is missing, has another shape, or cannot be cast without loss of kind."""
    for name, field in fields.items():
        if name not in found:
            raise ConfigError(
                f"{_where(node, binding)} lacks field {name!r}; it has {', '.join(found)}", _remedy(binding, name)
            )
        dtype, shape = found[name]
        if shape != tuple(field.shape):
            raise ConfigError(
                f"field {name!r} of {_where(node, binding)} has shape {shape} per sample, the application wants "
                f"{tuple(field.shape)}",
                _remedy(binding, name),
            )
        if not np.can_cast(dtype, np.dtype(field.dtype), "same_kind"):
            raise ConfigError(
                f"field {name!r} of {_where(node, binding)} is {dtype}, the application wants {field.dtype}",
                _remedy(binding, name),
            )


def cast(data: Dataset, fields: Mapping[str, Field], binding: Binding, node: str) -> Dataset:
    """``data`` with the types of ``fields``, and only those fields when there are any.

    Raises ConfigError for a label outside its classes or a value that is not finite.
    """
    arrays: dict[str, Array] = {}
    for name in fields or data.fields:
        field = fields.get(name)
        array = data[name] if field is None else data[name].astype(field.dtype, copy=False)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ConfigError(
                f"field {name!r} of {_where(node, binding)} has values that are not finite", "clean the data"
            )
        if field is not None and field.classes and array.size and not 0 <= array.min() <= array.max() < field.classes:
            raise ConfigError(
                f"field {name!r} of {_where(node, binding)} has labels {array.min()} to {array.max()}, the application "
                f"wants 0 to {field.classes - 1}",
                _remedy(binding, name),
            )
        arrays[name] = array
    return Dataset(arrays)


def _where(node: str, binding: Binding) -> str:
    source = f"the {binding.kind} data" if not binding.path else binding.path
    return f"{source} on node {node}" if node else source


def _remedy(binding: Binding, name: str) -> str:
    if binding.kind != "csv":
        return "bind a file that has the field in that form"
    return "set columns of the binding" if name == "x" else "set target of the binding"
