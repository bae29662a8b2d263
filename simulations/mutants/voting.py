"""Bugs of the round head: voters that forget, root candidates that do not ask."""
# ruff: noqa: SLF001 - a planted bug has the body of the method that it replaces

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager

import msgspec

from protocol.ids import AppId, NodeId
from protocol.messages import Contact, Message
from protocol.signing import Seal
from pubsub import proofs as proofs_module
from pubsub import proposer as proposer_module
from pubsub import throne as throne_module
from pubsub.heads import Head, Vote, Warrant
from pubsub.lease import Lease
from pubsub.messages import Accepted, Prepare, Promise
from pubsub.ports import Overlay
from pubsub.proofs import Proofs
from pubsub.proposer import Phase, Proposer
from pubsub.tally import Report
from pubsub.voter import Ballot, Voter

from .planting import patched, together


def no_epoch_fence() -> AbstractContextManager[None]:
    """A voter accepts a head whatever epoch it has promised since."""

    def superseded(self: Voter, head: Head) -> bool:
        return self.ballot.accepted is not None and head.order < self.ballot.accepted.order

    return patched(Voter, "_superseded", superseded)


def accept_older_head() -> AbstractContextManager[None]:
    """A voter lets a late ``Accept`` replace the newer head that it holds."""
    original = Voter._superseded

    def superseded(self: Voter, head: Head) -> bool:
        ballot = self.ballot
        held, self.ballot = ballot, msgspec.structs.replace(ballot, accepted=None)
        try:
            return original(self, head)
        finally:
            self.ballot = held

    def contradicts(self: Voter, head: Head) -> bool:
        return False

    return together(patched(Voter, "_superseded", superseded), patched(Voter, "_contradicts", contradicts))


def accept_from_anyone() -> AbstractContextManager[None]:
    """A voter accepts from a root that is not the one to whom it promised the epoch."""

    def superseded(self: Voter, head: Head) -> bool:
        ballot = self.ballot
        older = ballot.accepted is not None and head.order < ballot.accepted.order
        return older or head.epoch < ballot.promised

    return patched(Voter, "_superseded", superseded)


def lost_promise() -> AbstractContextManager[None]:
    """A voter that restarts does not look at what its disk holds."""

    def restore(self: Voter, value: bytes) -> None:
        self.ballot = Ballot()

    return patched(Voter, "restore", restore)


def lost_candidate() -> AbstractContextManager[None]:
    """A voter promises an epoch to everyone who asks for it."""

    def on_prepare(self: Voter, peer: NodeId, message: Prepare, now: int) -> None:
        if message.epoch < self.ballot.promised:
            self._refuse(peer)
            return
        self.ballot = msgspec.structs.replace(self.ballot, promised=message.epoch, candidate=message.candidate)
        self._promise(peer)

    return patched(Voter, "on_prepare", on_prepare)


def _said_at_once(kind: type[Message]) -> AbstractContextManager[None]:
    original = Voter._answer

    def answer(self: Voter, peer: NodeId, message: Message) -> None:
        if not isinstance(message, kind):
            original(self, peer, message)
            return
        self._out.send(peer, message)
        self._out.store(self.key(self.app), msgspec.msgpack.encode(self.ballot))

    return patched(Voter, "_answer", answer)


def promise_taken_back() -> AbstractContextManager[None]:
    """A voter follows whoever asked last, unless it hears a root."""

    def bars(self: Lease, peer: NodeId, now: int) -> bool:
        return self.other(peer, now) and self._won

    return patched(Lease, "bars", bars)


def root_forgotten_at_restart() -> AbstractContextManager[None]:
    """A voter that restarts has heard nobody yet, and promises to the first who asks."""

    def recall(self: Lease, holder: Contact) -> None:
        self._recalled = False

    return patched(Lease, "recall", recall)


def promise_before_stored() -> AbstractContextManager[None]:
    """A voter promises before its disk knows."""
    return _said_at_once(Promise)


def accepted_before_stored() -> AbstractContextManager[None]:
    """A voter says that it accepted before its disk knows."""
    return _said_at_once(Accepted)


def no_majority() -> AbstractContextManager[None]:
    """Two answers are enough, however many voters there are."""

    def some(voters: Collection[NodeId], answered: Collection[NodeId]) -> bool:
        return sum(voter in answered for voter in voters) >= min(2, len(voters))

    return together(patched(proposer_module, "majority", some), patched(proofs_module, "majority", some))


def root_without_prepare() -> AbstractContextManager[None]:
    """A candidate does not ask anybody for a promise."""
    original = Proposer._ask

    def ask(self: Proposer, now: int) -> None:
        original(self, now)
        if self.phase is Phase.PREPARING and self._proposed is None:
            self.phase = Phase.ADOPTING
            self._take_over(self._known, now)

    def warranted(self: Proofs, genesis: Head, head: Head, warrant: Warrant) -> bool:
        return True

    return together(patched(Proposer, "_ask", ask), patched(Proofs, "warranted", warranted))


def adopt_own_head() -> AbstractContextManager[None]:
    """A new root goes on from the head that it knew, not from the newest one that the promises showed."""
    original = Proposer._adopt

    def adopt(self: Proposer, now: int) -> None:
        if self._known.whole:
            self._best = Report(self._known, self._known.statement(), Vote(None, Seal(b"", b"", b"")))
        original(self, now)

    def warranted(self: Proofs, genesis: Head, head: Head, warrant: Warrant) -> bool:
        return True

    return together(patched(Proposer, "_adopt", adopt), patched(Proofs, "warranted", warranted))


def two_voters_at_once() -> AbstractContextManager[None]:
    """A dead voter is replaced by another node in one step."""

    def next_voters(
        app: AppId, voters: tuple[Contact, ...], size: int, me: NodeId, ring: Overlay
    ) -> tuple[Contact, ...]:
        seated = [voter.id for voter in voters]
        dead = [voter for voter in voters if voter.id != me and not ring.alive(voter.id)]
        fresh = [contact for contact in ring.closest(app, 16) if contact.id not in seated]
        if not dead or not fresh:
            return voters
        return (*(voter for voter in voters if voter is not dead[0]), fresh[0])

    def any_step(before: tuple[NodeId, ...], after: tuple[NodeId, ...]) -> bool:
        return True

    return together(patched(throne_module, "next_voters", next_voters), patched(proofs_module, "one_step", any_step))
