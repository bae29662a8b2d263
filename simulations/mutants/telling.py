"""Bugs of who is told what: wrong clocks that are believed, news that a node keeps to itself, nobody who stands in."""
# ruff: noqa: SLF001 - a planted bug has the body of the method that it replaces

from __future__ import annotations

from contextlib import AbstractContextManager

from dht.messages import Record, RecordPush
from dht.replication import Replication
from dht.wallclock import WallClock
from node.core import NodeCore
from protocol.errors import Code
from protocol.ids import NodeId
from pubsub.grove import Grove
from pubsub.rendezvous import Rendezvous

from .planting import patched, together


def skew_is_believed() -> AbstractContextManager[None]:
    """A node goes by its own clock, whatever the others say."""

    def settle(self: WallClock) -> bool:
        return False

    return patched(WallClock, "_settle", settle)


def rim_is_blamed() -> AbstractContextManager[None]:
    """Who passes on a record that is over by the receiver's clock is punished for it."""
    original = Replication.on_push

    def on_push(self: Replication, peer: NodeId, message: RecordPush, now: int) -> None:
        for record in message.records:
            if not 0 < record.expires - self._clock.wall(now) <= self._view.config.record_lifetime:
                self._view.out.penalize(peer, Code.UNAUTHORISED, "a record that is over")
        original(self, peer, message, now)

    return patched(Replication, "on_push", on_push)


def unfit_is_dropped() -> AbstractContextManager[None]:
    """What is signed where the clock is wrong is dropped as soon as anybody confirms that clock."""
    original = NodeCore._take_up

    def take_up(self: NodeCore, key: str, record: Record, now: int) -> None:
        if self.fits(record, now) or not self.ring.clock_confirmed:
            original(self, key, record, now)

    return patched(NodeCore, "_take_up", take_up)


def nobody_stands_in() -> AbstractContextManager[None]:
    """Whoever the closest node refuses goes on asking it."""

    def in_vain(self: Grove, peer: NodeId, now: int) -> bool:
        return False

    def deputise(self: Rendezvous, now: int) -> None:
        """Nobody asked."""

    return together(patched(Grove, "_in_vain", in_vain), patched(Rendezvous, "deputise", deputise))
