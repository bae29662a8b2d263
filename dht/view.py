"""What this node believes about the ring: who is in it, where they are, and who has gone.

All parts of the ring share one view.  Only a node that was heard from directly enters the leaf set; hearsay may fill
an empty slot of the routing table, where a mistake costs a detour and not a wrong owner.  Whoever is declared dead is
in no table from then on and becomes a ghost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.ids import ZONE_BYTES, NodeId, closeness
from protocol.messages import Contact

from .contacts import AddressBook, Ghosts, supersedes
from .liveness import Liveness
from .tables import LeafSet, RoutingTable

if TYPE_CHECKING:
    from protocol.effects import Outbox
    from protocol.streams import Stream

    from .config import RingConfig
    from .ports import Upcalls


class View:
    """Tables, addresses, ghosts and liveness of one node."""

    __slots__ = (
        "_neighbours", "_zone", "book", "changed", "config", "current", "ghosts", "leaves", "liveness", "lost_leaf",
        "lost_neighbour", "me", "out", "ready", "seeds", "started", "stream", "table", "upcalls", "uplink",
    )  # fmt: skip

    def __init__(
        self,
        me: Contact,
        config: RingConfig,
        out: Outbox,
        upcalls: Upcalls,
        stream: Stream,
        digest: Callable[[], bytes],
    ) -> None:
        self.me = me
        self.config = config
        self.out = out
        self.upcalls = upcalls
        self.stream = stream
        self.ready = False
        self.started = False
        """Between ``start`` and ``leave``."""
        self.leaves = LeafSet(me.id, config.leaf_side)
        self.table = RoutingTable(me.id)
        self.book = AddressBook(config.book_size)
        self.ghosts = Ghosts(config.ghosts, config.ghost_life)
        self.liveness = Liveness(me.id, config, out, stream.token(), digest)
        self.seeds: tuple[Contact, ...] = ()
        self.current: NodeId = b""
        """Whose message is being handled: it is certainly there."""
        self._neighbours: tuple[NodeId, ...] = ()
        self.changed = False
        """The leaf set changed and the layers above were not told yet."""
        self.lost_leaf = False
        """A member of the leaf set died and nobody was asked for another yet (``maintenance``)."""
        self.lost_neighbour = False
        """The same of an immediate neighbour: it is for us to tell the others."""
        self.uplink: Contact | None = None
        """The gateway of a leaf member."""
        self._zone = me.id[:ZONE_BYTES]

    # ---- this node's own state ----

    def begin(self, seeds: tuple[Contact, ...]) -> None:
        """This node takes part from now on; ``seeds`` are who may let it in."""
        self.started = True
        self.seek_among(tuple(seed for seed in seeds if not self.foreign(seed)))

    def end(self) -> None:
        """This node has left."""
        self.started = False

    def seek_among(self, seeds: tuple[Contact, ...]) -> None:
        """Whom to turn to when nobody else is left."""
        self.seeds = seeds

    def answer_for_keys(self, ready: bool) -> None:
        """This node is responsible from now on, or not any more."""
        self.ready = ready

    def attach(self, uplink: Contact | None) -> None:
        """A leaf member routes everything by ``uplink``."""
        self.uplink = uplink

    def listen(self, peer: NodeId) -> None:
        """A message of ``peer`` is being handled; of nobody when it is empty."""
        self.current = peer

    def mended(self) -> bool:
        """Others are asked for in place of the leaves that were lost; was an immediate neighbour among those?"""
        neighbour, self.lost_leaf, self.lost_neighbour = self.lost_neighbour, False, False
        return neighbour

    # ---- questions ----

    def contact(self, peer: NodeId) -> Contact | None:
        """The best known addresses of ``peer``: what it said itself, then hearsay."""
        found = self.leaves.get(peer) or self.book.get(peer) or self.table.get(peer)
        if found is not None:
            return found
        ghost = self.ghosts.get(peer)
        if ghost is not None:
            return ghost.contact
        return next((seed for seed in self.seeds if seed.id == peer), None)

    def usable(self, peer: NodeId) -> bool:
        """May something be routed to ``peer``?"""
        return not self.liveness.suspected(peer) and peer not in self.ghosts

    def closest(self, key: bytes, count: int) -> list[Contact]:
        """Live dialable contacts nearest to ``key``, this node included, as far as this node knows."""
        known = {contact.id: contact for contact in self.leaves}
        if not self.leaves.covers(key):
            known |= {contact.id: contact for contact in self.table.entries()}
        nearest = [contact for contact in known.values() if self.usable(contact.id)]
        if self.me.dialable:
            nearest.append(self.me)
        nearest.sort(key=lambda contact: closeness(key, contact.id))
        return nearest[:count]

    def foreign(self, contact: Contact) -> bool:
        """Not somebody who can be in our tables."""
        peer = contact.id
        return peer[:ZONE_BYTES] != self._zone or peer == self.me.id or not contact.addresses

    def barred(self, contact: Contact) -> bool:
        """A ghost, of whom hearsay brings nothing new."""
        ghost = self.ghosts.get(contact.id)
        return ghost is not None and not supersedes(contact, ghost.contact)

    # ---- news ----

    def learn(self, contact: Contact) -> None:
        """Hearsay: remember the address, nothing else."""
        ghost = self.ghosts.get(contact.id)
        if ghost is not None:
            if supersedes(contact, ghost.contact):
                ghost.moved(contact)
        elif contact.id != self.me.id and contact.id not in self.leaves:
            self.book.put(contact)

    def consider(self, contact: Contact) -> None:
        """Hearsay: a candidate for the routing table.  A ghost comes back by its own word only."""
        if not self.foreign(contact) and contact.id not in self.ghosts:
            self.table.put(contact)

    def confirm(self, contact: Contact, now: int) -> None:
        """``contact`` itself said so, over its own link."""
        peer = contact.id
        self.note_life(contact, now)
        self.ghosts.pop(peer)
        if self.foreign(contact) or not self.me.dialable:
            # Another zone's, or ours but we only dial out: neither belongs into the tables of this one.
            self.book.put(contact, direct=True)
            return
        self.book.forget(peer)
        self.table.put(contact)
        if self.leaves.add(contact):
            self._leaves_changed(now)
        elif peer not in self.leaves and self.table.get(peer) is None:
            self.book.put(contact, direct=True)

    def note_life(self, contact: Contact, now: int) -> None:
        """A watched peer in a later life has lost what its watchers relied on: tell them that it died."""
        known = self.contact(contact.id)
        if known is not None and 0 < known.incarnation < contact.incarnation and self.liveness.watched(contact.id):
            self.bury(contact.id, "closed", now)

    def revive(self, peer: NodeId, now: int) -> Contact | None:
        """A ghost spoke.  Its contact, unless it had left for good and only an old message of it was late."""
        ghost = self.ghosts.get(peer)
        if ghost is None or ghost.final:
            return None
        self.confirm(ghost.contact, now)
        return ghost.contact

    def bury(self, peer: NodeId, why: str, now: int) -> None:
        """``peer`` is dead: out of all tables, and those above are told."""
        final = why in ("left", "revoked")
        ghost = self.ghosts.get(peer)
        if ghost is not None:
            ghost.departed(final=final)
            if not self.liveness.monitors(peer):
                return
        contact = self.contact(peer)
        silence = self.liveness.forget(peer, now)
        self.table.remove(peer)
        self.book.forget(peer)
        if ghost is None:
            self.ghosts.add(contact or Contact(peer), now, final=final)
        near = peer in self._neighbours
        if self.leaves.remove(peer):
            self.lost_leaf = True
            self.lost_neighbour |= near
            self._leaves_changed(now)
        self.upcalls.peer_dead(peer, why, silence, now)

    def _leaves_changed(self, now: int) -> None:
        self.changed = True
        neighbours = self.leaves.neighbours()
        if neighbours != self._neighbours:
            self._neighbours = neighbours
            self.liveness.set_neighbours(neighbours, now)

    def tell(self, now: int) -> None:
        """Pass a change of the leaf set on, once per step."""
        if self.changed:
            self.changed = False
            self.upcalls.leaves_changed(now)

    def check(self) -> None:
        """Raise AssertionError when a table is out of order, over its bound, or holds a dead node."""
        self.leaves.check()
        self.table.check()
        assert len(self.book) <= self.config.book_size
        assert len(self.ghosts) <= self.config.ghosts
        for contact in (*self.leaves, *self.table.entries()):
            assert contact.id not in self.ghosts, "a dead node is in a table"
        assert self.me.dialable or not self.leaves, "a leaf member holds a leaf set"
