"""What an application's author writes: one file, plain functions, one :class:`App`.

    def model() -> torch.nn.Module: ...
    app = fl.App(name="digits", model=model, data="digits", rounds=20)

``model()`` returns a ``torch.nn.Module``, a dict of numpy arrays, a fitted scikit-learn estimator, or any object with
``get_weights()`` and ``set_weights(weights)``.  ``train(model, data, ctx)`` changes the model in place and returns an
:class:`Update`; ``evaluate(model, data, ctx)`` returns a mapping of metric names to means over ``data``.  Both have
defaults where they can (:mod:`fl.learn.defaults`).  Everything else about a run is a field of :class:`App`.

This module imports neither numpy nor torch: command line and daemon read declarations without them.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from protocol.errors import UsageError
from protocol.ids import ID_BYTES
from protocol.messages import EMPTY, Contact

from . import validation
from .data.binding import Binding, shares
from .spec import AppSpec, Field, Scalar, Stop

if TYPE_CHECKING:
    import numpy as np

    from .data.dataset import Array, Dataset

S = TypeVar("S", bound=Scalar)

Metrics = Mapping[str, float]
"""Name → mean over the data that was given."""

KNOWN_OPTIONS: Mapping[str, str] = {
    "batch_size": "samples per step of the default training loop (32)",
    "local_epochs": "passes over the local data per round (1)",
    "lr": "learning rate of the default training loop (0.1)",
    "momentum": "momentum of the default training loop (0)",
    "weight_decay": "weight decay of the default training loop (0)",
    "server_lr": "step of the server along the mean update (1)",
    "server_momentum": "momentum of the server, for fedavgm (0.9)",
}
"""Options that Mycelia itself reads; an application may add its own."""

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True, slots=True)
class Update:
    """What ``train`` returns."""

    weight: float | None = None
    """How much this update counts in the average.  Default: the number of local samples."""
    metrics: Metrics = field(default_factory=dict)
    """Means over the local samples; they are reported with ``train_`` before their name."""
    weights: Mapping[str, Array] | None = None
    """The trained weights, for a ``train`` that does not change the model in place."""


@dataclass(slots=True)
class Context:
    """What ``train`` and ``evaluate`` may know besides model and data."""

    config: Mapping[str, Scalar]
    """Options of the application, after ``--set``."""
    round: int
    """The round under way, from 1."""
    rounds: int
    """Rounds of the run."""
    node: str
    """Label of this node, for logs; `node 0`, `node 1`, … on simulated nodes, empty where there is no node."""
    seed: int
    """Of this (application, round, node).  Global generators are seeded with it before the call."""
    deadline: float = float("inf")
    """When the task is given up, on the clock of ``time.monotonic``; see :meth:`time_left`."""
    emit: Callable[[str], None] = print
    """Where :meth:`log` writes to."""
    _rng: Any = None

    def get(self, key: str, default: S) -> S:
        """Option ``key`` as the type of ``default``.  Raises UsageError when it has another."""
        value: Scalar = self.config.get(key, default)
        if type(value) is int and type(default) is float:
            value = float(value)
        if type(value) is not type(default):
            raise UsageError(
                f"option {key} is {value!r}, expected {type(default).__name__}", f"--set {key}={default!r}"
            )
        return cast(S, value)

    def log(self, *values: object) -> None:
        """Write a line to the node's log."""
        self.emit(" ".join(str(value) for value in values))

    def time_left(self) -> float:
        """Seconds until the task is given up, possibly infinite.  A result that depends on it cannot be replayed."""
        return self.deadline - time.monotonic()

    @property
    def rng(self) -> np.random.Generator:
        """This task's numpy generator."""
        if self._rng is None:
            self._rng = importlib.import_module("numpy").random.default_rng(self.seed)
        return self._rng  # type: ignore[no-any-return]


Train = Callable[[Any, "Dataset", Context], "Update | Metrics | None"]
Evaluate = Callable[[Any, "Dataset", Context], Metrics]


@dataclass(frozen=True, kw_only=True)
class App:
    """An application.  Immutable; raises UsageError for values that cannot be."""

    name: str
    """1 to 64 printable characters; also the name of its models."""
    model: Callable[..., Any]
    """``model()``, or ``model(ctx)`` when its size is an option, returns a freshly initialised model.  Global
    generators are seeded with ``seed`` before the call."""
    train: Train | None = None
    """Default for torch and scikit-learn: see ``fl.learn.defaults``."""
    evaluate: Evaluate | None = None
    """Default for torch and scikit-learn: loss, and accuracy where ``y`` is a class."""
    data: str = ""
    """Name under which each node's operator binds local data.  Default: the application's name."""
    schema: Mapping[str, Field] = field(default_factory=dict)
    """Field → type and shape, checked on each node before anything is trained."""
    rounds: int = 20
    """Rounds of training, at most: see ``stop``."""
    strategy: str = "fedavg"
    """What the root does with the mean update: ``fedavg`` or ``fedavgm``."""
    options: Mapping[str, Scalar] = field(default_factory=dict)
    """``ctx.config``: what ``--set key=value`` may change."""
    fraction: float = 1.0
    """Share of workers that take part in a round."""
    min_workers: int = 1
    """Contributors without whom a round does not count."""
    quorum: float = 0.5
    """Share of the expected answers after which stragglers of a first wave are given as long again, and no longer."""
    stop: Stop | None = None
    """When to stop early."""
    seed: int = 0
    fan_out: int = 4
    """Children of a node in the tree, at most."""
    modules: Sequence[str] = ()
    """Further source files that the application imports, relative to its own."""

    def __post_init__(self) -> None:
        if not self.data:
            object.__setattr__(self, "data", self.name)
        _require(
            0 < len(self.name) <= 64 and self.name.isprintable(), "name", "1 to 64 printable characters", self.name
        )
        _require(callable(self.model), "model", "a function that returns a model", self.model)
        _require(1 <= self.rounds <= 1_000_000, "rounds", "1 to 1000000", self.rounds)
        _require(0 < self.fraction <= 1, "fraction", "above 0, up to 1", self.fraction)
        _require(0 < self.quorum <= 1, "quorum", "above 0, up to 1", self.quorum)
        _require(self.min_workers >= 1, "min_workers", "at least 1", self.min_workers)
        _require(1 <= self.fan_out <= 64, "fan_out", "1 to 64", self.fan_out)
        _require(len(self.options) <= 128, "options", "at most 128", len(self.options))
        validation.strategy(self.strategy, self.options)
        validation.stop(self.stop)
        if self.train is None:
            validation.ranges(self.options, validation.TRAINING_OPTIONS)
        for key, item in self.schema.items():
            _require(
                item.dtype in DTYPES,
                f"schema[{key!r}]",
                f"fl.Field(dtype), dtype one of {', '.join(DTYPES)}",
                item,
            )

    def override(self, settings: Sequence[str]) -> App:
        """This application with ``key=value`` settings of the command line: its options, or the fields ``rounds``,
        ``fraction``, ``min_workers``, ``quorum``, ``seed``, ``fan_out``, ``strategy``, and of ``stop`` its
        ``stop.metric``, ``stop.patience``, ``stop.delta`` and ``stop.maximise``; ``stop=none`` never stops early.

        Raises UsageError for an unknown key, with the closest known one, and for a value of the wrong type.
        """
        fields: dict[str, Any] = {}
        options, rule = dict(self.options), self.stop
        known = {*SETTABLE, *KNOWN_OPTIONS, *options, *STOP_SETTINGS}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals or key not in known:
                close = difflib.get_close_matches(key, sorted(known), 1)
                raise UsageError(
                    f"{setting!r} sets nothing that {self.name} knows" if equals else f"{setting!r} is not key=value",
                    f"did you mean {close[0]}?" if close else f"known keys: {', '.join(sorted(known))}",
                )
            if key in STOP_SETTINGS:
                rule = _stopping(rule, key, text)
            elif key in SETTABLE:
                fields[key] = _parse(key, text, getattr(self, key))
            else:
                options[key] = _parse(key, text, options.get(key))
        return dataclasses.replace(self, options=options, stop=rule, **fields)

    def run(self, nodes: int = 8, *, alpha: float | None = 0.5, data: Sequence[Binding] = ()) -> Any:
        """Run on a simulated fabric in this process: no daemon, no network, breakpoints work.

        ``data`` has one binding per node; without it the package's data set of the name ``self.data`` is cut into
        ``nodes`` shares, Dirichlet(``alpha``), or IID for None.  A node whose data does not fit the schema is refused
        by name, as a real one would be.  Returns what ``simulations.emulate.run`` returns.
        """
        if not data:
            if self.data != "digits":
                raise UsageError(
                    f"there is no data called {self.data!r} in the package",
                    "pass data=[fl.Binding(…), …], one per node",
                )
            data = shares("digits", nodes, alpha=alpha, seed=self.seed)
        from .data.loaders import mismatch  # noqa: PLC0415 - numpy, which reading a declaration does not need

        reasons = [mismatch(binding, self.schema, str(index)) for index, binding in enumerate(data)]
        for reason in filter(None, reasons):
            print(f"refused: {reason}")  # noqa: T201 - the output of the user's program
        usable = [binding for binding, reason in zip(data, reasons, strict=True) if not reason]
        if not usable:
            raise UsageError(f"no node has data that fits {self.name}", "correct the bindings or the schema")
        # By name: the emulation stands above this package and drives it.
        return importlib.import_module("simulations.emulate").run(self, usable)


def outline(app: App) -> AppSpec:
    """The descriptor of ``app`` as far as its author determines it.

    Owner, salt, zone, voters, home, initial model and bundle are for whoever submits it to add.
    """
    return AppSpec(
        name=app.name,
        owner=b"",
        salt=b"",
        zone=0,
        voters=(),
        rounds=app.rounds,
        initial=EMPTY,
        home=Contact(bytes(ID_BYTES)),
        data=app.data,
        schema=dict(app.schema),
        strategy=app.strategy,
        options=dict(app.options),
        seed=app.seed,
        fan_out=app.fan_out,
        fraction=app.fraction,
        min_workers=app.min_workers,
        quorum=app.quorum,
        stop=app.stop,
    )


SETTABLE = ("rounds", "fraction", "min_workers", "quorum", "seed", "fan_out", "strategy")


STOP_SETTINGS: Mapping[str, Scalar] = {
    "stop": "", "stop.metric": "", "stop.patience": 5, "stop.delta": 0.0, "stop.maximise": True,
}  # fmt: skip
"""Settings of early stopping, and an example of each type."""


def _stopping(rule: Stop | None, key: str, text: str) -> Stop | None:
    """``rule`` with one setting changed.  Raises UsageError."""
    field_ = key.partition(".")[2]
    if not field_:
        if text != "none":
            raise UsageError(f"stop={text} is not how to stop", "stop=none, or stop.metric=NAME and stop.patience=N")
        return None
    if rule is None and field_ != "metric":
        raise UsageError(
            f"{key}={text}, but nothing says what to look at", f"--set stop.metric=NAME before --set {key}"
        )
    value = _parse(key, text, STOP_SETTINGS[key])
    if rule is None:
        return Stop(str(value), maximise=str(value).rpartition("_")[2] != "loss")
    return msgspec.structs.replace(rule, **{field_: value})


def _require(holds: bool, name: str, expected: str, value: object) -> None:
    if not holds:
        raise UsageError(f"{name} of the application is {value!r}", f"expected {expected}")


def _parse(key: str, text: str, like: Scalar | None) -> Scalar:
    """``text`` as the type of ``like``, or as whatever it reads as when there is no example."""
    if isinstance(like, str):
        return text
    value: Scalar
    lowered = text.lower()
    if lowered in ("true", "false"):
        value = lowered == "true"
    else:
        try:
            value = int(text)
        except ValueError:
            try:
                value = float(text)
            except ValueError:
                value = text
    if isinstance(like, float) and type(value) is int:
        return float(value)
    if like is not None and type(value) is not type(like):
        raise UsageError(f"{key}={text} is not a {type(like).__name__}", f"the default is {like!r}")
    return value


def find(namespace: Mapping[str, Any], where: str) -> App:
    """The one App in a module's namespace.  Raises UsageError when there is none or more than one."""
    found = {id(value): value for value in namespace.values() if isinstance(value, App)}
    if len(found) != 1:
        raise UsageError(
            f"{where} defines {len(found) or 'no'} applications", "define exactly one fl.App(...) at module level"
        )
    return next(iter(found.values()))


def load(path: Path) -> App:
    """Import the user's own file and return its App.  Runs its code in this process.

    Raises UsageError; an exception of the user's code propagates as it is.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file", "give the path of the file that defines the application")
    if str(path.parent) not in sys.path:  # as when the file is run: it may import its neighbours
        sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return find(vars(module), str(path))
