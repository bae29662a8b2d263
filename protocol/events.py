"""Everything that can happen to a machine.  Times are integer nanoseconds of the driver's clock."""

from __future__ import annotations

from typing import Any, dataclass_transform

import msgspec

from .ids import BlobId, NodeId
from .messages import Message, Routed

Timer = tuple[str | bytes | int, ...]
"""Names a timer: the part that set it, what for, and for whom.  Setting it again replaces it."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, frozen=True, gc=False):
    """Base of all events."""


class Received(Event):
    """A message arrived on the authenticated link from ``peer``."""

    peer: NodeId
    message: Message | Routed


class TimerFired(Event):
    timer: Timer
    due: int
    """When it was to fire, ns; ``now - due`` is how late this node's loop is (Lifeguard's local health)."""


class Command(Event):
    """The local user, or the program above, asks for something.  Requests are defined by the part that serves them."""

    request: Any


class PeerUp(Event):
    """A link to ``peer`` stands."""

    peer: NodeId


class PeerDown(Event):
    """The link to ``peer`` is gone: ``closed`` by its process or host, ``idle`` by agreement, ``revoked``."""

    peer: NodeId
    why: str = "closed"


class SendFailed(Event):
    """``message`` was not delivered and will not be retried by the driver."""

    peer: NodeId
    message: Message | Routed


class LinkSample(Event):
    """A measurement of the link to ``peer``: round trip in ns, rate in bytes/s (0: not measured)."""

    peer: NodeId
    rtt: int
    rate: float = 0.0


class Stored(Event):
    """The ``Store`` of ``key`` is durable."""

    key: str


class ComputeDone(Event):
    """The ``Compute`` of ``job`` ended.  When it failed ``result`` is None and ``error`` is one sentence; the lines
    below it, if there are any, are the traceback of the user's code."""

    job: int
    result: Any = None
    error: str = ""


class TransferDone(Event):
    """The whole of ``blob`` is in the artifact store and its digest was verified."""

    blob: BlobId


class TransferFailed(Event):
    """``blob`` stopped after ``progress`` bytes, which are kept, so that the next transfer resumes there."""

    blob: BlobId
    progress: int
    why: str = ""
