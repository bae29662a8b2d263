"""What two drivers say to each other on a control stream.  Kinds 112 to 127; machines never see these."""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocol.messages import Digest, Message, Natural, register


class DriverMessage(Message, frozen=True, gc=False, array_like=True):
    """Base of what stops at the driver."""


@register(112, 128)
class Goodbye(DriverMessage):
    """The last frame of a side that closes the link on purpose: what follows is no death."""

    why: Annotated[str, msgspec.Meta(max_length=16)] = "idle"


@register(113, 128)
class PushPlease(DriverMessage):
    """Send me ``blob`` from ``offset`` on: I cannot dial you, so you must open the bulk stream."""

    blob: Digest
    size: Natural
    offset: Natural


@register(114, 1024)
class PushRefused(DriverMessage):
    """``blob`` is not here, or no longer."""

    blob: Digest
    why: Annotated[str, msgspec.Meta(max_length=128)] = ""
