"""The round head, and what proves that it was committed.

A head is one statement: application, epoch, round, revision, root, voters, and digests of all the rest.  Voters seal
that statement, and the statement can be recomputed from a head with or without its values: what was left out stands
there as a digest, so that an outline in a record is as good a witness as the head itself.

A *proof* is made of seals.  A head counts as committed when a majority of its own voters and a majority of the voters
before it have sealed it.  Who the voters before it are is proven in the same way by the head that seated them, and so
on down to the voters in the signed descriptor: that is the chain of *links*.  Newcomers cannot vouch for themselves,
since the set before them has to agree.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec

from protocol.messages import EMPTY, Contact, Digest, Id, Natural, Value
from protocol.signing import Seal

MAX_MEMBERS = 16384
"""Contributors that one partial may name."""

MAX_METRICS = 64
MAX_NAME = 64
"""Characters in the name of a metric."""

MAX_VOTERS = 9
MAX_LINKS = 8
"""Sets of voters in a proof between those of the descriptor and the present ones.  A link falls out as soon as a
majority of the set before it has sealed a later head, so eight of them stand for sixteen replaced voters and more."""

MAX_SEALS = 2 * MAX_VOTERS
DIGEST_BYTES = 32

Members = Annotated[tuple[Id, ...], msgspec.Meta(max_length=MAX_MEMBERS)]
Voters = Annotated[tuple[Contact, ...], msgspec.Meta(max_length=MAX_VOTERS)]
VoterIds = Annotated[tuple[Id, ...], msgspec.Meta(max_length=MAX_VOTERS)]
Seals = Annotated[tuple[Seal, ...], msgspec.Meta(max_length=MAX_SEALS)]
Metrics = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=MAX_NAME)], float], msgspec.Meta(max_length=MAX_METRICS)
]
Order = tuple[Natural, Natural, Natural]
"""(epoch, round, revision): heads of an application are ordered by it."""

_encode = msgspec.msgpack.Encoder().encode


def hash_of(*parts: Any) -> bytes:
    """32 bytes that name these very ``parts``."""
    return hashlib.sha256(_encode(parts)).digest()


class Life(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One process of one node: whoever restarts is another life, and remembers nothing of this one."""

    node: Id
    incarnation: Natural

    @classmethod
    def of(cls, contact: Contact) -> Life:
        return cls(contact.id, contact.incarnation)


class Statement(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What voters seal: a head reduced to who proposed it, who guards it and one digest."""

    app: Id
    epoch: Natural
    round: Natural
    revision: Natural
    root: Life
    voters: VoterIds
    contents: Digest
    """What the round decided: it stays when a head is adopted by another root, or gets other voters."""
    contacts: Digest
    """Where root and voters can be reached."""

    @property
    def order(self) -> tuple[int, int, int]:
        return self.epoch, self.round, self.revision

    def digest(self) -> bytes:
        """32 bytes: the head's name, and what is really signed."""
        return hash_of(self)


class Link(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A committed head without its contents."""

    statement: Statement
    seals: Seals


class Proof(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Why a head counts as committed; with ``links`` alone, on which voters a proposal stands."""

    seals: Seals = ()
    links: Annotated[tuple[Link, ...], msgspec.Meta(max_length=MAX_LINKS)] = ()
    """Oldest first; each seats the voters who have to agree to the next."""


UNPROVEN = Proof()


class Head(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The register of an application: what its last round decided and who guards it (DESIGN section 7)."""

    app: Id
    epoch: Natural
    """The fencing number of the root that proposed it.  Heads are ordered by (epoch, round, revision)."""
    round: Natural
    root: Contact
    voters: Voters
    model: Value
    state: Value = EMPTY
    """Optimiser state of the server, for strategies that have one."""
    contributors: Members = ()
    """Sorted ids of those whose work is in ``model``: what a replay needs."""
    metrics: Metrics = {}
    """Sums over the contributors, each beside its weight ``NAME.n``."""
    weight: float = 0.0
    finished: bool = False
    report: Annotated[bytes, msgspec.Meta(max_length=8192)] = b""
    """What the coordinator must not forget between rounds (best metric, patience); opaque here."""
    revision: Natural = 0
    """Grows when the voters change while a round is under way: same round, same contents, other guards."""
    left_out: Annotated[bytes, msgspec.Meta(max_length=2 * DIGEST_BYTES)] = b""
    """Digests in place of what this copy does not carry: nothing, the details, or the model and the details."""
    proof: Proof = UNPROVEN
    """Not part of what is sealed."""

    @property
    def order(self) -> tuple[int, int, int]:
        return self.epoch, self.round, self.revision

    @property
    def whole(self) -> bool:
        """Does this copy carry all its values?"""
        return not self.left_out

    @property
    def seats(self) -> tuple[bytes, ...]:
        """Ids of the voters."""
        return tuple(voter.id for voter in self.voters)

    def outline(self) -> Head:
        """Without the values: enough to find the voters, to know how far the application is, and to prove it."""
        model, details = self._digests()
        return self._without(model + details, model=EMPTY)

    def lean(self) -> Head:
        """With the model only: what travels with a wave."""
        return self._without(self._digests()[1], model=self.model)

    def _without(self, left_out: bytes, model: Value) -> Head:
        if self.left_out and len(self.left_out) >= len(left_out):
            return self
        return msgspec.structs.replace(
            self, model=model, state=EMPTY, contributors=(), metrics={}, report=b"", left_out=left_out
        )

    def _digests(self) -> tuple[bytes, bytes]:
        """(digest of the model, digest of the details); empty bytes when this copy contradicts itself."""
        model, left_out = b"", self.left_out
        details = hash_of(self.state, self.contributors, self.metrics, self.report)
        if left_out:
            bare = self.state == EMPTY and not (self.contributors or self.metrics or self.report)
            details = left_out[-DIGEST_BYTES:] if bare else b""
        if len(left_out) == 2 * DIGEST_BYTES:
            model = left_out[:DIGEST_BYTES] if self.model == EMPTY else b""
        elif len(left_out) in (0, DIGEST_BYTES):
            model = hash_of(self.model)
        return model, details

    def statement(self) -> Statement | None:
        """What its voters seal; None for a copy that leaves something out and carries it all the same."""
        model, details = self._digests()
        if not model or not details:
            return None
        contents, contacts = hash_of(self.weight, self.finished, model, details), hash_of(self.root, self.voters)
        root = Life.of(self.root)
        return Statement(self.app, self.epoch, self.round, self.revision, root, self.seats, contents, contacts)


class Vote(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A promise as others may show it: this voter follows that candidate in that epoch."""

    accepted: Statement | None
    """Of the newest head that the voter had accepted by then."""
    seal: Seal


class Warrant(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """By what right a root proposes a head: kept beside the accepted head, and shown with it."""

    seal: Seal
    """The root's, over the digest of the head: nobody proposes in its name."""
    grant: Annotated[tuple[Vote, ...], msgspec.Meta(max_length=MAX_VOTERS)] = ()
    """For the first head of an epoch: a majority promised it to this life of the root."""
    base: Link | None = None
    """For later ones: the head before it, by the same life in the same epoch."""


def promise(app: bytes, epoch: int, candidate: Life, accepted: Statement | None) -> bytes:
    """What a voter seals when it promises."""
    return hash_of(app, epoch, candidate, accepted)
