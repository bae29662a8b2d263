"""One view of every kind of model: named float32 tensors out, named float32 tensors in.

What travels is a model's floating-point state.  Integer and boolean buffers of a torch module (a counter of batches, a
table of positions) travel as float32 too, which is exact up to 2^24, and are rounded back, so that a model that is put
together from averages is whole.  torch is looked at only when the application itself has imported it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Protocol

import numpy as np

from fl.codec import Tensors
from fl.sdk import App, Context
from protocol.errors import AggregationError, UsageError

_EXACT = 1 << 24


class Model(Protocol):
    """A user's model behind the view.  ``kind`` selects the default loops: ``torch``, ``sklearn`` or ``plain``."""

    kind: str
    native: Any

    def read(self) -> Tensors:
        """The weights; they may share memory with the model."""
        ...

    def write(self, tensors: Tensors) -> None:
        """Replace the weights.  Raises AggregationError when names or shapes differ."""
        ...


def build(app: App, ctx: Context) -> Model:
    """Call ``model()``, or ``model(ctx)``, and wrap what it returns.  Raises UsageError for what has no weights that we
    can read."""
    native = app.model(ctx) if _wants_context(app.model) else app.model()
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(native, torch.nn.Module):
        return TorchModel(native)
    if hasattr(native, "get_weights") and hasattr(native, "set_weights"):
        return ObjectModel(native)
    if isinstance(native, MutableMapping):
        return ArrayModel(native)
    names = [name for name in ("coef_", "intercept_", "coefs_", "intercepts_") if hasattr(native, name)]
    if names and hasattr(native, "partial_fit"):
        return EstimatorModel(native, names)
    raise UsageError(
        f"model() of {app.name} returned a {type(native).__name__}, which has no weights that we can read",
        "return a torch.nn.Module, a dict of numpy arrays, an estimator after its first partial_fit, or an object with "
        "get_weights() and set_weights(weights)",
    )


def _wants_context(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of a builtin such as dict
        return False
    return any(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
        for parameter in parameters
    )


class TorchModel:
    """A ``torch.nn.Module`` through its ``state_dict``."""

    kind = "torch"

    def __init__(self, native: Any) -> None:
        self.native = native

    def read(self) -> Tensors:
        result: Tensors = {}
        for name, tensor in self.native.state_dict().items():
            value = tensor.detach().cpu()
            if not value.is_floating_point() and value.numel() and int(value.abs().max()) > _EXACT:
                raise UsageError(f"buffer {name!r} holds integers beyond 2^24, which float32 cannot carry")
            result[name] = value.float().numpy()
        return result

    def write(self, tensors: Tensors) -> None:
        state = self.native.state_dict()
        _match(tensors, {name: tuple(tensor.shape) for name, tensor in state.items()})
        torch = sys.modules["torch"]
        with torch.no_grad():
            for name, target in state.items():
                # torch's own memory, not a view of ours: kernels may round differently on other alignments.
                source = torch.tensor(tensors[name])
                target.copy_(source if target.is_floating_point() else source.round())


class ArrayModel:
    """A dict of numpy arrays; the dict is the model, so user code changes its arrays in place or replaces them."""

    kind = "plain"

    def __init__(self, native: MutableMapping[str, Any]) -> None:
        self.native = native

    def read(self) -> Tensors:
        return {name: np.asarray(value, np.float32) for name, value in self.native.items()}

    def write(self, tensors: Tensors) -> None:
        _match(tensors, {name: np.shape(value) for name, value in self.native.items()})
        for name, value in tensors.items():
            self.native[name] = value.astype(np.asarray(self.native[name]).dtype)


class ObjectModel:
    """Any object with ``get_weights() -> dict of arrays`` and ``set_weights(dict)``."""

    kind = "plain"

    def __init__(self, native: Any) -> None:
        self.native = native

    def read(self) -> Tensors:
        weights = self.native.get_weights()
        if not isinstance(weights, Mapping):
            raise UsageError(f"get_weights() returned a {type(weights).__name__}", "return a dict of name → array")
        return {str(name): np.asarray(value, np.float32) for name, value in weights.items()}

    def write(self, tensors: Tensors) -> None:
        _match(tensors, {name: value.shape for name, value in self.read().items()})
        self.native.set_weights({name: value.copy() for name, value in tensors.items()})


class EstimatorModel:
    """A scikit-learn estimator with ``partial_fit``, through its fitted arrays or lists of one array per layer."""

    kind = "sklearn"

    def __init__(self, native: Any, names: list[str]) -> None:
        self.native = native
        self._names = names

    def read(self) -> Tensors:
        result: Tensors = {}
        for name in self._names:
            value = getattr(self.native, name)
            layers = (
                {f"{name}.{i}": layer for i, layer in enumerate(value)} if isinstance(value, list) else {name: value}
            )
            result.update({key: np.asarray(layer, np.float32) for key, layer in layers.items()})
        return result

    def write(self, tensors: Tensors) -> None:
        _match(tensors, {name: value.shape for name, value in self.read().items()})
        for name in self._names:
            value = getattr(self.native, name)
            # Into the arrays that are there: an estimator's optimiser may hold references to them.
            targets = (
                {f"{name}.{i}": layer for i, layer in enumerate(value)} if isinstance(value, list) else {name: value}
            )
            for key, target in targets.items():
                target[...] = tensors[key]


def _match(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted(set(tensors) ^ set(shapes)):
        raise AggregationError(f"tensor {name!r} is in only one of the model and what was received")
    for name, shape in shapes.items():
        if tensors[name].shape != tuple(shape):
            raise AggregationError(
                f"tensor {name!r} has shape {tuple(shape)} here and {tensors[name].shape} in the model"
            )
