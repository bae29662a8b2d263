"""Is a partial fit to be counted?  Checked at every hop, since whoever sums up rubbish passes it on in its own name."""

from __future__ import annotations

import math

from protocol.errors import Code

from .messages import Partial

MAX_SUM = 1e300
"""Largest magnitude of a number in a partial: far below where adding up many of them would overflow."""


def flaw(partial: Partial) -> Code | None:
    """Why ``partial`` must not be counted; None when it may."""
    if not partial.value.well_formed:
        return Code.MALFORMED
    numbers = (partial.weight, *partial.metrics.values())
    if partial.weight < 0 or not all(math.isfinite(number) and abs(number) <= MAX_SUM for number in numbers):
        return Code.NON_FINITE
    return None
