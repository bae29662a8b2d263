"""This node as candidate and as root of one application: what follows from winning an epoch, and from losing it.

A root commits rounds, one head at a time, and with each at most one change of the voters.  While a round is long it
looks after the voters all the same: a dead one is replaced by a head of the same round and a next *revision*, so that a
minority that dies, and later another, does not add up to a lost application.

A root says to its voters every few seconds that it reigns, with the last head that it committed as proof.  Whoever
hears it promises nothing to others; whoever follows another by now says so.  A root gives way when a majority of its
voters refuses it, or when a newer head proves that there was another: never on the word of a single node.  A minority
that refuses it is won back by a newer epoch between two rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from protocol.ids import NodeId
from protocol.messages import Contact

from .heads import Head
from .messages import Accepted, Committed, Holding, Promise, Reign, Stale
from .proposer import Phase, Proposer
from .seating import next_voters

if TYPE_CHECKING:
    from .forest import Forest
    from .grove import Grove

MAX_RENEWAL_DOUBLINGS = 5


class Throne:
    """See the module."""

    __slots__ = ("_forest", "_grove", "_queued", "_renewals", "_renewed", "proposer")

    def __init__(self, grove: Grove, forest: Forest) -> None:
        self._grove, self._forest = grove, forest
        self.proposer = Proposer(
            grove.app, forest.me, forest.config, ring=forest.ring, out=forest.out, stream=forest.stream,
            genesis=grove.genesis.head(), holdings=forest.holdings, proofs=forest.proofs,
            on_rooted=self._rooted, on_committed=self._committed, status=self._status,
        )  # fmt: skip
        self._queued: Head | None = None
        """The result of a round that waits for the voters to be changed."""
        self._renewals = self._renewed = 0
        """How often this node, as root, went on to a newer epoch, and until when it does not do so again."""

    # ---- to the throne, and from it ---------------------------------------------------------------------------------

    def _rooted(self, head: Head, now: int) -> None:
        """A majority holds ``head`` under our epoch."""
        grove = self._grove
        grove.rendezvous.forget()
        self._announce(head, now)
        grove.tree.become_root(now)
        if not head.finished:
            grove.fetch(head.model, now)
        self.guard(now)
        grove.broadcast(Committed(head), now)
        self._forest.roles.rooted(grove.app, head, now)

    def saw(self, head: Head, now: int) -> None:
        """``head`` is proven: a candidacy or reign before it is over, and one after it goes on from it."""
        proposer, mine = self.proposer, head.root.id == self._forest.me.id
        if proposer.phase is Phase.IDLE:
            return
        if head.epoch > proposer.epoch or (head.epoch == proposer.epoch and not mine):
            self.dethrone(head.epoch, now)
        else:
            proposer.rebase(head, now)

    def dethrone(self, epoch: int, now: int) -> None:
        """Somebody else has, or will have, the application."""
        grove = self._grove
        candidate = self.proposer.phase is not Phase.IDLE
        if self.retire(epoch):
            grove.waves.stop()
            self._forest.roles.unrooted(grove.app, epoch, now)
            grove.tree.step_down(now)
        if candidate:
            grove.rendezvous.later(now)

    def retire(self, epoch: int) -> bool:
        """Be neither root nor candidate; True when this node was root."""
        head = self.proposer.head
        if self.proposer.reigns and head is not None:
            self._unwatch(head)
            if not head.finished:
                self._say_reign(head, over=True)
        self._queued = None
        return self.proposer.retire(epoch)

    # ---- reigning ---------------------------------------------------------------------------------------------------

    def guard(self, now: int) -> None:
        """Keep an eye on the voters, and on being root."""
        head, forest = self.proposer.head, self._forest
        if not self.proposer.leading or head is None:
            return
        for voter in head.voters:
            if voter.id != forest.me.id:
                forest.ring.watch(voter.id, self._grove.purpose, now)
        self._say_reign(head)
        forest.out.set_timer(("tree.guard", self._grove.app), now + forest.config.voter_check)

    def on_guard_timer(self, now: int) -> None:
        self.guard(now)
        self._repair(now)

    def _say_reign(self, head: Head, *, over: bool = False) -> None:
        message = Reign(head.outline(), over)
        for voter in head.voters:
            self._forest.out.send(voter.id, message)

    def propose(self, head: Head, now: int) -> None:
        """Commit the result of a round, and with it at most one change of the voters."""
        proposer = self.proposer
        if not proposer.leading or proposer.head is None or head.epoch != proposer.epoch:
            return
        if proposer.busy:
            self._queued = head
        else:
            voters = self._next_voters(proposer.head, now)
            proposer.propose(msgspec.structs.replace(head, voters=voters, revision=0), now)

    def _repair(self, now: int) -> None:
        """Between two rounds' heads: only the voters change."""
        head = self.proposer.head
        if not self.proposer.leading or self.proposer.busy or head is None or head.finished:
            return
        voters = self._next_voters(head, now)
        if voters != head.voters:
            self.proposer.propose(msgspec.structs.replace(head, voters=voters, revision=head.revision + 1), now)

    def _next_voters(self, head: Head, now: int) -> tuple[Contact, ...]:
        grove, forest = self._grove, self._forest
        size = len(grove.genesis.voters)
        voters = next_voters(grove.app, head.voters, size, forest.me.id, forest.ring)
        if voters != head.voters and self.proposer.settled:
            self._status("running", "its voters stay: there is no room for a proof of others", now)
            return head.voters
        return voters

    def _committed(self, head: Head, now: int) -> None:
        self._announce(head, now)
        self._grove.broadcast(Committed(head), now)
        queued, self._queued = self._queued, None
        if head.revision:
            self._repair(now)
        elif head.finished or not self._renew(now):
            self._forest.roles.committed(self._grove.app, head, now)
        if queued is not None:
            self.propose(queued, now)

    def _renew(self, now: int) -> bool:
        """Between two rounds, win back voters that follow somebody else: otherwise they would be lost to this root for
        ever, one more each time that one loses sight of it.  Voters may lie, so this happens ever less often."""
        if not self.proposer.overtaken or now < self._renewed:
            return False
        self._renewals += 1
        self._renewed = now + (self._forest.config.reign_patience << min(self._renewals, MAX_RENEWAL_DOUBLINGS))
        self.proposer.renew(now)
        return True

    def _announce(self, head: Head, now: int) -> None:
        """Outside the tree one must know who the voters are, and when all is over."""
        before = self._grove.base
        self._grove.note(head, now)
        if before.voters != head.voters or head.finished:
            self._forest.roles.voters_changed(head, now)
            self._unwatch(before)

    def _unwatch(self, head: Head) -> None:
        for voter in head.voters:
            self._forest.ring.unwatch(voter.id, self._grove.purpose)

    # ---- what voters say --------------------------------------------------------------------------------------------

    def on_stale(self, peer: NodeId, message: Stale, now: int) -> None:
        """A voter refuses.  What it says of epochs counts for little, since it may lie; what several say for more."""
        if self.proposer.on_stale(peer, message.epoch, now):
            self.dethrone(self.proposer.passed, now)

    def on_promise(self, peer: NodeId, message: Promise, now: int) -> None:
        self.proposer.on_promise(peer, message, now)

    def on_accepted(self, peer: NodeId, message: Accepted, now: int) -> None:
        self.proposer.on_accepted(peer, message, now)

    def on_holding(self, peer: NodeId, message: Holding, now: int) -> None:
        self.proposer.on_holding(peer, message, now)

    def on_timer(self, now: int) -> None:
        if self.proposer.on_timer(now):
            self.dethrone(self.proposer.passed, now)

    def _status(self, status: str, detail: str, now: int) -> None:
        self._forest.roles.status(self._grove.app, status, detail, now)
