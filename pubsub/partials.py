"""Is a partial fit to be counted?

Checked where it is made and at every hop, since whoever sums up rubbish passes it on in its own name.  The bounds are
such that what an honest node makes of partials within them is within them again, so that nobody is blamed for what
somebody below did: a bound is so much for each contributor, and such a multiple of a power of two is a number that
float32 and float64 hold exactly, so rounding a sum never lifts it above the bound.
"""

from __future__ import annotations

from protocol.errors import Code

from .heads import MAX_METRICS, MAX_NAME
from .messages import Partial

MIN_WEIGHT, MAX_WEIGHT = 2.0**-40, 2.0**40
"""Of one contributor, such as its number of samples: 10^12 of them are more than any node has."""

MAX_SUM = 2.0**100
"""Largest magnitude of a metric sum, and of an element of a value, per contributor: 10^30.  With as many contributors
as a partial can name the sum stays in the range of float32."""

WEIGHT = ".n"
"""Ending of the name under which the weight of a metric travels."""


def flaw(partial: Partial) -> Code | None:
    """Why ``partial`` must not be counted; None when it may."""
    members, metrics = partial.contributors, partial.metrics
    if not members or len(set(members)) < len(members) or not partial.value.well_formed:
        return Code.MALFORMED
    if len(metrics) > MAX_METRICS or not all(len(name) <= MAX_NAME and _named(name, partial) for name in metrics):
        return Code.MALFORMED
    weights = [partial.weight, *(number for name, number in metrics.items() if name.endswith(WEIGHT))]
    # Comparisons with NaN are false, so each says what must hold.
    if not all(_weighs(number, len(members)) for number in weights) or not partial.weight > 0:
        return Code.NON_FINITE
    if not all(abs(number) <= MAX_SUM * len(members) for number in metrics.values()):
        return Code.NON_FINITE
    return None


def _named(name: str, partial: Partial) -> bool:
    """A weight stands beside the sum that it belongs to."""
    of = name.removesuffix(WEIGHT)
    return of == name or (of in partial.metrics and not of.endswith(WEIGHT))


def _weighs(number: float, members: int) -> bool:
    """Zero: this metric was not measured."""
    return number == 0 or MIN_WEIGHT <= number <= MAX_WEIGHT * members
