"""Who really contributed: each contributor seals what it hands in, and its seal rides up beside its id.

A statement names the application, the wave, the parent that it is made to, and a digest of what is handed in.  Every
parent checks, before it counts a partial, that each contributor named in it has made a statement about this very wave,
and that a child's own statement was made to it.  So

-   nobody can name another as a contributor: a partial with a claim that does not hold is dropped, and whoever sent it
    is blamed, since it could have checked as well (what an honest node passes on has passed the same check);
-   when two children name the same contributor, the statements tell who lied: if they differ, the contributor made
    two where it may make one, and it alone is blamed; if they are the same one, somebody repeated it, nobody can say
    who, and nobody is blamed.

What a claim does not prove is membership of the fabric: a liar can invent keys, and contributors with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from protocol.ids import AppId, NodeId
from protocol.signing import Sealer

from .messages import Claim, Partial, WaveId

DOMAIN = "hand-in"

_encode = msgspec.msgpack.Encoder().encode


def digest_of(partial: Partial) -> bytes:
    """What a statement says of one contributor's own partial."""
    value = partial.value.blob or hashlib.sha256(partial.value.inline).digest()
    return hashlib.sha256(_encode((partial.weight, value, sorted(partial.metrics.items())))).digest()


def statement(app: AppId, wave: WaveId, digest: bytes, parent: NodeId) -> bytes:
    """The bytes that are sealed."""
    return _encode((app, wave, digest, parent))


def claim(sealer: Sealer, app: AppId, wave: WaveId, own: Partial, parent: NodeId) -> Claim:
    """This node's statement that it hands ``own`` to ``parent`` in ``wave``; it makes one per wave."""
    digest = digest_of(own)
    return Claim(digest, parent, sealer.seal(DOMAIN, statement(app, wave, digest, parent)))


def proven(
    sealer: Sealer, app: AppId, wave: WaveId, partial: Partial, claims: Sequence[Claim], sender: NodeId, me: NodeId
) -> bool:
    """Has everybody whom ``sender`` names made a statement about ``wave``?  Total.  About 0.2 ms per contributor."""
    members = partial.contributors
    if len(claims) != len(members):
        return False
    by_member = dict(zip(members, claims, strict=True))
    if sender in by_member and by_member[sender].parent != me:
        return False
    if members == (sender,) and by_member[sender].digest != digest_of(partial):
        return False
    return all(
        sealer.check(member, one.seal, DOMAIN, statement(app, wave, one.digest, one.parent))
        for member, one in by_member.items()
    )


def perjurers(before: Iterable[tuple[NodeId, Claim]], now: Iterable[tuple[NodeId, Claim]]) -> tuple[NodeId, ...]:
    """Those who made two different statements about one wave, all of them proven."""
    made = dict(before)
    return tuple(
        member
        for member, one in now
        if member in made and (made[member].digest, made[member].parent) != (one.digest, one.parent)
    )
