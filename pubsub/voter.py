"""The guardian of a head: one acceptor of a register on 2f + 1 daemons.

Classic Paxos (Lamport 1998) with the register's history collapsed to its newest value: a voter follows the candidate
of the highest epoch it promised, and holds the newest head that it accepted.  An epoch is promised to *one* life of one
candidate only, so two candidates of one epoch cannot both win (Raft's ``votedFor``, Ongaro & Ousterhout 2014).  Nothing
is said before it is durable: ``Promise`` and ``Accepted`` wait for ``Stored``.  A head is accepted only with its model:
the content is here, pinned, before the head is stored, and what only the older head named is let go when it is.

A voter takes nobody's word.  It seals a head only when the chain in it proves on whose voters it stands, when it
changes them by one at most, and when its root shows a right to propose it (``heads.Warrant``).  It promises only to a
candidate that stands near the application's id, an epoch within reach, and not while another holds its lease: a root
whose commits are proven, or a candidate that was promised something just now (``lease``).  Whoever cannot reach a root
may not depose it (Raft's pre-vote and leader stickiness in one).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from protocol.effects import Outbox
from protocol.errors import Code
from protocol.ids import AppId, BlobId, NodeId, closeness
from protocol.messages import Contact, Message, Value

from .config import TreeConfig
from .heads import Head, Life, Warrant
from .holdings import Holdings
from .lease import Lease
from .messages import FAR, LEAP, Accept, Accepted, Holding, Prepare, Promise, Reign, Stale, Withdraw
from .ports import Overlay
from .proofs import Proofs

MAX_PENDING = 64


class Ballot(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a voter must not forget."""

    promised: int = 0
    candidate: Contact | None = None
    accepted: Head | None = None
    warrant: Warrant | None = None
    """By what right ``accepted`` was proposed."""


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

    __slots__ = (
        "_arriving", "_config", "_count", "_genesis", "_holdings", "_limit", "_me", "_newest", "_out", "_pending",
        "_proofs", "_released", "_ring", "app", "ballot", "lease", "over",
    )  # fmt: skip

    def __init__(
        self,
        app: AppId,
        me: NodeId,
        *,
        config: TreeConfig,
        ring: Overlay,
        out: Outbox,
        holdings: Holdings,
        proofs: Proofs,
        genesis: Callable[[AppId], Head | None],
        newest: Callable[[AppId], Head | None],
        limit: Callable[[AppId], int],
        count: Callable[[str], None],
    ) -> None:
        """``genesis``: the head in the descriptor, None when it is not known here.  ``newest``: the newest head that
        this node knows to be committed.  ``limit``: bytes that a value in a head may have."""
        self.app = app
        self._me, self._config, self._ring, self._out, self._holdings = me, config, ring, out, holdings
        self._proofs, self._genesis, self._newest = proofs, genesis, newest
        self._limit, self._count = limit, count
        self.ballot = Ballot()
        self.over = False
        """The application is known to have ended: this vote is kept only as long as there is room."""
        self._arriving = b""
        """Digest of the head whose content is on its way."""
        self._pending: deque[tuple[NodeId, Message, list[BlobId]]] = deque()
        """Answers that wait for their ``Stored``, in the order of the stores, and what may be let go with them."""
        self._released: list[BlobId] = []
        """Artifacts of older heads, to be let go with the next store."""
        self.lease = Lease("vote:" + app.hex(), config, ring)

    @staticmethod
    def key(app: AppId) -> str:
        """Name of the durable ballot."""
        return "voter/" + app.hex()

    def restore(self, value: bytes) -> None:
        """Raises msgspec.MsgspecError when ``value`` is not a ballot: the store is corrupt."""
        self.ballot = _decoder.decode(value)
        for blob in _artifacts(self.ballot.accepted):
            self._out.pin(blob)
        if self.ballot.candidate is not None:
            self.lease.recall(self.ballot.candidate)

    # ---- phase 1 ----------------------------------------------------------------------------------------------------

    def on_prepare(self, peer: NodeId, message: Prepare, now: int) -> None:
        """Follow ``candidate`` in ``epoch``, unless someone else was promised that or more, or reigns."""
        ballot, candidate, epoch = self.ballot, message.candidate, message.epoch
        if candidate.id != peer:
            self._out.penalize(peer, Code.UNAUTHORISED, "candidate for another node")
        elif epoch > self._reach() + FAR:
            self._out.penalize(peer, Code.UNAUTHORISED, "epoch out of reach")
        elif not self.lease.in_pace(peer, now):
            self._count("candidates_hasty")
        elif epoch == ballot.promised and _same_life(ballot.candidate, candidate):
            self._promise(peer)
        elif self.over or self.lease.bars(peer, now) or epoch <= ballot.promised or epoch > self._reach() + LEAP:
            self._refuse(peer)
        elif not self._plausible(candidate):
            self._count("candidates_implausible")
        else:
            self.lease.take(candidate, now)
            self.ballot = msgspec.structs.replace(ballot, promised=epoch, candidate=candidate)
            self._promise(peer)

    def on_withdraw(self, peer: NodeId, message: Withdraw, now: int) -> None:
        """``peer`` has not won ``message.epoch`` and does not try any longer; what was promised stays promised."""
        if message.epoch == self.ballot.promised:
            self.lease.give_back(peer, now)

    def _promise(self, peer: NodeId) -> None:
        ballot = self.ballot
        assert ballot.candidate is not None
        held = ballot.accepted.statement() if ballot.accepted is not None else None
        seal = self._proofs.promise(self.app, ballot.promised, Life.of(ballot.candidate), held)
        incarnation = ballot.candidate.incarnation
        self._answer(peer, Promise(self.app, ballot.promised, incarnation, seal, ballot.accepted, ballot.warrant))

    def _reach(self) -> int:
        """The highest epoch that is beyond doubt."""
        newest = self._newest(self.app)
        return max(self.ballot.promised, newest.epoch if newest is not None else 0)

    def _plausible(self, candidate: Contact) -> bool:
        """Does it stand so near the application's id that it may take itself for the closest, or is it a voter?

        Views of the ring differ, so a few nodes may be closer.  Whoever is the closest on its side of a partition is
        plausible there as soon as the others of that side have noticed that the rest is gone.
        """
        newest = self._newest(self.app) or self._genesis(self.app)
        if newest is not None and candidate.id in (*newest.seats, newest.root.id):
            return True
        near = self._ring.closest(self.app, self._config.standing)
        mine = closeness(self.app, candidate.id)
        return sum(closeness(self.app, contact.id) < mine for contact in near) < self._config.standing

    def _refuse(self, peer: NodeId) -> None:
        self._count("stale_refused")
        newest = self._newest(self.app)
        self._out.send(peer, Stale(self.app, self.ballot.promised, newest.outline() if newest is not None else None))

    # ---- who reigns -------------------------------------------------------------------------------------------------

    def on_reign(self, peer: NodeId, message: Reign, now: int) -> None:
        """``message.head`` is proven.  Its root reigns as long as it says so."""
        head, ballot = message.head, self.ballot
        if head.root.id != peer:
            self._out.penalize(peer, Code.UNAUTHORISED, "reign of another")
        elif message.over:
            if ballot.accepted is None or head.order >= ballot.accepted.order:  # not one that was long on its way
                self.lease.give_back(peer, now)
        elif head.epoch < ballot.promised or (head.epoch == ballot.promised and not self._follows(head.root)):
            self._refuse(peer)
        elif not self.over:
            self.lease.prolong(head.root, now)

    def _follows(self, root: Contact) -> bool:
        return _same_life(self.ballot.candidate, root)

    @property
    def root(self) -> Contact | None:
        """Whom this voter follows, or followed last."""
        return self.lease.holder or self.ballot.candidate

    # ---- phase 2 ----------------------------------------------------------------------------------------------------

    def on_accept(self, peer: NodeId, message: Accept, now: int) -> None:
        """Hold this head, once its content is here."""
        head, warrant, genesis = message.head, message.warrant, self._genesis(self.app)
        statement = head.statement()
        if genesis is None:
            self._count("unknown_app")
        elif head.root.id != peer:
            self._out.penalize(peer, Code.UNAUTHORISED, "head of another root")
        elif statement is None or not (head.whole and head.model.well_formed and head.state.well_formed):
            self._out.penalize(peer, Code.MALFORMED, "head")
        elif self._contradicts(head):
            self._out.penalize(peer, Code.UNAUTHORISED, "two heads of one order")
        elif self._outlived(head):
            self._count("accepts_late")
        elif self._superseded(head):
            self._refuse(peer)
        elif self._arriving == statement.digest():
            self.lease.prolong(head.root, now)
            self._out.send(peer, Holding(self.app, head.order))
        elif not self._may(genesis, head, warrant):
            self._out.penalize(peer, Code.UNAUTHORISED, "head without a right to propose it")
        elif self._forgets(genesis, head):
            self._refuse(peer)
        else:
            self.lease.prolong(head.root, now)
            self._arriving = statement.digest()
            self._fetch([head.model, head.state], peer, lambda at: self._hold(peer, head, warrant), now)

    def _may(self, genesis: Head, head: Head, warrant: Warrant) -> bool:
        """Is this what the winner of its epoch may propose?  A head that is held already was judged before."""
        held = self.ballot.accepted
        if held is not None and held.order == head.order and held.statement() == head.statement():
            return True
        return self._proofs.warranted(genesis, head, warrant)

    def _forgets(self, genesis: Head, head: Head) -> bool:
        """Does it stand on voters that a newer proven head has replaced, as if that head had never been?"""
        newest, before = self._newest(self.app), self._proofs.stands_on(genesis, head)
        last = head.proof.links[-1].statement.order if head.proof.links else genesis.order
        if newest is None or newest.order <= last or before is None:
            return False
        return set(newest.seats) not in (set(before), set(head.seats))

    def _fetch(self, values: list[Value], peer: NodeId, then: Callable[[int], None], now: int) -> None:
        """Bring ``values`` here one after the other; the root asks again when one does not come."""
        if not values:
            then(now)
            return
        first, *rest = values
        self._holdings.ensure(
            first,
            self._limit(self.app),
            (peer,),
            lambda at: self._fetch(rest, peer, then, at),
            now,
            failed=self._give_up,
        )

    def _give_up(self, now: int) -> None:
        self._arriving = b""

    def _contradicts(self, head: Head) -> bool:
        """Has the same root proposed another head of this order?  A voter that sealed both would prove both."""
        held = self.ballot.accepted
        return held is not None and held.order == head.order and held.statement() != head.statement()

    def _outlived(self, head: Head) -> bool:
        """Is it a late copy of what the root that is followed here has long gone on from?  That is no refusal."""
        held = self.ballot.accepted
        followed = head.epoch == self.ballot.promised and self._follows(head.root)
        return followed and held is not None and head.order < held.order

    def _superseded(self, head: Head) -> bool:
        ballot = self.ballot
        if head.epoch < ballot.promised:
            return True
        if head.epoch == ballot.promised and not self._follows(head.root):
            return True
        return ballot.accepted is not None and head.order < ballot.accepted.order

    def _hold(self, peer: NodeId, head: Head, warrant: Warrant) -> None:
        """The content is here; the epoch may have passed meanwhile."""
        self._arriving = b""
        if self._superseded(head) or self._contradicts(head):
            self._refuse(peer)
            return
        statement = head.statement()
        assert statement is not None
        before = self.ballot.accepted
        self.ballot = Ballot(head.epoch, head.root, head, warrant)
        self._repin(before, head)
        digest = statement.digest()
        self._answer(peer, Accepted(self.app, head.order, digest, self._proofs.accept(digest)))

    def conclude(self) -> None:
        """The application is over: nobody need reign, nor be promised anything."""
        self.over = True
        self.lease.end()

    def forget(self) -> None:
        """Give back all that this vote holds."""
        self.lease.end()
        for blob in (*_artifacts(self.ballot.accepted), *self._released):
            self._out.unpin(blob)
        for _, _, released in self._pending:
            for blob in released:
                self._out.unpin(blob)
        self._pending.clear()
        self._out.store(self.key(self.app), None)

    def _repin(self, before: Head | None, head: Head) -> None:
        """Keep what the new head names; what only the old one did goes when the new one is durable."""
        kept, gone = _artifacts(head), _artifacts(before)
        for blob in kept:
            if blob not in gone:
                self._out.pin(blob)
        self._released += [blob for blob in gone if blob not in kept]

    # ---- durability -------------------------------------------------------------------------------------------------

    def _answer(self, peer: NodeId, message: Message) -> None:
        """Say ``message`` once the ballot behind it is durable."""
        if self._is_coming(peer, message):
            if isinstance(message, Accepted):
                self._out.send(peer, Holding(self.app, message.order))
            return
        if len(self._pending) >= MAX_PENDING:
            self._count("voter_overflow")
            return
        self._pending.append((peer, message, self._released))
        self._released = []
        self._out.store(self.key(self.app), _encoder.encode(self.ballot))

    def _is_coming(self, peer: NodeId, message: Message) -> bool:
        """Is this answer on its way to the disk?  Writes for repeated questions would outrun a slow disk for ever."""
        return any(to == peer and said == message for to, said, _ in self._pending)

    def on_stored(self) -> None:
        """One of our stores is durable, in the order in which they were asked for."""
        if self._pending:
            peer, message, released = self._pending.popleft()
            self._out.send(peer, message)
            for blob in released:
                self._out.unpin(blob)
