"""Identifiers and their geometry.

Every position on the fabric is a 128-bit id, kept as 16 big-endian bytes so that it can travel unchanged,
sort like the integer that it is, and be shared by reference.  The first 16 bits name a *zone*; the remaining
112 bits, the *suffix*, are uniform because they come from a hash.  Inside a zone the suffix is read as 28
digits of base 2^4, which is what the Pastry table indexes (Rowstron & Druschel 2001, section 2.1).

    ring id        = zone ‖ SHA-256(public key ‖ nonce ‖ index)[:14]
    application id = zone ‖ SHA-256(name, owner key, salt)[:14]

The nonce is the issuer's, drawn when it endorses the key: a node that makes keys until one lands where it wants to be
would have to be endorsed anew for each.  So keys and roots spread evenly and nobody picks whom to sit beside.
"""

from __future__ import annotations

import hashlib

NodeId = bytes
"""16 bytes: a ring position, and the name of the daemon that holds it."""

AppId = bytes
"""16 bytes: an application, which is a point on the same ring."""

BlobId = bytes
"""32 bytes: SHA-256 of an artifact's content."""

ID_BYTES = 16
ZONE_BYTES = 2
SUFFIX_BYTES = ID_BYTES - ZONE_BYTES
BLOB_BYTES = 32
DIGIT_BITS = 4
BASE = 1 << DIGIT_BITS
DIGITS = SUFFIX_BYTES * 8 // DIGIT_BITS
_SPACE = 1 << (SUFFIX_BYTES * 8)
_MASK = _SPACE - 1


def ring_id(zone: int, public_key: bytes, nonce: bytes = b"", index: int = 0) -> NodeId:
    """The position that the holder of ``public_key``, endorsed with ``nonce``, takes in ``zone`` with its ``index``-th
    virtual node."""
    digest = hashlib.sha256(public_key + nonce + index.to_bytes(4, "big")).digest()
    return zone.to_bytes(ZONE_BYTES, "big") + digest[:SUFFIX_BYTES]


def app_id(zone: int, name: str, owner_key: bytes, salt: bytes) -> AppId:
    """The application's point on the ring.  Fields are length-prefixed so that no two triples collide."""
    hasher = hashlib.sha256()
    for field in (name.encode(), owner_key, salt):
        hasher.update(len(field).to_bytes(4, "big"))
        hasher.update(field)
    return zone.to_bytes(ZONE_BYTES, "big") + hasher.digest()[:SUFFIX_BYTES]


def blob_id(content: bytes | memoryview) -> BlobId:
    """Name of an artifact: SHA-256 of its bytes."""
    return hashlib.sha256(content).digest()


def zone_of(identifier: bytes) -> int:
    return int.from_bytes(identifier[:ZONE_BYTES], "big")


def suffix(identifier: bytes) -> int:
    """The 112-bit suffix as an integer in ``[0, 2^112)``."""
    return int.from_bytes(identifier, "big") & _MASK


def digit(identifier: bytes, row: int) -> int:
    """The ``row``-th base-16 digit of the suffix, counted from the most significant."""
    byte = identifier[ZONE_BYTES + (row >> 1)]
    return byte & 0xF if row & 1 else byte >> 4


def shared_prefix(a: bytes, b: bytes) -> int:
    """Number of leading suffix digits that ``a`` and ``b`` share, 0 to 28."""
    difference = (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")) & _MASK
    return DIGITS - (difference.bit_length() + DIGIT_BITS - 1) // DIGIT_BITS


def distance(a: bytes, b: bytes) -> int:
    """Distance round the ring of suffixes, the shorter way: 0 to 2^111."""
    forward = (int.from_bytes(b, "big") - int.from_bytes(a, "big")) & _MASK
    return min(forward, _SPACE - forward)


def clockwise(a: bytes, b: bytes) -> int:
    """Distance from ``a`` to ``b`` in the direction of growing suffixes."""
    return (int.from_bytes(b, "big") - int.from_bytes(a, "big")) & _MASK


def closeness(key: bytes, candidate: bytes) -> tuple[int, bytes]:
    """Sort key: smaller is closer to ``key``; a tie of distance goes to the smaller id, so all agree."""
    return distance(key, candidate), candidate


def short(identifier: bytes) -> str:
    """Eight hex characters of the suffix, for people."""
    return identifier[ZONE_BYTES : ZONE_BYTES + 4].hex()
