"""How long a call of the control API waits for the fabric, and what it says when nothing came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from protocol.errors import TransportError

from .keeper import Keeper

PATIENCE_S = 15.0
"""Seconds that a call waits for the fabric.  A look-up takes hops × round trip, well below a second; after a death in
its way it is repeated once the death is noticed, within 3 s."""


@asynccontextmanager
async def patience(otherwise: str) -> AsyncIterator[None]:
    """A time limit whose end is a TransportError that says ``otherwise``."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except TimeoutError:
        remedy = "see `mycelia status` and `mycelia logs`"
        raise TransportError(f"{otherwise} within {PATIENCE_S:.0f} seconds", remedy) from None


async def until(keeper: Keeper, holds: Callable[[], bool], otherwise: str) -> None:
    """Wait until what ``keeper`` notes makes ``holds`` true.  Raises TransportError saying ``otherwise``."""
    async with patience(otherwise), keeper.noted:
        await keeper.noted.wait_for(holds)
