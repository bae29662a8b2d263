"""What the ring asks of the layers above it, and what it offers them.

The ring knows nothing of trees.  At each hop of a routed message it asks the layer above whether to go on
(``intercept``), and when the key is its own it hands the message up (``deliver``).
"""

from __future__ import annotations

import enum
from typing import Protocol

from protocol.ids import NodeId
from protocol.messages import Contact, Message

from .messages import LeafProbe, LeafReply, Record


class Verdict(enum.Enum):
    """Answer of the layer above to a message that passes by."""

    CONTINUE = "continue"
    CONSUME = "consume"


class Entrance(Protocol):
    """How this node gets into the ring, and back in: a full member joins it, one that only dials out has gateways."""

    def start(self, now: int) -> None: ...
    def stop(self) -> None: ...
    def on_timer(self, now: int) -> None: ...
    def on_probe(self, peer: NodeId, message: LeafProbe, now: int) -> None: ...
    def on_reply(self, peer: NodeId, message: LeafReply, now: int) -> None: ...
    def unreachable(self, peer: NodeId, now: int) -> None:
        """A probe to ``peer`` could not be delivered."""
        ...

    def lost(self, peer: NodeId, now: int) -> None:
        """``peer`` is dead, and in no table any more."""
        ...


class Upcalls(Protocol):
    """Implemented by ``node.core``."""

    def intercept(self, key: bytes, relay: NodeId, message: Message, now: int) -> Verdict | NodeId:
        """A routed message passes through here; a NodeId redirects it to that peer.  ``relay`` handed it to this node
        over its own link, or is this node; who made it is not known.  Nothing is passed on that was not asked about."""
        ...

    def deliver(self, key: bytes, relay: NodeId, message: Message, now: int) -> None:
        """This node is the one closest to ``key``.  The message was asked about before; ``relay`` is empty if that was
        earlier."""
        ...

    def peer_dead(self, peer: NodeId, why: str, silence: int, now: int) -> None:
        """``peer`` is declared dead: ``closed``, ``silent``, ``refused``, ``left`` or ``revoked``."""
        ...

    def leaves_changed(self, now: int) -> None:
        """Who is closest to some key may have changed."""
        ...

    def ring_ready(self, now: int) -> None:
        """Consistent join is complete: this node may answer for keys."""
        ...

    def replicas_found(self, token: int, contacts: tuple[Contact, ...], now: int) -> None: ...

    def authorise(self, record: Record) -> bool:
        """May ``record.signer`` say this here?  The signature is verified afterwards, since that costs most."""
        ...

    def record_changed(self, record: Record, now: int) -> None:
        """A record is new, or newer than the one held before."""
        ...

    def clock_changed(self, error: int, now: int) -> None:
        """This machine's clock is ``error`` seconds ahead of the others' (0: it is right to a few minutes)."""
        ...

    def record_dropped(self, record: Record, now: int) -> None:
        """A record expired, had to make room, or is not wanted any more."""
        ...
