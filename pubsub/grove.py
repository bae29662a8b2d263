"""One application on one node: its place in the tree, its present wave, what it knows of the head, and whether it
should be root.

``Grove`` ties the parts together and holds no protocol of its own: what one part learns reaches the others, and what
arrives is fenced by the newest epoch that any of them has heard of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from protocol.errors import Code
from protocol.ids import NodeId

from .messages import (
    MAX_LEAP,
    Accepted,
    Committed,
    Head,
    HeadAnswer,
    HeadQuery,
    Promise,
    Stale,
    TreeAccept,
    TreeBeat,
    TreeJoin,
    TreeLeave,
    TreeRefuse,
    TreeWant,
    WaveOpen,
    WaveUp,
)
from .ports import Genesis
from .proposer import Phase, Proposer
from .rendezvous import Rendezvous
from .tree import Tree
from .waves import Waves

if TYPE_CHECKING:
    from .forest import Forest


class Grove:
    """This node's part in one application."""

    __slots__ = (
        "_forest", "_introduced", "_last", "app", "epoch", "finished", "genesis", "head", "proposer", "rendezvous",
        "tree", "waves",
    )  # fmt: skip

    def __init__(self, forest: Forest, genesis: Genesis) -> None:
        app = genesis.app
        self._forest, self.genesis, self.app = forest, genesis, app
        stream = forest.stream
        self.tree = Tree(
            app, forest.me, genesis.fan_out, forest.config,
            ring=forest.ring, out=forest.out, stream=stream, changed=self._tree_changed,
        )  # fmt: skip
        self.waves = Waves(
            self.tree, genesis.quorum, forest.config,
            roles=forest.roles, out=forest.out, holdings=forest.holdings, count=forest.count,
        )  # fmt: skip
        self.proposer = Proposer(
            app, forest.me, forest.config, ring=forest.ring, out=forest.out, stream=stream,
            genesis=genesis.head(), holdings=forest.holdings,
            on_rooted=self._rooted, on_committed=self._committed_here, status=self._status,
        )  # fmt: skip
        self.head: Head | None = None
        """Newest head known to be committed."""
        self.epoch = 0
        """Newest epoch heard of: what is older is stale."""
        self.finished = False
        self.rendezvous = Rendezvous(self, forest)
        self._introduced = -forest.config.answer_wait
        """When somebody was last shown the descriptor, ns."""
        self._last: Committed | None = None
        """Newest commit as it was broadcast, for children that missed it."""

    # ---- who is root ------------------------------------------------------------------------------------------------

    @property
    def base(self) -> Head:
        """Where a candidacy starts: the newest committed head, else the genesis."""
        return self.head if self.head is not None else self.genesis.head()

    @property
    def purpose(self) -> str:
        """Why the root, or its voters, are watched."""
        return "root:" + self.app.hex()

    def serve(self, now: int) -> None:
        self.rendezvous.serve(now)

    def on_answer(self, peer: NodeId, message: HeadAnswer, now: int) -> None:
        """A voter names a root, or the root confirms itself."""
        if not self.rendezvous.has_asked(peer):
            self._forest.count("answers_unasked")
            return
        if message.head is not None:
            self.heard_of(message.head, now)
        if self.finished:
            return
        if not self.proposer.leading:
            self.rendezvous.on_answer(peer, message.root, now)
        elif self._plausible(peer, message.epoch) and message.epoch > self.proposer.epoch:
            self._dethrone(message.epoch, now)

    def _plausible(self, peer: NodeId, epoch: int) -> bool:
        """Epochs grow by ones; a leap is a liar's attempt to end the application."""
        if epoch <= max(self.epoch, self.proposer.epoch) + MAX_LEAP:
            return True
        self._forest.out.penalize(peer, Code.UNAUTHORISED, "epoch out of reach")
        return False

    def on_stale(self, peer: NodeId, message: Stale, now: int) -> None:
        """Somebody knows a newer epoch than ours."""
        self._forest.count("stale_told")
        if not self._plausible(peer, message.epoch):
            return
        epoch = self.proposer.epoch
        if message.epoch > epoch or (message.epoch == epoch and self.proposer.on_refused(peer)):
            self._dethrone(message.epoch, now)

    def _dethrone(self, epoch: int, now: int) -> None:
        self.epoch = max(self.epoch, epoch)
        candidate = self.proposer.phase is not Phase.IDLE
        was_root = self._retire(epoch)
        if was_root:
            self.waves.stop()
            self._forest.roles.unrooted(self.app, epoch, now)
            self.tree.step_down(now)
        if candidate:
            self.rendezvous.later(now)

    def _retire(self, epoch: int) -> bool:
        """Be neither root nor candidate; True when this node was root."""
        if self.proposer.leading and self.proposer.head is not None:
            self._unwatch_voters(self.proposer.head)
        return self.proposer.retire(epoch)

    def _rooted(self, head: Head, now: int) -> None:
        """A majority holds ``head`` under our epoch."""
        self.rendezvous.reached()
        self._announce(head, now)
        self.tree.become_root(now)
        self._guard(now)
        self._broadcast(Committed(head), now)
        self._forest.roles.rooted(self.app, head, now)

    def _guard(self, now: int) -> None:
        """Keep an eye on the voters, and on being root."""
        head = self.proposer.head
        assert head is not None
        for voter in head.voters:
            if voter.id != self._forest.me.id:
                self._forest.ring.watch(voter.id, self.purpose, now)
        asked = self._forest.stream.choice(head.voters)
        if asked.id != self._forest.me.id:
            self._forest.out.send(asked.id, HeadQuery(self.app))
        self._forest.out.set_timer(("tree.guard", self.app), now + self._forest.config.voter_check)

    def propose(self, head: Head, now: int) -> None:
        """At the root: commit the result of a round, and with it at most one change of the voters."""
        if self.proposer.leading and not self.proposer.busy and head.epoch == self.proposer.epoch:
            self.proposer.propose(msgspec.structs.replace(head, voters=self.proposer.next_voters(head.voters)), now)

    def _committed_here(self, head: Head, now: int) -> None:
        self._announce(head, now)
        self._broadcast(Committed(head), now)
        self._forest.roles.committed(self.app, head, now)

    def _announce(self, head: Head, now: int) -> None:
        """Outside the tree one must know who the voters are, and when all is over."""
        before = self.base
        self._note_head(head)
        if before.voters != head.voters or head.finished:
            self._forest.roles.voters_changed(head, now)
            self._unwatch_voters(before)

    def _unwatch_voters(self, head: Head) -> None:
        for voter in head.voters:
            self._forest.ring.unwatch(voter.id, self.purpose)

    # ---- heads ------------------------------------------------------------------------------------------------------

    def heard_of(self, head: Head, now: int) -> None:
        """A committed head from a record, an answer or a joiner: tells who the voters are."""
        if head.app != self.app or (self.head is not None and head.order <= self.head.order):
            return
        if head.epoch > max(self.epoch, self.proposer.epoch) + MAX_LEAP:
            self._forest.count("heads_implausible")
            return
        self._note_head(head)
        self._saw(head.epoch, now)

    def _saw(self, epoch: int, now: int) -> None:
        """There is, or was, a root in ``epoch``: a candidacy or reign before it is over."""
        if self.proposer.phase is not Phase.IDLE and epoch > self.proposer.epoch:
            self._dethrone(epoch, now)
        self.epoch = max(self.epoch, epoch)

    def _note_head(self, head: Head) -> None:
        if self.head is None or head.order >= self.head.order:
            self.head = head
            self.tree.head = head.outline()
        self.epoch = max(self.epoch, head.epoch)

    def _broadcast(self, message: Committed, now: int) -> None:
        """At the root: let everybody know of a commit."""
        self._last = message
        for child in self.tree.children:
            self._forest.out.send(child, message)

    def on_committed(self, peer: NodeId, message: Committed, now: int) -> None:
        """From the parent: note it, hand it down, tell the role."""
        if peer != self.tree.parent:
            self.tree.disown(peer)
            return
        if not self._plausible(peer, message.head.epoch):
            return
        if message.head.epoch < self.epoch:
            self._forest.out.send(peer, Stale(self.app, self.epoch))
            return
        if self._last is not None and message.head.order <= self._last.head.order:
            return
        self._note_head(message.head)
        self._saw(message.head.epoch, now)
        self._broadcast(message, now)
        self._forest.roles.committed(self.app, message.head, now)

    def conclude(self, now: int) -> None:
        """The application is over: nobody needs to be root; the tree lingers until the news has travelled."""
        if self.finished:
            return
        self.finished = True
        self.waves.stop()
        self._retire(self.epoch)
        self.rendezvous.forget()
        self.tree.wanted = False
        self._forest.out.set_timer(("tree.linger", self.app), now + self._forest.config.linger)

    # ---- membership -------------------------------------------------------------------------------------------------

    def join(self, now: int) -> None:
        if not self.finished:
            self.tree.join(now)

    def leave(self, now: int) -> None:
        """Let go of the tree; a root that leaves simply stops, and the ring finds the next."""
        self._retire(self.epoch)
        self.rendezvous.forget()
        self.waves.stop()
        self.tree.leave(now)

    def first_life(self) -> None:
        """The durable mark of membership was made in this life: no earlier one took part in anything."""
        self.waves.amnesia = False

    def takes(self, message: TreeJoin) -> bool:
        """Does this node answer a join that passes by?"""
        return self.tree.attached and message.joiner.id not in self.tree.my_path

    def on_join(self, message: TreeJoin, now: int) -> None:
        """Directly, or as a member on the way, or as the rendezvous."""
        if message.head is not None:
            self.heard_of(message.head, now)
        joiner, out = message.joiner, self._forest.out
        self.rendezvous.gone(joiner.id, now)  # a root does not ask for a place
        if self.tree.attached:
            if self.tree.admit(joiner, message.attempt, now):
                self._catch_up(joiner.id, message, now)
        elif (root := self.rendezvous.live_root) is not None:
            out.send(joiner.id, TreeRefuse(self.app, message.attempt, (root,)))
        else:
            out.send(joiner.id, TreeRefuse(self.app, message.attempt))
            self.serve(now)

    def _catch_up(self, child: NodeId, message: TreeJoin | None, now: int) -> None:
        """What the others were told before this child came."""
        if self._last is not None:
            self._forest.out.send(child, self._last)
        self.waves.replay_to(child, message.wave if message is not None else self.waves.current, now)

    def on_accept(self, peer: NodeId, message: TreeAccept, now: int) -> None:
        if self.tree.on_accept(peer, message, now):
            self.waves.child_lost(peer, now)

    def on_refuse(self, peer: NodeId, message: TreeRefuse, now: int) -> None:
        if message.unknown:
            self._introduce(peer, now)
        self.tree.on_refuse(peer, message, now)

    def _introduce(self, peer: NodeId, now: int) -> None:
        """``peer`` would be the rendezvous, or is asked for its vote, and has no descriptor.  It may weigh 160 KiB, so
        it goes to those whom this node turned to, and now and then."""
        waits = not self.tree.attached or any(voter.id == peer for voter in self.base.voters)
        if waits and now >= self._introduced + self._forest.config.answer_wait:
            self._introduced = now
            self._forest.ring.show(peer, self.app)

    def on_leave(self, peer: NodeId, message: TreeLeave, now: int) -> None:
        if not message.attempt:
            if peer == self.tree.parent:
                self.tree.lose_parent(now)
        elif self.tree.left(peer, message.attempt, now):
            self.waves.child_lost(peer, now)

    def on_beat(self, peer: NodeId, message: TreeBeat, now: int) -> None:
        if not self.tree.on_beat(peer, message.path, now):
            return
        last = self._last.head.order if self._last is not None else (0, 0)
        if message.wave > self.waves.current or message.committed > last:
            self._forest.out.send(peer, TreeWant(self.app))
        elif message.awaits:
            self.waves.on_awaited(peer, message.wave, now)
            if message.remaining and message.wave == self.waves.current:
                self.waves.on_hurry(message.remaining, now)

    def on_want(self, peer: NodeId, message: TreeWant, now: int) -> None:
        child = self.tree.children.get(peer)
        if child is None:
            self._forest.out.send(peer, TreeLeave(self.app))
        elif (
            now - child.told >= self._forest.config.answer_wait
        ):  # it asks after a beat; who asks in between is a flood
            child.told = now
            self._catch_up(peer, None, now)

    def peer_dead(self, peer: NodeId, why: str, now: int) -> None:
        """Parent: join again at once.  Child: expect nothing of it.  Root: see that there is another."""
        if self.tree.drop_child(peer, now):
            self.waves.child_lost(peer, now)
        if peer == self.tree.parent:
            self.tree.lose_parent(now, tell=why == "silent")
        self.rendezvous.gone(peer, now)

    # ---- waves ------------------------------------------------------------------------------------------------------

    def on_open(self, peer: NodeId, message: WaveOpen, now: int) -> None:
        if peer != self.tree.parent:
            self.tree.disown(peer)
            return
        if not self._plausible(peer, message.wave.epoch):
            return
        if message.wave.epoch < self.epoch:
            self._forest.count("stale_refused")
            self._forest.out.send(peer, Stale(self.app, self.epoch))
            return
        self._saw(message.wave.epoch, now)
        if self.finished:
            return
        holdings = self._forest.holdings
        for value in (message.head.model, self.genesis.bundle):
            holdings.ensure(value, (peer, self.genesis.home.id), lambda at: None, now)
        self.waves.on_open(peer, message, now)

    def on_up(self, peer: NodeId, message: WaveUp, now: int) -> None:
        """A child's partial, fenced first."""
        if message.wave.epoch < self.epoch:
            self._forest.count("stale_refused")
            self._forest.out.send(peer, Stale(self.app, self.epoch))
            return
        if peer not in self.tree.children:
            self._forest.count("late_partials")
            self._forest.out.send(peer, TreeLeave(self.app))
            return
        self.waves.on_up(peer, message, now)

    def on_promise(self, peer: NodeId, message: Promise, now: int) -> None:
        self.proposer.on_promise(peer, message, now)

    def on_accepted(self, peer: NodeId, message: Accepted, now: int) -> None:
        self.proposer.on_accepted(peer, message, now)

    # ---- timers and notices -----------------------------------------------------------------------------------------

    def on_timer(self, name: str, now: int) -> None:
        match name:
            case "tree.join":
                self.tree.on_join_timer(now)
            case "tree.beat":
                last = self._last.head.order if self._last is not None else (0, 0)
                self.tree.on_beat_timer(self.waves.current, last, self.waves.awaited, now)
            case "tree.wave":
                self.waves.on_deadline(now)
            case "tree.head":
                if self.proposer.on_timer(now):
                    self._dethrone(self.proposer.epoch, now)
            case "tree.search":
                self.rendezvous.stand(now)
            case "tree.serve":
                self.serve(now)
            case "tree.guard":
                if self.proposer.leading:
                    self._guard(now)
            case "tree.confirm":
                self.rendezvous.confirm(now)
            case "tree.linger":
                self.tree.leave(now)
                self._forest.forget(self.app)
            case _:
                raise AssertionError(f"no such timer: {name}")

    def _tree_changed(self, now: int) -> None:
        self._forest.roles.tree_changed(self.app, now)

    def _status(self, status: str, detail: str, now: int) -> None:
        self._forest.roles.status(self.app, status, detail, now)
