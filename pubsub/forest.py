"""All trees of one node, and who is their root.

The node closest to an application's id is its *rendezvous*.  It answers joins: with a place, when it is a member; with
a pointer to the root, when it knows of a live one; and when there is none it stands for root itself (``proposer``).  A
root stays root until it dies or is fenced: a rendezvous that appears closer to the id sends joiners to it and watches
it.

Safety is in the head and progress is in the waves: nothing here can make two roots commit, because every commit passes
a majority of voters; the rendezvous rule only makes it likely that one node tries at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from dht.ports import Verdict
from protocol.effects import Outbox
from protocol.errors import Code
from protocol.events import Timer
from protocol.ids import AppId, NodeId
from protocol.membership import Roll
from protocol.messages import Contact, Message
from protocol.signing import Sealer
from protocol.streams import Stream

from .claims import CHECK, Inspector
from .config import TreeConfig
from .deposits import Deposits
from .grove import Grove
from .heads import Head
from .holdings import Holdings
from .joins import Joins
from .messages import (
    Accept,
    Accepted,
    Committed,
    HeadAnswer,
    HeadQuery,
    Held,
    Hold,
    Holding,
    Partial,
    Prepare,
    Promise,
    Reign,
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
    Withdraw,
)
from .ports import Genesis, Overlay, Roles
from .proofs import Proofs
from .voter import Voter

MAX_APPS = 4096
MAX_VOTES = 2 * MAX_APPS
"""Applications voted on, those that are over included."""


class _Ended(NamedTuple):
    """An application that is over, as far as it takes to judge what is still said of it: heads in outline."""

    first: Head
    last: Head | None
    limit: int


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
        sealer: Sealer,
        roll: Roll,
        restored: dict[str, bytes],
    ) -> None:
        self.sealer, self.roll = sealer, roll
        self.me, self.config = me, config
        self.ring, self.roles, self.out, self.stream = ring, roles, out, stream
        self.holdings = Holdings(out)
        self.proofs = Proofs(sealer)
        self.inspector = Inspector(me.id, sealer, roll, out)
        self.known: dict[AppId, Genesis] = {}
        """Applications that are not over."""
        self.deposits = Deposits(
            me.id, config, out=out, holdings=self.holdings, roles=roles, genesis=self.known.get, count=self.count
        )
        self.heads: dict[AppId, Head] = {}
        """What records say of their voters; proven."""
        self._ended: dict[AppId, _Ended] = {}
        self.groves: dict[AppId, Grove] = {}
        self.voters: dict[AppId, Voter] = {}
        self.counters: dict[str, int] = {}
        self._joins = Joins(self)
        self._marks = {key: True for key in restored if key.startswith("member/")}
        """Memberships that are written down, in this life or an earlier one."""
        for key, value in restored.items():
            if key.startswith("voter/"):
                self._voter(bytes.fromhex(key.removeprefix("voter/"))).restore(value)
            elif key.startswith("kept/"):
                self.deposits.restore(bytes.fromhex(key.removeprefix("kept/")), value)

    # ---- applications -----------------------------------------------------------------------------------------------

    def know(self, genesis: Genesis, now: int) -> bool:
        """Learn of an application; False when the table is full."""
        if genesis.app in self.known:
            return True
        if len(self.known) >= MAX_APPS:
            self.count("apps_refused")
            return False
        self.known[genesis.app] = genesis
        if any(voter.id == self.me.id for voter in genesis.voters):
            self.deposits.keep(genesis, now)
        self._serve(genesis.app, now)
        return True

    def confirm(self, app: AppId, now: int) -> None:
        """Find out which voters hold what the descriptor names; ``Roles.deposited`` hears of each answer."""
        self.grove(app, now)  # voters that never heard of it are shown the descriptor
        self.deposits.ask(app, now)

    def sources(self, app: AppId, *first: NodeId) -> tuple[NodeId, ...]:
        """From whom a model or the code of a known application is fetched, best first."""
        head = self.newest(app)
        return self.known[app].sources(self.me.id, *first, voters=head.seats if head is not None else ())

    def proven(self, head: Head) -> bool | None:
        """Does ``head`` prove that it was committed?  None when the application is not known here: nobody can say."""
        first = self._genesis(head.app)
        return None if first is None else self.proofs.committed(first, head)

    def heard_of(self, head: Head, now: int) -> bool:
        """A committed head from a record or a root: who the voters are now, and whether all is over.  False when it is
        not proven."""
        if not self.proven(head):
            self.count("heads_unproven")
            return False
        known = self.heads.get(head.app)
        if head.app in self.known and (known is None or head.order > known.order):
            self.heads[head.app] = head
        if head.app in self.groves:
            self.groves[head.app].heard_of(head, now)
        return True

    def newest(self, app: AppId) -> Head | None:
        """The newest head that is proven here."""
        grove, told = self.groves.get(app), self.heads.get(app)
        seen = grove.head if grove is not None else self._ended[app].last if app in self._ended else None
        return seen if told is None or (seen is not None and seen.order >= told.order) else told

    def conclude(self, app: AppId, now: int) -> None:
        """The application is over: nobody serves it any more."""
        genesis = self.known.pop(app, None)
        if genesis is not None:
            last = self.newest(app)
            outline = last.outline() if last is not None else None
            self._ended[app] = _Ended(genesis.head().outline(), outline, genesis.limit)
            if len(self._ended) > MAX_APPS:
                del self._ended[next(iter(self._ended))]
        self.heads.pop(app, None)
        self.deposits.release(app)
        if app in self.voters:
            self.voters[app].conclude()
        if app in self.groves:
            self.groves[app].conclude(now)
        else:
            self.roles.forgotten(app)

    def drop(self, app: AppId) -> bool:
        """Forget an application in which this node has no part; False when it has one."""
        if app in self.groves or app in self.voters:
            return False
        self.known.pop(app, None)
        self.heads.pop(app, None)
        self.deposits.release(app)
        return True

    def forget(self, app: AppId) -> None:
        """The last trace of a finished application, but for the vote, which keeps the final head."""
        if self.groves.pop(app, None) is not None:
            mark = "member/" + app.hex()
            self._marks.pop(mark, None)
            self.out.store(mark, None)
            self.roles.forgotten(app)

    def grove(self, app: AppId, now: int) -> Grove | None:
        """This node's part in ``app``, made when it is first needed: most nodes have no part in most applications."""
        grove = self.groves.get(app)
        genesis = self.known.get(app)
        if grove is None and genesis is not None:
            grove = self.groves[app] = Grove(self, genesis)
            if app in self.heads:
                grove.heard_of(self.heads[app], now)
        return grove

    def join(self, app: AppId, now: int) -> None:
        """Become a member.  A durable mark says so, that a later life of this node may know it: also when the node has
        been in the tree before, as a root without data, of which nothing needed to be remembered."""
        grove = self.grove(app, now)
        if grove is None:
            return
        mark = "member/" + app.hex()
        if mark not in self._marks:
            self._marks[mark] = True
            grove.unmarked()
            self.out.store(mark, b"1")
        grove.join(now)

    def leave(self, app: AppId, now: int) -> None:
        if app in self.groves:
            self.groves[app].leave(now)

    def contribute(self, app: AppId, wave: WaveId, partial: Partial | None, now: int) -> bool:
        """The local role's part in ``wave``; False when it is too late."""
        return app in self.groves and self.groves[app].waves.contribute(wave, partial, now)

    def hand_in(self, app: AppId, wave: WaveId, partial: Partial | None, now: int, absent: int = 0) -> None:
        """Answer to ``Roles.combine``; ``absent``: members who stand behind what had to be left out."""
        if app in self.groves:
            self.groves[app].waves.hand_in(wave, partial, now, absent)

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1

    # ---- events -----------------------------------------------------------------------------------------------------

    def received(self, peer: NodeId, message: Message, now: int) -> bool:
        """Dispatch a direct message; False when it is not the forest's."""
        handler = _HANDLERS.get(type(message))
        if handler is None:
            return False
        handler(self, peer, message, now)
        return True

    def timer(self, timer: Timer, now: int) -> bool:
        """Dispatch a timer; False when it is not the forest's."""
        name = timer[0]
        if not isinstance(name, str) or not name.startswith("tree."):
            return False
        app = timer[1]
        assert isinstance(app, bytes)
        if timer == CHECK:
            self.inspector.on_timer(now)
        elif name in ("tree.deposit", "tree.hold"):
            self.deposits.on_timer(name, app, now)
        elif app in self.groves:
            self.groves[app].on_timer(name, now)
        return True

    def stored(self, key: str, now: int) -> bool:
        kind, _, app = key.partition("/")
        if kind == "voter":
            voter = self.voters.get(bytes.fromhex(app))
            if voter is not None:
                voter.on_stored()
            return True
        if kind == "kept":
            self.deposits.on_stored(bytes.fromhex(app))
            return True
        if kind == "member":
            grove = self.groves.get(bytes.fromhex(app))
            if grove is not None:
                grove.first_life()
            return True
        return False

    def peer_dead(self, peer: NodeId, why: str, now: int) -> None:
        for grove in list(self.groves.values()):
            grove.peer_dead(peer, why, now)

    def leaves_changed(self, now: int) -> None:
        for app in list(self.known):
            self._serve(app, now)

    def _serve(self, app: AppId, now: int) -> None:
        """See that the application has a root, if that falls to this node."""
        if app in self.groves:
            self.groves[app].serve(now)
        elif self.ring.ready and self.ring.is_closest(app):
            grove = self.grove(app, now)
            if grove is not None:
                grove.serve(now)

    # ---- routed -----------------------------------------------------------------------------------------------------

    def intercept(self, relay: NodeId, message: Message, now: int) -> Verdict | NodeId:
        """A routed message on its way, handed over by ``relay``."""
        return self._joins.passing(relay, message, now) if isinstance(message, TreeJoin) else Verdict.CONTINUE

    def deliver(self, relay: NodeId, message: Message, now: int) -> None:
        """This node is the rendezvous."""
        if isinstance(message, TreeJoin):
            self._joins.arrived(relay, message, now)

    # ---- handlers that need no grove of their own -------------------------------------------------------------------

    def on_join(self, peer: NodeId, message: TreeJoin, now: int) -> None:
        self._joins.direct(peer, message, now)

    def on_prepare(self, peer: NodeId, message: Prepare, now: int) -> None:
        voter = self._voter_of(message.app)
        if voter is not None:
            voter.on_prepare(peer, message, now)
        else:
            self.out.send(peer, TreeRefuse(message.app, 0, unknown=True))

    def on_withdraw(self, peer: NodeId, message: Withdraw, now: int) -> None:
        voter = self.voters.get(message.app)
        if voter is not None:
            voter.on_withdraw(peer, message, now)

    def on_accept(self, peer: NodeId, message: Accept, now: int) -> None:
        voter = self._voter_of(message.head.app)
        if voter is not None:
            voter.on_accept(peer, message, now)

    def _voter_of(self, app: AppId) -> Voter | None:
        """Anybody may be asked to vote, since those who ask decide who the voters are; but only on an application whose
        descriptor is known here, so that nobody can make up applications for others to guard."""
        voter = self.voters.get(app)
        if voter is None and app not in self.known:
            self.count("unknown_app")
        elif voter is None and len(self.voters) >= MAX_VOTES and not self._forget_a_vote():
            self.count("voters_refused")
        elif voter is None:
            voter = self._voter(app)
        return voter

    def _voter(self, app: AppId) -> Voter:
        voter = self.voters[app] = Voter(
            app, self.me.id, config=self.config, ring=self.ring, out=self.out, holdings=self.holdings,
            proofs=self.proofs, genesis=self._genesis, newest=self.newest, limit=self._limit, count=self.count,
        )  # fmt: skip
        return voter

    def _genesis(self, app: AppId) -> Head | None:
        if app in self.known:
            return self.known[app].head()
        return self._ended[app].first if app in self._ended else None

    def _limit(self, app: AppId) -> int:
        """Bytes that a value in a head may have."""
        known = self.known.get(app) or self._ended.get(app)
        return known.limit if known is not None else 0

    def _forget_a_vote(self) -> bool:
        """Make room: the vote on an application that is over; what is known of its end takes its place."""
        for app, voter in self.voters.items():
            if voter.over:
                voter.forget()
                del self.voters[app]
                return True
        return False

    def on_committed(self, peer: NodeId, message: Committed, now: int) -> None:
        grove = self.groves.get(message.head.app)
        if grove is not None:
            grove.on_committed(peer, message, now)

    def on_reign(self, peer: NodeId, message: Reign, now: int) -> None:
        """From a root to its voters."""
        voter = self.voters.get(message.head.app)
        if message.head.app not in self.known or voter is None:
            self.count("unknown_app")
        elif self.heard_of(message.head, now):
            voter.on_reign(peer, message, now)
            if self.me.id in message.head.seats:
                self.deposits.keep(self.known[message.head.app], now, begun=message.head.round > 0)
        else:
            self.out.penalize(peer, Code.UNAUTHORISED, "head that nobody committed")

    def on_query(self, peer: NodeId, message: HeadQuery, now: int) -> None:
        """Whom does this node follow, and what does it know to be committed?"""
        grove, voter, head = self.groves.get(message.app), self.voters.get(message.app), self.newest(message.app)
        root = voter.root if voter is not None and voter.root is not None and voter.root.id != self.me.id else None
        hears = voter is not None and voter.lease.bars(peer, now)
        if voter is not None and hears and not voter.lease.other(peer, now):
            root = None
        if grove is not None and grove.proposer.reigns:
            root, hears = self.me, True
        if head is not None:
            held = voter.ballot.accepted if voter is not None else None
            if held is not None and not head.whole and held.statement() == head.statement():
                head = msgspec.structs.replace(held, proof=head.proof)
            head = head if message.full and head.whole else head.outline()
        self.out.send(peer, HeadAnswer(message.app, root, head, hears))

    # ---- inspection -------------------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        for grove in self.groves.values():
            grove.tree.check_invariants()
        assert len(self.groves) <= MAX_APPS and len(self.voters) <= MAX_VOTES


# ---- dispatch: one table for all forests, so that a simulated node does not carry its own ---------------------------

_Handler = Callable[[Forest, NodeId, Any, int], None]


def _to_grove(handler: Callable[[Grove, NodeId, Any, int], object]) -> _Handler:
    def dispatch(forest: Forest, peer: NodeId, message: Any, now: int) -> None:
        grove = forest.groves.get(message.app)
        if grove is not None:
            handler(grove, peer, message, now)
        else:
            forest.count("unknown_app")

    return dispatch


_HANDLERS: dict[type[Message], _Handler] = {
    TreeJoin: Forest.on_join,
    TreeAccept: _to_grove(Grove.on_accept),
    TreeRefuse: _to_grove(Grove.on_refuse),
    TreeLeave: _to_grove(Grove.on_leave),
    TreeBeat: _to_grove(Grove.on_beat),
    TreeWant: _to_grove(Grove.on_want),
    WaveOpen: _to_grove(Grove.on_open),
    WaveUp: _to_grove(Grove.on_up),
    Committed: Forest.on_committed,
    Stale: _to_grove(Grove.on_stale),
    HeadQuery: Forest.on_query,
    HeadAnswer: _to_grove(Grove.on_answer),
    Prepare: Forest.on_prepare,
    Withdraw: Forest.on_withdraw,
    Accept: Forest.on_accept,
    Promise: _to_grove(lambda grove, *event: grove.throne.on_promise(*event)),
    Accepted: _to_grove(lambda grove, *event: grove.throne.on_accepted(*event)),
    Holding: _to_grove(lambda grove, *event: grove.throne.on_holding(*event)),
    Reign: Forest.on_reign,
    Hold: lambda forest, *event: forest.deposits.on_hold(*event),
    Held: lambda forest, *event: forest.deposits.on_held(*event),
}
