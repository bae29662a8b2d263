"""Is a partial fit to be counted?

Checked where it is made and at every hop, since whoever sums up rubbish passes it on in its own name.
"""

from __future__ import annotations

import math

from protocol.errors import Code

from .messages import MAX_METRICS, MAX_NAME, Partial

MAX_SUM = 1e300
"""Largest magnitude of a number in a partial: far below where adding up many of them would overflow."""


def flaw(partial: Partial) -> Code | None:
    """Why ``partial`` must not be counted; None when it may."""
    names = partial.metrics
    if not partial.value.well_formed or len(names) > MAX_METRICS or any(len(name) > MAX_NAME for name in names):
        return Code.MALFORMED
    numbers = (partial.weight, *partial.metrics.values())
    if partial.weight < 0 or not all(math.isfinite(number) and abs(number) <= MAX_SUM for number in numbers):
        return Code.NON_FINITE
    return None
