"""The guardian of a head: one acceptor of a register on 2f + 1 daemons.

Classic Paxos (Lamport 1998) with the register's history collapsed to its newest value: a voter follows the candidate
of the highest epoch it promised, and holds the newest head that it accepted.  An epoch is promised to *one* candidate
only, so two candidates of one epoch cannot both win (Raft's ``votedFor``, Ongaro & Ousterhout 2014).  Nothing is said
before it is durable: ``Promise`` and ``Accepted`` wait for ``Stored``.  A head is accepted only with its model: the
content is here, pinned, before the head is stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from protocol.effects import Outbox
from protocol.errors import Code
from protocol.ids import AppId, BlobId, NodeId
from protocol.messages import Contact, Message, Value

from .holdings import Holdings
from .messages import MAX_LEAP, Accept, Accepted, Head, Prepare, Promise, Stale

MAX_PENDING = 64


class Ballot(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a voter must not forget."""

    promised: int = 0
    candidate: Contact | None = None
    accepted: Head | None = None


def _same_life(a: Contact | None, b: Contact) -> bool:
    """One process: a restarted root must not go on in an epoch of which it remembers nothing."""
    return a is not None and (a.id, a.incarnation) == (b.id, b.incarnation)


def _artifacts(head: Head | None) -> list[BlobId]:
    """What ``head`` names, each once."""
    values = (head.model, head.state) if head is not None else ()
    return list(dict.fromkeys(value.blob for value in values if value.blob))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Ballot)


class Voter:
    """This node's vote on one application."""

    __slots__ = ("_arriving", "_count", "_holdings", "_me", "_out", "_pending", "app", "ballot", "over")

    def __init__(
        self, app: AppId, me: NodeId, *, out: Outbox, holdings: Holdings, count: Callable[[str], None]
    ) -> None:
        self.app = app
        self._me, self._out, self._holdings, self._count = me, out, holdings, count
        self.ballot = Ballot()
        self.over = False
        """The application is known to have ended: this vote is kept only as long as there is room."""
        self._arriving: Head | None = None
        """Outline of the head whose content is on its way."""
        self._pending: deque[tuple[NodeId, Message]] = deque()
        """Answers that wait for their ``Stored``, in the order of the stores."""

    @staticmethod
    def key(app: AppId) -> str:
        """Name of the durable ballot."""
        return "voter/" + app.hex()

    def restore(self, value: bytes) -> None:
        """Raises msgspec.MsgspecError when ``value`` is not a ballot: the store is corrupt."""
        self.ballot = _decoder.decode(value)
        if self.ballot.accepted is not None:
            self._repin(None, self.ballot.accepted)

    # ---- phase 1 ----------------------------------------------------------------------------------------------------

    def on_prepare(self, peer: NodeId, message: Prepare, now: int) -> None:
        """Follow ``candidate`` in ``epoch``, unless someone else was promised that or more."""
        if message.candidate.id != peer:
            self._out.penalize(peer, Code.UNAUTHORISED, "candidate for another node")
            return
        if not self._plausible(peer, message.epoch):
            return
        ballot = self.ballot
        repeated = message.epoch == ballot.promised and _same_life(ballot.candidate, message.candidate)
        if message.epoch <= ballot.promised and not repeated:
            self._refuse(peer)
            return
        if not repeated:
            self.ballot = Ballot(message.epoch, message.candidate, ballot.accepted)
        self._answer(peer, Promise(self.app, message.epoch, self.ballot.accepted))

    def _plausible(self, peer: NodeId, epoch: int) -> bool:
        if epoch <= self.ballot.promised + MAX_LEAP:
            return True
        self._out.penalize(peer, Code.UNAUTHORISED, "epoch out of reach")
        return False

    def _refuse(self, peer: NodeId) -> None:
        self._count("stale_refused")
        self._out.send(peer, Stale(self.app, self.ballot.promised))

    # ---- phase 2 ----------------------------------------------------------------------------------------------------

    def on_accept(self, peer: NodeId, message: Accept, now: int) -> None:
        """Hold this head, once its content is here."""
        head = message.head
        if head.root.id != peer:
            self._out.penalize(peer, Code.UNAUTHORISED, "head of another root")
        elif not (head.model.well_formed and head.state.well_formed):
            self._out.penalize(peer, Code.MALFORMED, "head")
        elif self._superseded(head):
            self._refuse(peer)
        elif self._plausible(peer, head.epoch) and self._arriving != head.outline():
            self._arriving = head.outline()
            self._fetch([head.model, head.state], peer, lambda at: self._hold(peer, head), now)

    def _fetch(self, values: list[Value], peer: NodeId, then: Callable[[int], None], now: int) -> None:
        """Bring ``values`` here one after the other; the root asks again when one does not come."""
        if not values:
            then(now)
            return
        first, *rest = values
        self._holdings.ensure(first, (peer,), lambda at: self._fetch(rest, peer, then, at), now, failed=self._give_up)

    def _give_up(self, now: int) -> None:
        self._arriving = None

    def _superseded(self, head: Head) -> bool:
        ballot = self.ballot
        if head.epoch < ballot.promised:
            return True
        if head.epoch == ballot.promised and not _same_life(ballot.candidate, head.root):
            return True
        return ballot.accepted is not None and head.order < ballot.accepted.order

    def _hold(self, peer: NodeId, head: Head) -> None:
        """The content is here; the epoch may have passed meanwhile."""
        self._arriving = None
        if self._superseded(head):
            self._refuse(peer)
            return
        before = self.ballot.accepted
        self.ballot = Ballot(head.epoch, head.root, head)
        self._repin(before, head)
        self._answer(peer, Accepted(self.app, head.epoch, head.round))

    def forget(self) -> None:
        """Give back all that this vote holds."""
        self._repin(self.ballot.accepted, None)
        self._pending.clear()
        self._out.store(self.key(self.app), None)

    def _repin(self, before: Head | None, head: Head | None) -> None:
        """Keep what the new head names and let go of what only the old one did."""
        kept, gone = _artifacts(head), _artifacts(before)
        for blob in kept:
            if blob not in gone:
                self._out.pin(blob)
        for blob in gone:
            if blob not in kept:
                self._out.unpin(blob)

    # ---- durability -------------------------------------------------------------------------------------------------

    def _answer(self, peer: NodeId, message: Message) -> None:
        """Say ``message`` once the ballot behind it is durable."""
        if len(self._pending) >= MAX_PENDING:
            self._count("voter_overflow")
            return
        self._pending.append((peer, message))
        self._out.store(self.key(self.app), _encoder.encode(self.ballot))

    def on_stored(self) -> None:
        """One of our stores is durable, in the order in which they were asked for."""
        if self._pending:
            peer, message = self._pending.popleft()
            self._out.send(peer, message)

    @property
    def root(self) -> Contact | None:
        """Whom this voter follows."""
        return self.ballot.candidate
