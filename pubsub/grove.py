"""One application on one node: its place in the tree, its present wave, what it knows of the head, and whether it
should be root.

``Grove`` ties the parts together and holds no protocol of its own: what one part learns reaches the others, and what
arrives is fenced by the newest epoch that any of them has heard of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.errors import Code
from protocol.ids import NodeId, closeness
from protocol.messages import Contact, Value

from .heads import Head
from .messages import (
    Committed,
    HeadAnswer,
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
from .proposer import Proposer
from .rendezvous import Rendezvous
from .throne import Throne
from .tree import Tree
from .waves import Waves

if TYPE_CHECKING:
    from .forest import Forest


class Grove:
    """This node's part in one application."""

    __slots__ = (
        "_first", "_forest", "_introduced", "_last", "_orphaned", "_shown", "app", "epoch", "finished", "genesis",
        "head", "proposer", "rendezvous", "throne", "tree", "waves",
    )  # fmt: skip

    def __init__(self, forest: Forest, genesis: Genesis) -> None:
        app = genesis.app
        self._forest, self.genesis, self.app = forest, genesis, app
        stream = forest.stream
        self.tree = Tree(
            app, forest.me, genesis.fan_out, forest.config,
            ring=forest.ring, out=forest.out, stream=stream, sealer=forest.sealer, roll=forest.roll,
            changed=self._tree_changed, deputy=self._stranded,
        )  # fmt: skip
        self.waves = Waves(
            self.tree, genesis.quorum, forest.config,
            roles=forest.roles, out=forest.out, holdings=forest.holdings, count=forest.count,
            inspector=forest.inspector, limit=genesis.limit,
        )  # fmt: skip
        self._first = genesis.head()
        self.head: Head | None = None
        """Newest head proven to be committed."""
        self.epoch = 0
        """Newest epoch that is proven to have had a root: what is older is stale."""
        self.finished = False
        self.rendezvous = Rendezvous(self, forest)
        self._introduced = -forest.config.answer_wait
        """When somebody was last shown the descriptor, ns."""
        self._shown: NodeId = b""
        """Who that was."""
        self._orphaned = 0
        """Joins for which a deputy was chosen since this node last had a parent that beats."""
        self.throne = Throne(self, forest)
        self.proposer: Proposer = self.throne.proposer
        self._last: Committed | None = None
        """Newest commit as it was broadcast, for children that missed it."""

    # ---- who is root ------------------------------------------------------------------------------------------------

    @property
    def base(self) -> Head:
        """Where a candidacy starts: the newest committed head, else the genesis."""
        return self.head if self.head is not None else self._first

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
        if message.head is not None and not self.told(peer, message.head, now):
            return
        if not self.finished and not self.proposer.leading:
            self.rendezvous.on_answer(peer, message, now)

    def on_stale(self, peer: NodeId, message: Stale, now: int) -> None:
        """A newer epoch, as far as the head proves it that comes with it; or a voter's own refusal."""
        self._forest.count("stale_told")
        if message.head is None or self.told(peer, message.head, now):
            self.throne.on_stale(peer, message, now)

    def propose(self, head: Head, now: int) -> None:
        """At the root: commit the result of a round."""
        self.throne.propose(head, now)

    # ---- heads ------------------------------------------------------------------------------------------------------

    def told(self, peer: NodeId, head: Head, now: int) -> bool:
        """``peer`` states that ``head`` was committed.  False, and a penalty, when the head does not prove it."""
        if self.heard_of(head, now):
            return True
        self._forest.out.penalize(peer, Code.UNAUTHORISED, "head that nobody committed")
        return False

    def heard_of(self, head: Head, now: int) -> bool:
        """From a record, an answer, a joiner, a parent: how far the application is, and who guards it.

        False for a head that is not proven: it has no influence on anything.
        """
        if not self._forest.proofs.committed(self._first, head):
            self._forest.count("heads_unproven")
            return False
        if self.head is None or head.order > self.head.order:
            self.note(head, now)
            self.throne.saw(head, now)
        return True

    def note(self, head: Head, now: int) -> None:
        """``head`` was committed."""
        if self.head is None or head.order > self.head.order:
            if head.round > self.base.round:
                self.rendezvous.calm()
            self.head = head
            self.tree.follow(head.outline())
        self.epoch = max(self.epoch, head.epoch)

    @property
    def outline(self) -> Head | None:
        """The newest committed head as it is told to others."""
        return self.tree.head

    def broadcast(self, message: Committed, now: int) -> None:
        """Let everybody below know of a commit."""
        self._last = message
        for child in self.tree.children:
            self._forest.out.send(child, message)

    def on_committed(self, peer: NodeId, message: Committed, now: int) -> None:
        """From the parent: note it, hand it down, tell the role."""
        head = message.head
        if peer != self.tree.parent:
            self.tree.disown(peer)
            return
        if head.epoch < self.epoch:
            self._forest.out.send(peer, Stale(self.app, self.epoch, self.outline))
            return
        last = self._last.head if self._last is not None else self._first
        if head.order <= last.order or not self.told(peer, head, now):
            return
        if not head.whole:
            self._forest.out.penalize(peer, Code.MALFORMED, "committed head without its values")
            return
        self.broadcast(message, now)
        if (head.epoch, head.round) > (last.epoch, last.round):
            self._forest.roles.committed(self.app, head, now)

    def conclude(self, now: int) -> None:
        """The application is over: nobody needs to be root; the tree lingers until the news has travelled."""
        if self.finished:
            return
        self.finished = True
        self.waves.stop()
        self.throne.retire(self.epoch)
        self.rendezvous.forget()
        self.tree.linger()
        self._forest.out.set_timer(("tree.linger", self.app), now + self._forest.config.linger)

    # ---- membership -------------------------------------------------------------------------------------------------

    def join(self, now: int) -> None:
        if not self.finished:
            self.tree.join(now)

    def leave(self, now: int) -> None:
        """Let go of the tree; a root that leaves simply stops, and the ring finds the next."""
        self.throne.retire(self.epoch)
        self.rendezvous.forget()
        self.waves.stop()
        self.tree.leave(now)

    def first_life(self) -> None:
        """The durable mark of membership was made in this life: no earlier one took part in anything."""
        self.waves.doubt(False)

    def unmarked(self) -> None:
        """Nothing durable says yet that this node takes part: until something does, it sits the next wave out."""
        self.waves.doubt(True)

    def takes(self, message: TreeJoin) -> bool:
        """Does this node answer a join that passes by?"""
        return self.tree.attached and message.joiner.id not in self.tree.my_path

    def on_join(self, message: TreeJoin, now: int) -> None:
        """On the joiner's own link."""
        joiner = message.joiner
        self._learn_from(message, now)
        self.rendezvous.gone(joiner.id, now)  # a root does not ask for a place
        if message.orphan:
            self.rendezvous.deputise(now)
            self.serve(now)  # also below somebody: what hangs together may have no root
        if not self.tree.attached:
            self._point(message, now)
        elif self.tree.admit(joiner, message.attempt, now):
            self._catch_up(joiner.id, message, now)

    def on_carried(self, message: TreeJoin, now: int) -> None:
        """Through others, as a member on the way or as the rendezvous.  It may be an old one that somebody repeats, so
        nothing is done about it but to say whom to ask."""
        self._learn_from(message, now)
        self.rendezvous.doubt(message.joiner.id, now)
        if self.tree.attached:
            self.tree.point(message.joiner, message.attempt)
        else:
            self._point(message, now)

    def _learn_from(self, message: TreeJoin, now: int) -> None:
        """Who put the head there is not known for certain, so nobody is blamed for one that is not proven."""
        if message.head is not None:
            self.heard_of(message.head, now)

    def _point(self, message: TreeJoin, now: int) -> None:
        """This node has no place itself: name the root, or see that there is one."""
        live = self.rendezvous.live_root is not None
        places = self.rendezvous.places if live else ()
        self._forest.out.send(message.joiner.id, TreeRefuse(self.app, message.attempt, places))
        if not live:
            self.rendezvous.wait(message.joiner.id, message.attempt)
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
        deputy = None
        if message.unknown and self.tree.asks(message.attempt) and self._in_vain(peer, now):
            deputy = self._deputy(peer, now)
        elif message.unknown:
            self._introduce(peer, now)
        self.tree.on_refuse(peer, message, now, deputy)

    def _in_vain(self, peer: NodeId, now: int) -> bool:
        """Was ``peer`` shown the descriptor, long enough ago to know it, but not so long that it is shown it again?"""
        config, since = self._forest.config, now - self._introduced
        return peer == self._shown and config.answer_wait <= since < config.deputy_patience

    def _stranded(self, now: int) -> Contact | None:
        """There has been no place for long: the closest node refuses, is silent, or sends joiners in circles."""
        closest = self._forest.ring.closest(self.app, 1)
        return self._deputy(closest[0].id if closest else b"", now)

    def _deputy(self, unable: NodeId, now: int) -> Contact | None:
        """Which voter is to stand in for ``unable``, the closest node; None when that is up to this node."""
        voters = [voter for voter in self.base.voters if voter.id != unable and self._forest.ring.alive(voter.id)]
        if not voters or self.tree.attached:
            return None
        voters.sort(key=lambda voter: closeness(self.app, voter.id))
        chosen = voters[self._orphaned // self._forest.config.deputy_tries % len(voters)]
        self._orphaned += 1
        if chosen.id != self._forest.me.id:
            return chosen
        self.rendezvous.deputise(now)
        self.serve(now)
        return None

    def _introduce(self, peer: NodeId, now: int) -> None:
        """``peer`` would be the rendezvous, or is asked for its vote, and has no descriptor.  It may weigh 160 KiB, so
        it goes to those whom this node turned to, and now and then."""
        waits = not self.tree.attached or any(voter.id == peer for voter in self.base.voters)
        if waits and now >= self._introduced + self._forest.config.answer_wait:
            self._introduced, self._shown = now, peer
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
        self._orphaned = 0
        last = self._last.head.order if self._last is not None else (0, 0, 0)
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
            child.caught_up(now)
            self._catch_up(peer, None, now)

    def peer_dead(self, peer: NodeId, why: str, now: int) -> None:
        """Parent: join again at once.  Child: expect nothing of it.  Root: see that there is another."""
        if self.tree.drop_child(peer, now):
            self.waves.child_lost(peer, now)
        if peer == self.tree.parent:
            self.tree.lose_parent(now, tell=why == "silent")
        self.rendezvous.lost(peer, now)

    # ---- waves ------------------------------------------------------------------------------------------------------

    def on_open(self, peer: NodeId, message: WaveOpen, now: int) -> None:
        if peer != self.tree.parent:
            self.tree.disown(peer)
            return
        if message.wave.epoch < self.epoch:
            self._forest.count("stale_refused")
            self._forest.out.send(peer, Stale(self.app, self.epoch, self.outline))
            return
        if not message.follows:
            self._forest.out.penalize(peer, Code.UNAUTHORISED, "wave that does not follow from its head")
            return
        if not self.told(peer, message.head, now):
            return
        if self.finished:
            return
        if self.fetch(message.model, now, peer):
            self.waves.on_open(peer, message, now)

    def fetch(self, model: Value, now: int, *first: NodeId) -> bool:
        """Have what the workers below will ask for: the model that they work on, and the code.  False when the model is
        too large to be of this application."""
        holdings, genesis = self._forest.holdings, self.genesis
        sources = genesis.sources(self._forest.me.id, *first, voters=self.base.seats)
        if not holdings.ensure(model, genesis.limit, sources, lambda at: None, now):
            return False
        return holdings.ensure(genesis.bundle, genesis.bundle.size, sources, lambda at: None, now)

    def on_up(self, peer: NodeId, message: WaveUp, now: int) -> None:
        """A child's partial, fenced first."""
        if message.wave.epoch < self.epoch:
            self._forest.count("stale_refused")
            self._forest.out.send(peer, Stale(self.app, self.epoch, self.outline))
            return
        if peer not in self.tree.children:
            self._forest.count("late_partials")
            self._forest.out.send(peer, TreeLeave(self.app))
            return
        self.waves.on_up(peer, message, now)

    # ---- timers and notices -----------------------------------------------------------------------------------------

    def on_timer(self, name: str, now: int) -> None:
        match name:
            case "tree.join":
                self.tree.on_join_timer(now)
            case "tree.beat":
                last = self._last.head.order if self._last is not None else (0, 0, 0)
                self.tree.on_beat_timer(self.waves.current, last, self.waves.awaited, now)
            case "tree.wave":
                self.waves.on_deadline(now)
            case "tree.head":
                self.throne.on_timer(now)
            case "tree.search":
                self.rendezvous.on_search_timer(now)
            case "tree.serve":
                self.serve(now)
            case "tree.guard":
                self.throne.on_guard_timer(now)
            case "tree.confirm":
                self.rendezvous.confirm(now)
            case "tree.linger":
                self.tree.leave(now)
                self._forest.forget(self.app)
            case _:
                raise AssertionError(f"no such timer: {name}")

    def _tree_changed(self, now: int) -> None:
        if self.tree.attached:
            self.rendezvous.usher((self._forest.me,))
        self._forest.roles.tree_changed(self.app, now)
