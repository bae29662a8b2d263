"""The signing port: Ed25519 in the daemon, a cheap keyed hash in the engine.

A signature covers a domain tag as well as the bytes, so that what was signed for one purpose is worthless for another.
"""

from __future__ import annotations

from typing import Protocol


class Signer(Protocol):
    """Holds one private key."""

    @property
    def public_key(self) -> bytes: ...

    def sign(self, domain: str, data: bytes) -> bytes: ...


class Verifier(Protocol):
    """Checks anybody's signature; total, never raises."""

    def verify(self, public_key: bytes, domain: str, data: bytes, signature: bytes) -> bool: ...


def tagged(domain: str, data: bytes) -> bytes:
    """The bytes that are really signed."""
    return b"mycelia:" + domain.encode() + b"\0" + data
