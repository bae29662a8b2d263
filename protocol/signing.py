"""The signing port: Ed25519 in the daemon, a cheap keyed hash in the engine.

A signature covers a domain tag as well as the bytes, so that what was signed for one purpose is worthless for another.
"""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from .ids import NodeId, ring_id, zone_of

MAX_NONCE = 16


class Signer(Protocol):
    """Holds one private key."""

    @property
    def public_key(self) -> bytes: ...

    @property
    def nonce(self) -> bytes:
        """What the issuer added when it endorsed the key: with it the key is an id.  Empty for an owner's key."""
        ...

    def sign(self, domain: str, data: bytes) -> bytes: ...


class Verifier(Protocol):
    """Checks anybody's signature; total, never raises."""

    def verify(self, public_key: bytes, domain: str, data: bytes, signature: bytes) -> bool: ...


def tagged(domain: str, data: bytes) -> bytes:
    """The bytes that are really signed."""
    return b"mycelia:" + domain.encode() + b"\0" + data


class Seal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A node's signature, with all that it takes to check it against nothing but the node's id.

    A ring id is a hash of key and nonce, so the two prove by themselves whose they are: to find others that give a
    known id is a second preimage of 112 bits.  What a seal does not prove is membership: for an id that is known from
    a signed descriptor, a committed head or an authenticated link that question is settled already.
    """

    key: Annotated[bytes, msgspec.Meta(max_length=64)]
    nonce: Annotated[bytes, msgspec.Meta(max_length=MAX_NONCE)]
    signature: Annotated[bytes, msgspec.Meta(max_length=64)]


class Sealer:
    """One node's seal, and its judgement of others': the port of the machines that need both."""

    __slots__ = ("_signer", "_verifier")

    def __init__(self, signer: Signer, verifier: Verifier) -> None:
        self._signer, self._verifier = signer, verifier

    def seal(self, domain: str, data: bytes) -> Seal:
        """``data`` sealed for one purpose, ``domain``."""
        return Seal(self._signer.public_key, self._signer.nonce, self._signer.sign(domain, data))

    def check(self, node: NodeId, seal: Seal, domain: str, data: bytes) -> bool:
        """Is ``seal`` that of ``node`` over ``data``?  Total: what is malformed is simply false.  The id is compared
        first, since it costs a fiftieth of checking a signature."""
        if ring_id(zone_of(node), seal.key, seal.nonce) != node:
            return False
        return self._verifier.verify(seal.key, domain, data, seal.signature)
