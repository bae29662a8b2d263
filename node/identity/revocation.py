"""Revocation: a signed, replicated statement that a node is a member no more.

It is a record of the ring (``dht.messages.Record``, kind REVOCATION) whose subject is the node, so it is stored and
spread like all records; this module says what its body holds and who may make it.  The owner may revoke anybody.  An
issuer may revoke anybody but an issuer, so that one compromised issuer cannot put out the others.

Revocation is for good: a set that only grows needs no order among its statements, and a node that comes back comes back
with a new key.  But records expire (``RingConfig.record_lifetime``) and endorsements in practice do not, so issuers say
again what is about to expire, whoever said it first (:meth:`RevocationSet.expiring`); what only the owner may say ends
up in the fabric's document, which no longer lists that issuer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from dht.messages import Record
from dht.records import Kind, sign_record
from protocol.errors import CodecError
from protocol.ids import NodeId, ring_id
from protocol.signing import Signer
from protocol.wire import UNREADABLE

from .fabric import FabricDocument, is_issuer

LIFE = 390 * 86400
"""Seconds.  A little less than the ring lets any record live, so that a slow clock does not refuse it."""
REFRESH = 100 * 86400
"""Seconds before its end at which a revocation is repeated: an issuer may be off for a season."""
MAX_REASON = 200
"""Characters."""
MAX_REVOKED = 65536
"""Entries of a :class:`RevocationSet`; about 8 MB."""


class Revocation(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Body of the record."""

    at: int
    """Unix time in seconds."""
    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON)] = ""
    """For people."""


def revoke(signer: Signer, subject: NodeId, now: int, reason: str = "") -> Record:
    """The record by which the holder of ``signer`` revokes ``subject``.  ``now`` is Unix seconds."""
    body = msgspec.msgpack.encode(Revocation(now, reason[:MAX_REASON]))
    return sign_record(signer, Kind.REVOCATION, subject, now, now + LIFE, body)


def read_revocation(record: Record) -> Revocation:
    """The body of ``record``.  Raises CodecError."""
    try:
        return msgspec.msgpack.decode(record.body, type=Revocation)
    except UNREADABLE as error:
        raise CodecError(f"not a revocation: {error}") from None


def authorise(record: Record, document: FabricDocument) -> bool:
    """May the signer of ``record``, whose signature was verified, revoke its subject?"""
    try:
        read_revocation(record)
    except CodecError:
        return False
    if record.kind != Kind.REVOCATION or len(record.signer) != len(document.owner):
        return False
    if record.signer == document.owner:
        return True
    return is_issuer(document, ring_id(document.zone, record.signer, record.nonce)) and not is_issuer(
        document, record.subject
    )


class RevocationSet:
    """The nodes that are members no more.  Grows only."""

    def __init__(self) -> None:
        self._expires: dict[NodeId, int] = {}
        """When the last of the records about a node expires, Unix seconds; the node stays revoked here all the same."""

    def __contains__(self, node: object) -> bool:
        return node in self._expires

    def __len__(self) -> int:
        return len(self._expires)

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._expires)

    def add(self, record: Record, document: FabricDocument) -> bool:
        """Take in a verified record; true when its subject was a member until now: then its links are to be closed.

        A full set takes no more.  The ring's table of records is smaller, so only a bug could fill it.
        """
        known = self._expires.get(record.subject)
        if not authorise(record, document) or (known is None and len(self._expires) >= MAX_REVOKED):
            return False
        self._expires[record.subject] = max(known or 0, record.expires)
        return known is None

    def expiring(self, now: int) -> tuple[NodeId, ...]:
        """Those whose revocation an issuer has to repeat at ``now`` (Unix seconds), or newcomers will not know it."""
        return tuple(node for node, expires in self._expires.items() if expires - now < REFRESH)
