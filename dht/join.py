"""Joining: find the ring, then be known before being responsible.

A joiner routes ``JoinRing`` to its own id through a seed.  Every hop shares the rows that the joiner can use, and the
closest ready node answers ``Welcome`` with its leaf set (Rowstron & Druschel 2001, section 2.4).  The joiner then
probes all future neighbours and answers for keys only when the nearest of them have answered or were found dead
(consistent join, Castro, Costa & Rowstron 2004): two ready neighbours never both believe that a key is theirs.

A node with seeds never makes a ring of its own, however long nobody answers.  The one exception is a fabric that was
restarted as a whole: then all seeds are alive and none is ready.  Joiners that meet tell each other so (a ``JoinRing``
that is not routed), and the one with the smallest id goes first.  Should two go first because they did not know of each
other, their rings merge like the halves of a partition (``maintenance``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from protocol.ids import NodeId, closeness, shared_prefix
from protocol.messages import Contact, Routed

from .messages import JoinRing, LeafProbe, LeafReply, RowShare, Welcome
from .probing import Prober
from .routing import Router
from .view import View

TIMER = ("ring.join",)
_FELLOWS = 64
_FELLOW_SILENCE = 3
"""Longest pauses between attempts after which a fellow that never answered again is given up."""
_ROW_SHARE = 64
_UNWELCOME_AFTER = 3
"""Attempts without a welcome after which a joiner goes by what else it has heard."""
_TARGETS = 3


class Phase(enum.Enum):
    IDLE = "idle"
    SEEKING = "seeking"
    PROBING = "probing"
    READY = "ready"


def pause(view: View, passes: int) -> int:
    """Pause (ns) until the next attempt after ``passes`` rounds over all who can be asked: doubled each round."""
    config = view.config
    backed_off = min(config.join_retry << min(max(passes - 1, 0), 16), config.join_retry_max)
    return int(backed_off * view.stream.uniform(0.75, 1.25))


class Joiner:
    """Takes this node into the ring, and others through it."""

    __slots__ = (
        "_asked", "_attempt", "_fellows", "_on_ready", "_prober", "_router", "_sighted", "_since", "_view", "phase",
    )  # fmt: skip

    def __init__(self, view: View, prober: Prober, router: Router, on_ready: Callable[[int], None]) -> None:
        self._view = view
        self._prober = prober
        self._router = router
        self._on_ready = on_ready
        self.phase = Phase.IDLE
        self._attempt = 0
        self._asked: dict[NodeId, int] = {}
        """Attempts at which each seed or fellow was asked last."""
        self._fellows: dict[NodeId, tuple[Contact, int]] = {}
        """Nodes that said that they are joining as well, and when they said so last."""
        self._since = 0
        self._sighted = 0
        """When anything was last heard from the ring proper; 0: never."""

    # ---- this node joins ----

    def start(self, now: int) -> None:
        """Join through the view's seeds, or be the first when there are none."""
        if self._view.seeds:
            self._seek(now)
        else:
            self._become_ready(now)

    def _seek(self, now: int) -> None:
        self.phase = Phase.SEEKING
        self._attempt = 0
        self._since = now
        self._sighted = 0
        self._asked.clear()
        self._ask(now)

    def revalidate(self, now: int) -> None:
        """After a long sleep others may have taken this node for dead: be known again before being responsible."""
        if self.phase is not Phase.READY:
            return
        self._view.answer_for_keys(False)
        self._introduce(self._view.leaves.nearest(self._view.config.join_side), now)

    def _introduce(self, contacts: list[Contact], now: int) -> None:
        """Become known, beginning with ``contacts``; what they answer leads to the others."""
        self.phase = Phase.PROBING
        for contact in contacts:
            self._prober.probe(contact, now)
        self.settle(now)

    def _acquainted(self, now: int) -> list[Contact]:
        """Whom to turn to when the ring answers but nobody welcomes us: the nearest that its rows have named.

        Whoever is closest to us is then joining as well.  That happens to neighbours that start again together, before
        anybody misses them: each one's request ends at the other.
        """
        view = self._view
        if self._attempt < _UNWELCOME_AFTER or now - self._sighted > view.config.join_retry_max:
            return []
        known = {contact.id: contact for contact in (*view.table.entries(), *view.leaves)}
        members = [contact for peer, contact in known.items() if peer not in self._fellows and view.usable(peer)]
        return sorted(members, key=lambda contact: closeness(view.me.id, contact.id))[: 2 * view.config.join_side]

    def stop(self) -> None:
        self.phase = Phase.IDLE
        self._view.answer_for_keys(False)
        self._view.out.cancel_timer(TIMER)

    def on_timer(self, now: int) -> None:
        if self.phase is not Phase.SEEKING:
            return
        if self._may_go_first(now):
            self._become_ready(now)
            return
        acquainted = self._acquainted(now)
        if acquainted:
            self._introduce(acquainted, now)
        else:
            self._ask(now)

    def _ask(self, now: int) -> None:
        """Ask the seeds and fellows that were asked least recently."""
        view = self._view
        oldest = now - _FELLOW_SILENCE * view.config.join_retry_max
        self._fellows = {peer: fellow for peer, fellow in self._fellows.items() if fellow[1] >= oldest}
        known = dict.fromkeys([*(seed.id for seed in view.seeds), *self._fellows])
        targets = sorted(known, key=lambda peer: self._asked.get(peer, -1))[:_TARGETS]
        self._attempt += 1
        for peer in targets:
            self._asked[peer] = self._attempt
            self._request(peer)
        view.out.set_timer(TIMER, now + pause(view, self._attempt * _TARGETS // max(len(known), 1)))

    def _request(self, peer: NodeId) -> None:
        me = self._view.me
        self._view.out.send(peer, Routed(me.id, me, 1, JoinRing(me)))

    def failed(self, peer: NodeId, now: int) -> None:
        """A request could not be delivered: try another seed now if there is one that was not asked yet."""
        self._fellows.pop(peer, None)
        if self.phase is not Phase.SEEKING:
            return
        for seed in self._view.seeds:
            if seed.id not in self._asked:
                self._asked[seed.id] = self._attempt
                self._request(seed.id)
                return

    def refresh(self, contact: Contact) -> None:
        """Join once more through ``contact``: the way there renews the table, and if it belongs to another part of
        the ring, that part's node closest to us answers and the parts merge (FreePastry's ``PartitionHandler``)."""
        self._view.learn(contact)
        self._request(contact.id)

    def on_welcome(self, peer: NodeId, message: Welcome, now: int) -> None:
        """The leaf set of the ready node closest to us.  Uninvited it is hearsay like any other."""
        if self.phase is Phase.IDLE:
            return
        self._sighted = now
        if self.phase is Phase.SEEKING:
            self.phase = Phase.PROBING
        for contact in message.leaves:
            self._view.consider(contact)
        self._prober.suggest(message.leaves, now)
        self.settle(now)

    def on_rows(self, message: RowShare, now: int) -> None:
        """Candidates for the routing table."""
        if self.phase is Phase.IDLE:
            return
        self._sighted = now
        for contact in message.contacts:
            self._view.consider(contact)

    # ---- neighbours answer, or are gone ----

    def on_probe(self, peer: NodeId, message: LeafProbe, now: int) -> None:
        self._prober.on_probe(peer, message, now)

    def on_reply(self, peer: NodeId, message: LeafReply, now: int) -> None:
        self._prober.on_reply(peer, message, now)
        self.settle(now)

    def unreachable(self, peer: NodeId, now: int) -> None:
        self.settle(now)

    def lost(self, peer: NodeId, now: int) -> None:
        self.settle(now)

    def settle(self, now: int) -> None:
        """Something changed among the probes: are all near neighbours accounted for?"""
        if self.phase is not Phase.PROBING or self._prober.blocking(self._view.config.join_side):
            return
        if len(self._view.leaves) == 0 and self._view.seeds:
            self._seek(now)
        else:
            self._become_ready(now)

    def _become_ready(self, now: int) -> None:
        view = self._view
        self.phase = Phase.READY
        view.answer_for_keys(True)
        view.out.cancel_timer(TIMER)
        fellows, self._fellows = self._fellows, {}
        self._asked.clear()
        self._on_ready(now)
        for fellow, _ in fellows.values():
            self.admit(fellow.id, fellow, None, now)

    # ---- the fabric as a whole starts ----

    def _may_go_first(self, now: int) -> bool:
        view = self._view
        cold = view.config.cold_start
        if not self._fellows or now - self._since < cold or (self._sighted and now - self._sighted < cold):
            return False
        everyone_asked = all(seed.id in self._asked for seed in view.seeds)
        return everyone_asked and all(view.me.id < fellow for fellow in self._fellows)

    def on_fellow(self, peer: NodeId, joiner: Contact, now: int) -> None:
        """``peer`` is joining as well; if we have been successful, help it."""
        if joiner.id != peer or self._view.foreign(joiner):
            return
        self._view.learn(joiner)
        if self.phase is Phase.SEEKING:
            if peer in self._fellows or len(self._fellows) < _FELLOWS:
                self._fellows[peer] = joiner, now
        elif self.phase is Phase.READY:
            self.admit(peer, joiner, None, now)

    # ---- others join through this node ----

    def on_request(self, peer: NodeId, routed: Routed, joiner: Contact, now: int) -> None:
        """A hop of somebody's join."""
        me = self._view.me
        if joiner.id != routed.key or joiner.id != routed.origin.id or self._view.foreign(joiner):
            return
        if self.phase is Phase.SEEKING:
            self.on_fellow(joiner.id, joiner, now)
            self._view.out.send(joiner.id, JoinRing(me))
        elif self.phase is not Phase.IDLE:
            self.admit(peer, joiner, routed, now)

    def admit(self, peer: NodeId, joiner: Contact, routed: Routed | None, now: int) -> None:
        """Share rows with ``joiner``, which came by ``peer``, and move its request on or welcome it."""
        view = self._view
        view.learn(joiner)
        hop = self._router.next_hop(joiner.id, avoid=joiner.id)
        if hop is None and not view.ready:
            self._router.hold(routed or Routed(joiner.id, joiner, 1, JoinRing(joiner)), now)
            return
        view.out.send(joiner.id, RowShare(self._rows_for(peer, joiner.id)))
        if hop is not None:
            self._router.send(hop.id, routed or Routed(joiner.id, joiner, 1, JoinRing(joiner)), now)
        else:
            leaves = (view.me, *(leaf for leaf in view.leaves if leaf.id != joiner.id and view.usable(leaf.id)))
            view.out.send(joiner.id, Welcome(leaves))

    def _rows_for(self, previous: NodeId, joiner: NodeId) -> tuple[Contact, ...]:
        """Rows of ours that fit the joiner and that the previous hop could not give; ourselves first."""
        view = self._view
        last = shared_prefix(view.me.id, joiner)
        first = 0 if previous == joiner else min(shared_prefix(previous, joiner) + 1, last)
        rows = [view.me]
        for row in range(first, last + 1):
            rows.extend(contact for contact in view.table.row(row) if contact.id != joiner)
        return tuple(rows[:_ROW_SHARE])
