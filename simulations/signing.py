"""The signing port under the engine: a keyed hash.

It has the interface and the failures of a signature (the wrong key, domain or content does not verify) at a fiftieth of
the cost, and no security whatever: the public key is all that it takes to sign.
"""

from __future__ import annotations

import hashlib

from protocol.ids import NodeId
from protocol.membership import Roll, authority_name, vouch
from protocol.signing import tagged
from protocol.streams import Stream

SIGNATURE_BYTES = 32


class KeyedHashSigner:
    """One key, derived from the run's seed and a name."""

    __slots__ = ("_key", "nonce")

    def __init__(self, seed: int, *name: str | int) -> None:
        self._key = Stream(seed, "key", *name).raw(32)
        self.nonce = b""

    @property
    def public_key(self) -> bytes:
        return self._key

    def sign(self, domain: str, data: bytes) -> bytes:
        return _tag(self._key, domain, data)


class KeyedHashVerifier:
    """Checks anybody's signature."""

    __slots__ = ()

    def verify(self, public_key: bytes, domain: str, data: bytes, signature: bytes) -> bool:
        return len(public_key) == 32 and _tag(public_key, domain, data) == signature


AUTHORITY = KeyedHashSigner(0, "authority")
"""Endorses all nodes of all simulated fabrics."""
AUTHORITIES = {authority_name(AUTHORITY.public_key): AUTHORITY.public_key}


def endorsed(node: NodeId) -> Roll:
    """What ``node``, a member, knows of membership."""
    return Roll(vouch(AUTHORITY, node), KeyedHashVerifier(), lambda: AUTHORITIES)


def _tag(public: bytes, domain: str, data: bytes) -> bytes:
    return hashlib.blake2b(tagged(domain, data), key=public, digest_size=SIGNATURE_BYTES).digest()
