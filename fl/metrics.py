"""Metrics as they travel: weighted sums, each beside its weight, so that a tree can add them in any order.

``{"loss": 12.5, "loss.n": 25.0}`` is a mean loss of 0.5 over 25 samples.  Names that some workers do not report keep
their own weight and so their own mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from protocol.errors import UsageError

WEIGHT = ".n"
MAX_METRICS = 32
"""Names per worker; a message carries twice as many numbers, which is what its type allows."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,47}")

NAMING = "use letters, digits and _ . / -, at most 48, beginning with a letter, a digit or _, not ending in .n"


def is_name(name: str) -> bool:
    """Can it name a metric?"""
    return bool(_NAME.fullmatch(name)) and not name.endswith(WEIGHT)


def sums(means: Mapping[str, float], weight: float) -> dict[str, float]:
    """Sums from one worker's means, all of the same ``weight``.

    A mean that is not finite is left out: it would erase everybody else's.  Raises UsageError for a bad name.
    """
    if len(means) > MAX_METRICS:
        raise UsageError(f"{len(means)} metrics, the limit is {MAX_METRICS}", "report fewer")
    result: dict[str, float] = {}
    for name, mean in means.items():
        if not is_name(name):
            raise UsageError(f"{name[:64]!r} cannot name a metric", NAMING)
        try:
            value = float(mean) * weight
        except (TypeError, ValueError):
            raise UsageError(f"metric {name} is a {type(mean).__name__}", "report numbers") from None
        if math.isfinite(value) and math.isfinite(weight):
            result[name], result[name + WEIGHT] = value, float(weight)
    return result


def means(totals: Mapping[str, float]) -> dict[str, float]:
    """Means from sums; a name without a positive weight is left out.  Total: never raises on what a peer sent."""
    result = {}
    for name, total in totals.items():
        weight = totals.get(name + WEIGHT, 0.0)
        if not name.endswith(WEIGHT) and weight > 0:
            result[name] = total / weight
    return result
