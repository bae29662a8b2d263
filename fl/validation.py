"""What an application may ask for, checked in one place with one sentence: by :class:`fl.App` where it is written, by
``mycelia check`` and ``mycelia run`` when it is overridden, and on every node when its descriptor arrives.

Without numpy, since declarations are read by programs that have not imported it.  What can be known only by running the
code (the names of its metrics) is checked where it runs: see ``mycelia check``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from protocol.errors import UsageError

from . import metrics
from .spec import AppSpec, Scalar, Stop

STRATEGIES: Mapping[str, tuple[str, ...]] = {"fedavg": ("server_lr",), "fedavgm": ("server_lr", "server_momentum")}
"""Name → the options that it reads."""

_RANGES: Mapping[str, tuple[type, float, float]] = {
    "batch_size": (int, 1, math.inf),
    "local_epochs": (int, 1, math.inf),
    "lr": (float, 0, math.inf),
    "momentum": (float, 0, 1),
    "weight_decay": (float, 0, math.inf),
    "server_lr": (float, 0, math.inf),
    "server_momentum": (float, 0, 1),
}
"""Option → type, least value, and the bound that it stays below."""

TRAINING_OPTIONS = ("batch_size", "local_epochs", "lr", "momentum", "weight_decay")
"""What the default training loop reads; an application with a ``train`` of its own may mean something else by them."""


def strategy(name: str, options: Mapping[str, Scalar]) -> None:
    """Raises UsageError for an unknown strategy, or an option of it that is out of range."""
    if name not in STRATEGIES:
        raise UsageError(f"there is no strategy {name!r}", f"use one of {', '.join(STRATEGIES)}")
    ranges(options, STRATEGIES[name])


def ranges(options: Mapping[str, Scalar], keys: tuple[str, ...]) -> None:
    """Raises UsageError when one of the options ``keys`` that is given has another type, or is out of range."""
    for key in keys:
        if key not in options:
            continue
        value, (kind, low, high) = options[key], _RANGES[key]
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if not numeric or (kind is int and not isinstance(value, int)) or not low <= float(value) < high:
            what = "a whole number" if kind is int else "a number"
            upper = f" up to, not including, {high:g}" if high < math.inf else " on"
            raise UsageError(f"option {key} is {value!r}", f"give {what} from {low:g}{upper}")


def stop(rule: Stop | None) -> None:
    """Raises UsageError for a rule by which nothing could ever stop, or everything would at once."""
    if rule is None:
        return
    if not metrics.is_name(rule.metric):
        raise UsageError(f"stop looks at {rule.metric[:64]!r}, which cannot name a metric", metrics.NAMING)
    if rule.patience < 1:
        raise UsageError(f"stop has a patience of {rule.patience} rounds", "give at least 1")
    if not math.isfinite(rule.delta) or rule.delta < 0:
        raise UsageError(f"stop wants a gain of {rule.delta}", "give a number from 0 on")
    if rule.maximise and rule.metric.rpartition("_")[2] == "loss":
        raise UsageError(f"stop waits for {rule.metric} to grow", "set maximise=False of fl.Stop: a loss is to shrink")


def reported(rule: Stop | None, names: list[str]) -> str:
    """What is wrong if these are the metrics that are reported; empty when nothing is."""
    if rule is None or not names or rule.metric in names or rule.metric.startswith("train_"):
        return ""
    return f"stop looks at {rule.metric}, which nobody reports: there is {', '.join(sorted(names)[:8])}"


def objection(spec: AppSpec) -> str:
    """Why nobody can work for this descriptor, in one sentence; empty when its policies are sound."""
    try:
        strategy(spec.strategy, spec.options)
        stop(spec.stop)
    except UsageError as error:
        return f"{error}: {error.remedy}"
    return ""
