"""Prefix routing (Rowstron & Druschel 2001, section 2.3) with alternates.

A key within the leaf set's range goes to the closest leaf.  Otherwise the routing table names a node that shares one
digit more with the key; when that slot is empty or its node is suspected, any node will do that shares no fewer digits
and is numerically closer.  Each hop therefore makes progress in one of two measures and no message can circle among
nodes that agree; a hop limit ends it among those that do not.

A message that cannot be sent is tried with the next alternative.  A node that has not finished its consistent join
forwards like any other but delivers nothing: what would be its own waits until it is ready (MSPastry: Castro, Costa &
Rowstron, DSN 2004, section 3).
"""

from __future__ import annotations

from collections import deque

from protocol.ids import NodeId, closeness, digit, shared_prefix
from protocol.messages import Contact, Message, Routed

from .config import SECOND
from .messages import RowShare
from .ports import Verdict
from .view import View

_HELD = 32
_HOLD_LIFE = 10 * SECOND
_REPAIR_PERIOD = SECOND
_QUESTION_PERIOD = SECOND


class Router:
    """Moves routed messages through this node."""

    __slots__ = ("_held", "_looked", "_questioned", "_view", "dropped")

    def __init__(self, view: View) -> None:
        self._view = view
        self._held: deque[tuple[int, Routed]] | None = None
        self._looked = -_REPAIR_PERIOD
        self._questioned = -_QUESTION_PERIOD
        self.dropped = 0
        """Messages that exceeded the hop limit or were held too long."""

    def route(self, key: bytes, message: Message, now: int) -> None:
        """From here towards ``key``."""
        self.advance(self._view.me.id, Routed(key, self._view.me, 0, message), now)

    def advance(self, relay: NodeId, routed: Routed, now: int) -> None:
        """Ask the layer above, then move ``routed``, which came over the link of ``relay``, on or deliver it."""
        verdict = self._view.upcalls.intercept(routed.key, relay, routed.message, now)
        if isinstance(verdict, bytes):
            self._redirect(relay, routed, verdict, now)
        elif verdict is Verdict.CONTINUE:
            self.forward(routed, now, relay)

    def _redirect(self, relay: NodeId, routed: Routed, peer: NodeId, now: int) -> None:
        if peer == self._view.me.id:
            self._view.upcalls.deliver(routed.key, relay, routed.message, now)
        elif self._view.usable(peer):
            self.send(peer, routed, now)
        else:
            self.forward(routed, now, relay)

    def forward(self, routed: Routed, now: int, relay: NodeId = b"") -> None:
        """Move ``routed`` on without asking above: it was asked already, or the message is the ring's own.  ``relay``
        is empty for what came earlier: by now it is nobody's word."""
        hop = self.next_hop(routed.key)
        if hop is not None:
            self.send(hop.id, routed, now)
        elif self._view.ready:
            self._view.upcalls.deliver(routed.key, relay, routed.message, now)
        else:
            self.hold(routed, now)

    def send(self, peer: NodeId, routed: Routed, now: int) -> None:
        """One hop.  Now and then the hop is questioned along the way: nothing else would find out that an entry of the
        routing table died silently, and whoever repeats a lost message would lose it there again."""
        if routed.hops >= self._view.config.max_hops:
            self.dropped += 1
            return
        self._view.out.send(peer, Routed(routed.key, routed.origin, routed.hops + 1, routed.message))
        if now - self._questioned >= _QUESTION_PERIOD:
            self._questioned = now
            self._view.liveness.question(peer, now)

    # ---- not ready yet ----

    def hold(self, routed: Routed, now: int) -> None:
        """Keep ``routed`` until this node may answer for keys."""
        if self._held is None:
            self._held = deque()
        if len(self._held) >= _HELD:
            self._held.popleft()
            self.dropped += 1
        self._held.append((now, routed))

    def release(self, now: int) -> list[Routed]:
        """What was held and is not too old."""
        held, self._held = self._held or (), None
        fresh = [routed for since, routed in held if now - since <= _HOLD_LIFE]
        self.dropped += len(held) - len(fresh)
        return fresh

    # ---- where to ----

    def next_hop(self, key: bytes, avoid: NodeId = b"") -> Contact | None:
        """The next node towards ``key``, or None when this node is the closest one that it knows.

        ``avoid`` is never chosen: a node joins by a message to its own id, which must not find its ghost.
        """
        view = self._view
        if not view.me.dialable:
            return view.uplink
        if view.leaves.covers(key):
            best = view.leaves.closest(key)
            if best is None or (best.id != avoid and view.usable(best.id)):
                return best
            return self._closest_leaf(key, avoid)
        row = shared_prefix(view.me.id, key)
        entry = view.table.slot(row, digit(key, row))
        if entry is not None and entry.id != avoid and view.usable(entry.id):
            return entry
        found = view.table.closest(key, lambda peer: peer != avoid and view.usable(peer))
        leaf = self._closest_leaf(key, avoid)
        if found is None or (leaf is not None and closeness(key, leaf.id) < closeness(key, found.id)):
            return leaf
        return found

    def _closest_leaf(self, key: bytes, avoid: NodeId) -> Contact | None:
        view = self._view
        best: Contact | None = None
        best_rank = closeness(key, view.me.id)
        for contact in view.leaves:
            rank = closeness(key, contact.id)
            if rank < best_rank and contact.id != avoid and view.usable(contact.id):
                best, best_rank = contact, rank
        return best

    def is_closest(self, key: bytes) -> bool:
        """Is no usable node known that is closer to ``key``?"""
        return self._view.me.dialable and self.next_hop(key) is None

    def repair_sender(self, previous: NodeId, key: bytes, now: int) -> None:
        """Lazy repair: ``previous`` gained no digit by coming to us; if we have what its row lacks, tell it."""
        view = self._view
        if now - self._looked < _REPAIR_PERIOD or previous == view.me.id:
            return
        self._looked = now
        row = shared_prefix(previous, key)
        if shared_prefix(view.me.id, key) > row or shared_prefix(view.me.id, previous) < row:
            return
        entry = view.table.slot(row, digit(key, row))
        if entry is not None and entry.id != previous:
            view.out.send(previous, RowShare(tuple(view.table.row(row))))
