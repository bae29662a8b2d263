"""All trees of one node, and who is their root.

The node closest to an application's id is its *rendezvous*.  It answers joins: with a place, when it is a member; with
a pointer to the root, when it knows of a live one; and when there is none it stands for root itself (``proposer``).  A
root stays root until it dies or is fenced: a rendezvous that appears closer to the id sends joiners to it and watches it.

Safety is in the head and progress is in the waves: nothing here can make two roots commit, because every commit passes
a majority of voters; the rendezvous rule only makes it likely that one node tries at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from dht.ports import Verdict
from protocol.effects import Outbox
from protocol.errors import Code
from protocol.events import Timer
from protocol.ids import AppId, NodeId
from protocol.messages import Contact, Message
from protocol.streams import Stream

from .config import TreeConfig
from .grove import Grove
from .holdings import Holdings
from .messages import (
    Accept,
    Accepted,
    Committed,
    Head,
    HeadAnswer,
    HeadQuery,
    Partial,
    Prepare,
    Promise,
    Stale,
    TreeAccept,
    TreeBeat,
    TreeJoin,
    TreeLeave,
    TreeRefuse,
    TreeWant,
    WaveId,
    WaveOpen,
    WaveUp,
)
from .ports import Genesis, Overlay, Roles
from .voter import Voter

MAX_APPS = 4096


class Forest:
    """Every application that this node has to do with: as member, as voter or as rendezvous."""

    def __init__(
        self,
        me: Contact,
        config: TreeConfig,
        *,
        ring: Overlay,
        roles: Roles,
        out: Outbox,
        stream: Stream,
        restored: dict[str, bytes],
    ) -> None:
        self.me, self.config = me, config
        self.ring, self.roles, self.out, self.stream = ring, roles, out, stream
        self.holdings = Holdings(out)
        self.groves: dict[AppId, Grove] = {}
        self.voters: dict[AppId, Voter] = {}
        self.counters: dict[str, int] = {}
        self._restored = restored
        self._handlers: dict[type[Message], Callable[..., None]] = {
            TreeJoin: self._on_join,
            TreeAccept: self._to_grove(Grove.on_accept),
            TreeRefuse: self._to_grove(Grove.on_refuse),
            TreeLeave: self._to_grove(Grove.on_leave),
            TreeBeat: self._to_grove(Grove.on_beat),
            TreeWant: self._to_grove(Grove.on_want),
            WaveOpen: self._to_grove(Grove.on_open),
            WaveUp: self._to_grove(Grove.on_up),
            Committed: self._on_committed,
            Stale: self._to_grove(Grove.on_stale),
            HeadQuery: self._on_query,
            HeadAnswer: self._to_grove(Grove.on_answer),
            Prepare: self._to_voter(Voter.on_prepare),
            Accept: self._on_accept,
            Promise: self._to_grove(Grove.on_promise),
            Accepted: self._to_grove(Grove.on_accepted),
        }
        for key, value in restored.items():
            if key.startswith("voter/"):
                self._voter(bytes.fromhex(key.removeprefix("voter/"))).restore(value)

    # ---- applications -----------------------------------------------------------------------------------------------

    def know(self, genesis: Genesis, now: int) -> Grove | None:
        """Learn of an application; None when the table is full."""
        grove = self.groves.get(genesis.app)
        if grove is None:
            if len(self.groves) >= MAX_APPS:
                self.count("apps_refused")
                return None
            voter = self.voters.get(genesis.app)
            accepted = voter.ballot.accepted if voter is not None else None
            grove = self.groves[genesis.app] = Grove(self, genesis)
            if accepted is not None:
                grove.heard_of(accepted, now)
        grove.serve(now)
        return grove

    def join(self, app: AppId, now: int) -> None:
        """Become a member.  A durable mark says so, that a later life of this node may know it."""
        grove = self.groves[app]
        mark = "member/" + app.hex()
        if mark in self._restored:
            grove.remembered(now)
        else:
            self.out.store(mark, b"1")
        grove.join(now)

    def leave(self, app: AppId, now: int) -> None:
        if app in self.groves:
            self.groves[app].leave(now)

    def contribute(self, app: AppId, wave: WaveId, partial: Partial | None, now: int) -> bool:
        """The local role's part in ``wave``; False when it is too late."""
        return self.groves[app].waves.contribute(wave, partial, now)

    def hand_in(self, app: AppId, wave: WaveId, partial: Partial, now: int) -> None:
        """Answer to ``Roles.combine``."""
        self.groves[app].waves.hand_in(wave, partial, now)

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1

    # ---- events -----------------------------------------------------------------------------------------------------

    def received(self, peer: NodeId, message: Message, now: int) -> bool:
        """Dispatch a direct message; False when it is not the forest's."""
        handler = self._handlers.get(type(message))
        if handler is None:
            return False
        handler(peer, message, now)
        return True

    def timer(self, timer: Timer, now: int) -> bool:
        """Dispatch a timer; False when it is not the forest's."""
        name = timer[0]
        if not isinstance(name, str) or not name.startswith("tree."):
            return False
        app = timer[1]
        assert isinstance(app, bytes)
        if app in self.groves:
            self.groves[app].on_timer(name, now)
        return True

    def stored(self, key: str, now: int) -> bool:
        kind, _, app = key.partition("/")
        if kind == "voter":
            self._voter(bytes.fromhex(app)).on_stored()
            return True
        if kind == "member":
            grove = self.groves.get(bytes.fromhex(app))
            if grove is not None:
                grove.remembered(now, first=True)
            return True
        return False

    def peer_dead(self, peer: NodeId, now: int) -> None:
        for grove in list(self.groves.values()):
            grove.peer_dead(peer, now)

    def leaves_changed(self, now: int) -> None:
        for grove in list(self.groves.values()):
            grove.serve(now)

    # ---- routed -----------------------------------------------------------------------------------------------------

    def intercept(self, origin: Contact, message: Message, now: int) -> Verdict | NodeId:
        """A join on its way: a member takes it, unless the joiner stands above it."""
        if not isinstance(message, TreeJoin):
            return Verdict.CONTINUE
        grove = self.groves.get(message.app)
        if grove is not None and grove.takes(message):
            grove.on_join(message, now)
            return Verdict.CONSUME
        if not message.joiner.dialable:
            return self._host(message, now)
        return Verdict.CONTINUE

    def _host(self, message: TreeJoin, now: int) -> Verdict:
        """An outbound-only node reaches the tree through its gateway, which is this node: become a member for it."""
        grove = self.groves.get(message.app)
        if grove is None:
            return Verdict.CONTINUE
        self.join(message.app, now)
        return Verdict.CONSUME

    def deliver(self, message: Message, now: int) -> None:
        """This node is the rendezvous."""
        if isinstance(message, TreeJoin):
            self._on_join(message.joiner.id, message, now)

    # ---- handlers that need no grove of their own -------------------------------------------------------------------

    def _to_grove(self, handler: Callable[..., object]) -> Callable[[NodeId, Message, int], None]:
        def dispatch(peer: NodeId, message: Message, now: int) -> None:
            grove = self.groves.get(message.app)  # type: ignore[attr-defined]
            if grove is not None:
                handler(grove, peer, message, now)
            else:
                self.count("unknown_app")

        return dispatch

    def _to_voter(self, handler: Callable[..., None]) -> Callable[[NodeId, Message, int], None]:
        def dispatch(peer: NodeId, message: Message, now: int) -> None:
            handler(self._voter(message.app), peer, message, now)  # type: ignore[attr-defined]

        return dispatch

    def _voter(self, app: AppId) -> Voter:
        """Anybody may be asked to vote: who the voters are is decided by those who ask."""
        voter = self.voters.get(app)
        if voter is None:
            if len(self.voters) >= MAX_APPS:
                self.count("voters_refused")
                return Voter(app, self.me.id, out=Outbox(), holdings=self.holdings, count=self.count)
            voter = Voter(app, self.me.id, out=self.out, holdings=self.holdings, count=self.count)
            self.voters[app] = voter
        return voter

    def _on_accept(self, peer: NodeId, message: Accept, now: int) -> None:
        self._voter(message.head.app).on_accept(peer, message, now)

    def _on_join(self, peer: NodeId, message: TreeJoin, now: int) -> None:
        grove = self.groves.get(message.app)
        if grove is not None:
            grove.on_join(message, now)
        else:
            self.out.send(message.joiner.id, TreeRefuse(message.app, message.attempt))

    def _on_committed(self, peer: NodeId, message: Committed, now: int) -> None:
        grove = self.groves.get(message.head.app)
        if grove is not None:
            grove.on_committed(peer, message, now)

    def _on_query(self, peer: NodeId, message: HeadQuery, now: int) -> None:
        """Answer with the best that this node knows: as root, as voter, as member."""
        grove, voter = self.groves.get(message.app), self.voters.get(message.app)
        heads: list[Head] = []
        if voter is not None and voter.ballot.accepted is not None:
            heads.append(voter.ballot.accepted)
        if grove is not None and grove.head is not None:
            heads.append(grove.head)
        head = max(heads, key=lambda each: each.order, default=None)
        if head is not None and not message.full:
            head = head.outline()
        root = voter.root if voter is not None else None
        if grove is not None and grove.proposer.leading:
            root = self.me
        self.out.send(peer, HeadAnswer(message.app, root, head))

    # ---- inspection -------------------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        for grove in self.groves.values():
            grove.tree.check_invariants()
        assert len(self.groves) <= MAX_APPS and len(self.voters) <= MAX_APPS
