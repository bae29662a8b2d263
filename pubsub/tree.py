"""One node's place in one tree: how it gets a parent, whom it takes as children, how it notices that either is gone.

A join is routed towards the application id and intercepted by the first member on its way (Scribe, Castro et al.
2002).  Unlike Scribe that member only says whom to ask, since a place is given to who asks on its own link (``joins``);
and a member takes at most ``fan_out`` children: a refused joiner is given up to three of the refuser's children and
descends, depth first, never to the same node twice in one attempt.  Nobody but members carries the tree: there are no
pure forwarders, because with a hard cap it is the descent that shapes the tree, not the paths of the joins.

Loops.  Every member knows the path from the root to itself; a joiner that stands on that path is refused.  Two
joins that cross in flight can still close a loop; the paths that travel down with the next beat then contain their
receiver, who lets go and joins again.

One active parent.  ``TreeAccept`` names the attempt it answers, so an acceptance that arrives after the joiner went
on is declined.  Attempts are drawn, so that to name one is to have seen the join: nobody knows who will answer a join
that was routed, but whoever was not asked cannot answer.  They grow all the same, since a leave takes back what came
before it.  What is told to those who were not asked (``disown``) never names an attempt that is under way.

A parent whose beats reach a node that does not regard it as its parent is told so (``TreeLeave``): that clears ghosts
left by lost messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence

from protocol.effects import Outbox
from protocol.ids import AppId, NodeId
from protocol.membership import Roll
from protocol.messages import Contact
from protocol.signing import Sealer
from protocol.streams import Stream

from .config import TreeConfig
from .heads import Head
from .joins import sealed
from .messages import MAX_DEPTH, NO_WAVE, TreeAccept, TreeBeat, TreeJoin, TreeLeave, TreeRefuse, WaveId
from .ports import Overlay


class Child:
    """What a parent remembers of a child."""

    __slots__ = ("attempt", "contact", "pushes", "told")

    def __init__(self, contact: Contact, attempt: int) -> None:
        self.contact, self.attempt = contact, attempt
        self.pushes = 0
        """Joiners that were sent down this way: the next one goes elsewhere, so the tree fills evenly."""
        self.told = -(1 << 62)
        """When it was last sent all that it had missed, ns."""

    def caught_up(self, now: int) -> None:
        self.told = now


class Tree:
    """Membership of this node in the tree of ``app``."""

    __slots__ = (
        "_attempt", "_backoff", "_called", "_candidates", "_changed", "_config", "_deputy", "_last_beat", "_orphan",
        "_out", "_past", "_ring", "_roll", "_sealer", "_secret", "_since", "_stream", "_tried", "app", "children",
        "fan_out", "head", "is_root", "me", "parent", "path", "sent_wave", "wanted",
    )  # fmt: skip

    def __init__(
        self,
        app: AppId,
        me: Contact,
        fan_out: int,
        config: TreeConfig,
        *,
        ring: Overlay,
        out: Outbox,
        stream: Stream,
        sealer: Sealer,
        roll: Roll,
        changed: Callable[[int], None],
        deputy: Callable[[int], Contact | None],
    ) -> None:
        """``deputy`` names who is to stand in for a closest node that leaves this one without a place."""
        self.app, self.me, self.fan_out = app, me, fan_out
        self._config, self._ring, self._out, self._stream = config, ring, out, stream
        self._sealer, self._roll, self._changed, self._deputy = sealer, roll, changed, deputy
        self.wanted = False
        self.is_root = False
        self.parent: NodeId | None = None
        self.path: tuple[NodeId, ...] = ()
        """From the root to the parent, both included; empty at the root and when detached."""
        self.children: dict[NodeId, Child] = {}
        self.head: Head | None = None
        """Newest head known, in outline; joins carry it to a rendezvous that knows nothing."""
        self.sent_wave: WaveId | None = None
        self._attempt = self._past = 0
        """The present attempt, or that of the last join; and the one before."""
        self._secret = stream.raw(16)
        self._candidates: list[Contact] | None = None
        """None: not joining.  Otherwise those still to be tried before the join is routed again."""
        self._tried: list[NodeId] = []
        self._orphan: NodeId = b""
        """The candidate that is to stand in for the closest node."""
        self._backoff = 0
        self._since = -1
        """Since when this node looks for a place, ns; -1: it has one, or wants none.  A place counts when its parent
        beats: to be taken in and left alone is none."""
        self._called = -config.deputy_pause
        """When a deputy was last asked, ns."""
        self._last_beat = 0

    # ---- state ------------------------------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        return self.is_root or self.parent is not None

    @property
    def depth(self) -> int:
        return len(self.path)

    @property
    def my_path(self) -> tuple[NodeId, ...]:
        """From the root to this node, both included."""
        return (*self.path, self.me.id)

    @property
    def joining(self) -> bool:
        return self._candidates is not None

    def asks(self, attempt: int) -> bool:
        """Is the join named ``attempt`` under way?"""
        return self.joining and attempt == self._attempt

    # ---- what this node asks with ------------------------------------------------------------------------------------

    def follow(self, head: Head) -> None:
        """The newest committed head, in outline: a new parent sends what came later."""
        self.head = head

    def handed_in(self, wave: WaveId) -> None:
        """The last wave that is over for this node: whoever is its parent by then does not wait for it."""
        self.sent_wave = wave

    def linger(self) -> None:
        """All is over: it stays only as long as there are children to tell."""
        self.wanted = False

    # ---- joining ----------------------------------------------------------------------------------------------------

    def join(self, now: int) -> None:
        """Ask for a place, unless there is one already or a join is under way."""
        self.wanted = True
        if self.attached or self.joining:
            return
        self._begin(now)

    def _begin(self, now: int) -> None:
        """A new attempt starts by the route."""
        self._past, self._attempt = self._attempt, self._drawn()
        self._candidates = []
        self._tried = []
        self._since = self._since if self._since >= 0 else now
        self._arm(now)
        if not self._backoff and self._call(now):  # it was taken in somewhere, and left alone
            self._next(now)
            return
        self._ring.route(self.app, sealed(self._sealer, self._roll.voucher, self._ask()), now)

    def _drawn(self) -> int:
        """The next attempt, later by up to 2^40; hashed, since draws of a stream can be told from earlier ones."""
        step = hashlib.blake2b(self._attempt.to_bytes(8, "big"), digest_size=5, key=self._secret).digest()
        return (self._attempt + 1 + int.from_bytes(step, "big")) % (1 << 62)

    def _ask(self, *, orphan: bool = False) -> TreeJoin:
        return TreeJoin(self.app, self.me, self._attempt, self.sent_wave, self.head, orphan)

    def _arm(self, now: int) -> None:
        self._out.set_timer(("tree.join", self.app), now + self._config.join_retry)

    def on_join_timer(self, now: int) -> None:
        """The last request was not answered."""
        if self.attached or not self.wanted:
            return
        if self._candidates is None:
            self._begin(now)
        else:
            self._next(now)

    def _next(self, now: int) -> None:
        """Try the next candidate; without one a deputy, when it is time for that; else pause and route again."""
        if self._try(now) or (self._call(now) and self._try(now)):
            return
        self._candidates = None
        self._backoff = min(self._backoff * 2 or self._config.join_retry // 2, self._config.join_backoff)
        pause = self._backoff // 2 + self._stream.below(self._backoff // 2)
        self._out.set_timer(("tree.join", self.app), now + pause)

    def _try(self, now: int) -> bool:
        """Ask the first candidate that is of use; False when there is none."""
        assert self._candidates is not None
        while self._candidates and len(self._tried) < self._config.join_tries:
            contact = self._candidates.pop(0)
            if contact.id == self.me.id or contact.id in self._tried or not self._ring.alive(contact.id):
                continue
            self._tried.append(contact.id)
            self._ring.learn(contact)
            self._out.send(contact.id, self._ask(orphan=contact.id == self._orphan))
            self._arm(now)
            return True
        return False

    def _call(self, now: int) -> bool:
        """After a while without a place there is a candidate more, a deputy, to begin anew with.  How long it has been
        counts, not how many attempts: whoever refuses decides how long an attempt takes."""
        config = self._config
        overdue = 0 <= self._since <= now - config.deputy_after
        if not overdue or now < self._called + config.deputy_pause:
            return False
        self._called = now
        deputy = self._deputy(now)
        if deputy is None:
            return False
        self._orphan, self._candidates, self._tried = deputy.id, [deputy], []
        return True

    def on_accept(self, peer: NodeId, message: TreeAccept, now: int) -> bool:
        """True when ``peer`` is now our parent."""
        if peer == self.parent and message.attempt == self._attempt:
            return False
        stands = self.wanted and not self.attached and self.joining and message.attempt == self._attempt
        if not stands or self.me.id in message.path or len(message.path) >= MAX_DEPTH:
            self._out.send(peer, TreeLeave(self.app, max(message.attempt, 1)))
            return False
        self.drop_child(peer, now)
        self.parent, self.path = peer, message.path
        self._candidates, self._backoff, self._last_beat = None, 0, now
        self._out.cancel_timer(("tree.join", self.app))
        self._ring.watch(peer, self._purpose, now)
        self._tell_children()
        self._arm_beat(now)
        self._changed(now)
        return True

    def on_refuse(self, peer: NodeId, message: TreeRefuse, now: int, deputy: Contact | None = None) -> None:
        """``deputy``: who is asked to stand in, should ``peer``, the closest node, be unable to serve."""
        if self.attached or not self.wanted or message.attempt != self._attempt:
            return
        if self._candidates is None:  # it pauses: whoever had no place for it has heard of one meanwhile
            if not message.candidates:
                return
            self._candidates, self._tried = [], []
        self._candidates[:0] = message.candidates if deputy is None else (deputy,)
        self._called = self._called if deputy is None else now
        self._orphan = deputy.id if deputy is not None else b""
        del self._candidates[self._config.join_tries :]
        self._next(now)

    # ---- being asked ------------------------------------------------------------------------------------------------

    def admit(self, joiner: Contact, attempt: int, now: int) -> bool:
        """Answer a join.  True when the joiner is now a child; False when it was refused, with candidates."""
        if not self.attached or joiner.id in (*self.my_path, self.parent):  # a parent may leave itself out of its path
            self._out.send(joiner.id, TreeRefuse(self.app, attempt, self._above(joiner)))
            return False
        self._ring.learn(joiner)
        if joiner.id not in self.children and not self._has_slot(joiner):
            self._out.send(joiner.id, TreeRefuse(self.app, attempt, self._suggest(joiner)))
            return False
        child = self.children.get(joiner.id)
        if child is not None:
            newer = joiner.incarnation > child.contact.incarnation
            child.contact, child.attempt = joiner, attempt if newer else max(child.attempt, attempt)
        else:
            self.children[joiner.id] = Child(joiner, attempt)
            self._ring.watch(joiner.id, self._purpose, now)
            if len(self.children) == 1:
                self._arm_beat(now)
        self._out.send(joiner.id, TreeAccept(self.app, attempt, self.my_path))
        self._changed(now)
        return True

    def point(self, joiner: Contact, attempt: int) -> None:
        """Answer a join that others carried: where to ask, here or below.  Nobody becomes a child by it."""
        candidates = self._above(joiner)
        if joiner.id not in (*self.my_path, self.parent):
            place = joiner.id in self.children or self._has_slot(joiner)
            candidates = (self.me,) if place else self._suggest(joiner)
        self._out.send(joiner.id, TreeRefuse(self.app, attempt, candidates))

    def _has_slot(self, joiner: Contact) -> bool:
        alike = sum(child.contact.dialable == joiner.dialable for child in self.children.values())
        return alike < (self.fan_out if joiner.dialable else self._config.leaf_slots)

    def _above(self, joiner: Contact) -> tuple[Contact, ...]:
        """Where ``joiner``, which stands above this node and has lost its own parent, finds a place: the route may lead
        it here time and again, since the closest node may be below it."""
        if self.head is None or not self.attached or self.head.root.id in (joiner.id, self.me.id):
            return ()
        return (self.head.root,)

    def _suggest(self, joiner: Contact) -> tuple[Contact, ...]:
        """Up to three children, those first that were suggested least."""
        usable = [child for child in self.children.values() if child.contact.dialable and child.contact.id != joiner.id]
        usable.sort(key=lambda child: (child.pushes, child.contact.id))
        if usable:
            usable[0].pushes += 1
        return tuple(child.contact for child in usable[:3])

    # ---- keeping ----------------------------------------------------------------------------------------------------

    def _arm_beat(self, now: int) -> None:
        jitter = self._stream.below(self._config.beat // 4)
        self._out.set_timer(("tree.beat", self.app), now + self._config.beat - jitter)

    def on_beat_timer(
        self, wave: WaveId, committed: tuple[int, int, int], awaited: Collection[NodeId], now: int
    ) -> None:
        """Beat to the children, some of whose answers are awaited; notice a parent that no longer beats."""
        if not self.wanted and not self.children:
            return
        if self.parent is not None and now - self._last_beat > self._config.beat_patience * self._config.beat:
            self.lose_parent(now, tell=True)
        if self.attached:
            path = self.my_path
            for child in self.children:
                self._out.send(child, TreeBeat(self.app, path, wave, committed, child in awaited))
        self._arm_beat(now)

    def hurry(self, child: NodeId, wave: WaveId, remaining: int) -> None:
        """A beat out of turn: the answer to ``wave`` is wanted within ``remaining`` ns."""
        self._out.send(child, TreeBeat(self.app, self.my_path, wave, (0, 0, 0), True, remaining))

    def on_beat(self, peer: NodeId, path: Sequence[NodeId], now: int) -> bool:
        """True when it comes from the parent and the path is sound."""
        if peer != self.parent:
            self.disown(peer)
            return False
        self._last_beat = now
        if self.me.id in path or len(path) >= MAX_DEPTH:
            self.lose_parent(now, tell=True)
            return False
        self._since = -1
        if tuple(path) != self.path:
            self.path = tuple(path)
            self._tell_children()
            self._changed(now)
        return True

    def _tell_children(self) -> None:
        """A changed path goes down at once: loops are found by it."""
        beat = TreeBeat(self.app, self.my_path, NO_WAVE, (0, 0, 0))
        for child in self.children:
            self._out.send(child, beat)

    def lose_parent(self, now: int, *, tell: bool = False) -> None:
        """The parent is gone, or silent: look for another at once.  ``tell`` it, when it may still hear: on a path
        that is broken one way only it would keep this node among its children for as long as it hears of it."""
        if self.parent is None:
            return
        if tell:
            self.disown(self.parent)
        self._ring.unwatch(self.parent, self._purpose)
        self.parent, self.path = None, ()
        self._changed(now)
        if self.wanted:
            self._begin(now)

    def disown(self, peer: NodeId) -> None:
        """Tell ``peer`` that this node is not its child: every join is taken back but one that is under way."""
        self._out.send(peer, TreeLeave(self.app, max(self._past if self.joining else self._attempt, 1)))

    def left(self, peer: NodeId, attempt: int, now: int) -> bool:
        """A child takes its joins back; True when it was one.  It may have joined anew in the meantime."""
        child = self.children.get(peer)
        return child is not None and child.attempt <= attempt and self.drop_child(peer, now)

    def drop_child(self, peer: NodeId, now: int) -> bool:
        """True when ``peer`` was a child."""
        if self.children.pop(peer, None) is None:
            return False
        self._ring.unwatch(peer, self._purpose)
        self._changed(now)
        return True

    # ---- root and end -----------------------------------------------------------------------------------------------

    def become_root(self, now: int) -> None:
        if self.parent is not None:
            self.disown(self.parent)
            self._ring.unwatch(self.parent, self._purpose)
        self._out.cancel_timer(("tree.join", self.app))
        self.parent, self.path, self._candidates, self._since = None, (), None, -1
        self.is_root = self.wanted = True
        self._tell_children()
        self._arm_beat(now)
        self._changed(now)

    def step_down(self, now: int) -> None:
        """Another is root now; the subtree stays and joins as a whole."""
        if not self.is_root:
            return
        self.is_root = False
        self._changed(now)
        self._begin(now)

    def leave(self, now: int) -> None:
        """Let go of everyone; they join again elsewhere if they still want the tree."""
        for child in self.children:
            self._out.send(child, TreeLeave(self.app))
            self._ring.unwatch(child, self._purpose)
        if self.parent is not None:
            self.disown(self.parent)
            self._ring.unwatch(self.parent, self._purpose)
        self.children.clear()
        self.parent, self.path, self._candidates, self._since = None, (), None, -1
        self.wanted = self.is_root = False
        for timer in ("tree.join", "tree.beat"):
            self._out.cancel_timer((timer, self.app))
        self._changed(now)

    @property
    def _purpose(self) -> str:
        return "tree:" + self.app.hex()

    def check_invariants(self) -> None:
        """Raises AssertionError on a state that no sequence of messages may reach."""
        assert not (self.is_root and self.parent is not None), "a root has no parent"
        assert self.me.id not in self.path, "a node stands on its own path"
        dialable = sum(child.contact.dialable for child in self.children.values())
        assert dialable <= self.fan_out, f"{dialable} children, the cap is {self.fan_out}"
        assert len(self.children) - dialable <= self._config.leaf_slots
        assert self.parent not in self.children, "a parent is nobody's child"
