"""Seals that cost nothing: anybody who knows a key can make them, and tests know all keys."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from protocol.ids import NodeId, ring_id
from protocol.membership import Roll, authority_name, vouch
from protocol.messages import Contact
from protocol.signing import Seal, Sealer, tagged
from pubsub.heads import Head, Life, Link, Proof, Vote, Warrant
from pubsub.proofs import Proofs


class ToySigner:
    """Holds one key, which is its name."""

    def __init__(self, key: bytes) -> None:
        self.public_key, self.nonce = key, b""

    def sign(self, domain: str, data: bytes) -> bytes:
        return hashlib.sha256(self.public_key + tagged(domain, data)).digest()


class ToyVerifier:
    def verify(self, public_key: bytes, domain: str, data: bytes, signature: bytes) -> bool:
        return ToySigner(public_key).sign(domain, data) == signature


def key(index: int) -> bytes:
    return b"node %d" % index


def node(index: int) -> NodeId:
    return ring_id(0, key(index))


def sealer(owner: bytes) -> Sealer:
    return Sealer(ToySigner(owner), ToyVerifier())


_AUTHORITY = ToySigner(b"authority")
_AUTHORITIES = {authority_name(_AUTHORITY.public_key): _AUTHORITY.public_key}


def voucher(of: NodeId) -> bytes:
    """Anybody is a member who has one."""
    return vouch(_AUTHORITY, of)


def roll(of: NodeId) -> Roll:
    return Roll(voucher(of), ToyVerifier(), lambda: _AUTHORITIES)


_KEYS = {node(index): key(index) for index in range(400)}


def proofs(of: NodeId) -> Proofs:
    """The judgement, and the seal, of any node that tests know."""
    return Proofs(sealer(_KEYS[of]))


def seal(of: NodeId, digest: bytes) -> Seal:
    """A voter's, over a head."""
    return proofs(of).accept(digest)


def digest(head: Head) -> bytes:
    statement = head.statement()
    assert statement is not None
    return statement.digest()


def proven(head: Head, signers: Sequence[NodeId] | None = None, links: tuple[Link, ...] = ()) -> Head:
    """``head`` as if ``signers``, all its voters by default, had accepted it."""
    chosen = head.seats if signers is None else signers
    return msgspec.structs.replace(head, proof=Proof(tuple(seal(one, digest(head)) for one in chosen), links))


def link(head: Head) -> Link:
    """A proven head as it stands in a chain."""
    statement = head.statement()
    assert statement is not None
    return Link(statement, head.proof.seals)


def vote(of: NodeId, app: bytes, epoch: int, candidate: Contact, accepted: Head | None = None) -> Vote:
    held = accepted.statement() if accepted is not None else None
    return Vote(held, proofs(of).promise(app, epoch, Life.of(candidate), held))


def granted(head: Head, accepted: Head | None = None, voters: Sequence[NodeId] | None = None) -> Warrant:
    """By what right the root of ``head`` takes over what all ``voters`` had accepted."""
    chosen = head.seats if voters is None else voters
    votes = tuple(vote(one, head.app, head.epoch, head.root, accepted) for one in chosen)
    return Warrant(proofs(head.root.id).propose(digest(head)), votes)


def continued(head: Head, base: Head) -> Warrant:
    """By what right the root of ``head`` goes on from ``base``, a proven head of its own."""
    return Warrant(proofs(head.root.id).propose(digest(head)), (), link(base))
