"""Leaf members: nodes that can only dial out (DESIGN section 5).

They are in nobody's table and own no keys.  They keep links to two full members: the active *gateway*, to which
everything that they route goes, and a standby that carries nothing but a ping now and then.  When the active one dies
the standby takes over at once and another is sought among the seeds and the leaf sets that gateways shared.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.ids import NodeId
from protocol.messages import Contact

from .join import TIMER, pause
from .messages import LeafProbe, LeafReply
from .view import View

_SEEDS = 16
_LEISURE = 16
"""Rounds of back-off at which a standby is sought: the longest pause."""


class Gateway:
    """The attachment of a leaf member to the ring."""

    __slots__ = ("_attempt", "_candidates", "_on_ready", "_seeds", "_tried", "_view", "active", "standby")

    def __init__(self, view: View, on_ready: Callable[[int], None]) -> None:
        self._view = view
        self._on_ready = on_ready
        self.active: NodeId | None = None
        self.standby: NodeId | None = None
        self._seeds: tuple[Contact, ...] = ()
        self._candidates: dict[NodeId, Contact] = {}
        """The seeds and the leaf set that a gateway showed last."""
        self._tried: dict[NodeId, int] = {}
        """Number of the attempt at which a candidate was asked last."""
        self._attempt = 0

    def start(self, now: int) -> None:
        self._seeds = self._view.seeds[:_SEEDS]
        self._propose(())
        self._seek(now)

    def _propose(self, leaves: tuple[Contact, ...]) -> None:
        """Take ``leaves`` as candidates in place of those of the last gateway; addresses of gateways are kept."""
        gateways = [self._candidates[peer] for peer in (self.active, self.standby) if peer is not None]
        offered = [contact for contact in leaves if not self._view.foreign(contact)]
        self._candidates = {contact.id: contact for contact in (*self._seeds, *offered, *gateways)}
        self._tried = {peer: attempt for peer, attempt in self._tried.items() if peer in self._candidates}
        self._view.seek_among(tuple(self._candidates.values()))

    def _seek(self, now: int) -> None:
        """Ask the candidate that was asked least recently, until there are two gateways."""
        view = self._view
        free = [peer for peer in self._candidates if peer not in (self.active, self.standby)]
        if free and (self.active is None or self.standby is None):
            self._attempt += 1
            peer = min(free, key=lambda candidate: self._tried.get(candidate, -1))
            self._tried[peer] = self._attempt
            view.learn(self._candidates[peer])
            view.out.send(peer, LeafProbe(view.me, ()))
        rounds = self._attempt // max(len(free), 1) if self.active is None else _LEISURE
        view.out.set_timer(TIMER, now + pause(view, rounds))

    def on_timer(self, now: int) -> None:
        self._seek(now)

    def on_reply(self, peer: NodeId, message: LeafReply, now: int) -> None:
        """A full member, ready itself, takes us."""
        if message.sender.id != peer or not message.sender.dialable or peer not in self._tried:
            return
        view = self._view
        view.book.put(message.sender, direct=True)
        view.ghosts.pop(peer)
        self._propose((*message.leaves, message.sender))
        if self.active is None:
            self._activate(peer, now)
        elif self.standby is None and peer != self.active:
            self.standby = peer
            self._attend(now)
        if self.standby is None:
            self._seek(now)

    def on_probe(self, peer: NodeId, message: LeafProbe, now: int) -> None:
        """A leaf member has no leaves to tell of."""

    def unreachable(self, peer: NodeId, now: int) -> None:
        """A candidate could not be reached."""
        first_round = self._attempt <= len(self._candidates)
        if self.active is None and first_round and self._tried.get(peer) == self._attempt:
            self._seek(now)

    def _activate(self, peer: NodeId, now: int) -> None:
        self.active = peer
        self._attend(now)
        if not self._view.ready:
            self._view.answer_for_keys(True)
            self._on_ready(now)

    def _attend(self, now: int) -> None:
        """Route by the active gateway and listen to both."""
        self._view.attach(None if self.active is None else self._candidates[self.active])
        self._view.liveness.set_neighbours([peer for peer in (self.active, self.standby) if peer is not None], now)

    def _detach(self) -> None:
        self.active = None
        self._view.attach(None)
        self._view.answer_for_keys(False)

    def lost(self, peer: NodeId, now: int) -> None:
        """``peer`` died."""
        if peer == self.standby:
            self.standby = None
        elif peer == self.active and self.standby is not None:
            standby, self.standby = self.standby, None
            self._activate(standby, now)
        elif peer == self.active:
            self._detach()
        else:
            return
        self._tried[peer] = self._attempt
        self._seek(now)

    def stop(self) -> None:
        self.standby = None
        self._detach()
        self._view.out.cancel_timer(TIMER)
