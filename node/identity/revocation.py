"""Revocation: a signed, replicated statement that a node is a member no more.

It is a record of the ring (``dht.messages.Record``, kind REVOCATION) whose subject is the node, so it is stored and
spread like all records; this module says what its body holds and who may make it.  The owner may revoke anybody.  An
issuer may revoke anybody but an issuer, so that one compromised issuer cannot put out the others.

Revocation is for good: a set that only grows needs no order among its statements, and a node that comes back comes back
with a new key.  A record must therefore not expire before the endorsement that it takes back would have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from dht.messages import Record
from protocol.errors import CodecError
from protocol.ids import NodeId, ring_id

from .fabric import FabricDocument, is_issuer

KIND = 3
"""``dht.records.Kind.REVOCATION``."""
MAX_REVOKED = 65536
"""Entries of a :class:`RevocationSet`; about 8 MB."""


class Revocation(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Body of the record."""

    at: int
    """Unix time in seconds."""
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """For people."""


def make_revocation(subject: NodeId, signer: bytes, at: int, expires: int, reason: str = "") -> Record:
    """The unsigned record by which the holder of public key ``signer`` revokes ``subject``.  Times are Unix seconds."""
    body = msgspec.msgpack.encode(Revocation(at, reason))
    return Record(kind=KIND, subject=subject, version=at, expires=expires, signer=signer, body=body)


def read_revocation(record: Record) -> Revocation:
    """The body of ``record``.  Raises CodecError."""
    try:
        return msgspec.msgpack.decode(record.body, type=Revocation)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CodecError(f"not a revocation: {error}") from None


def authorise(record: Record, document: FabricDocument) -> bool:
    """May the signer of ``record``, whose signature was verified, revoke its subject?"""
    try:
        read_revocation(record)
    except CodecError:
        return False
    if record.kind != KIND or len(record.signer) != len(document.owner):
        return False
    if record.signer == document.owner:
        return True
    return is_issuer(document, ring_id(document.zone, record.signer)) and not is_issuer(document, record.subject)


class RevocationSet:
    """The nodes that are members no more.  Grows only."""

    def __init__(self) -> None:
        self._nodes: dict[NodeId, None] = {}

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._nodes)

    def add(self, record: Record, document: FabricDocument) -> bool:
        """Take in a verified record; true when its subject was a member until now: then its links are to be closed.

        A full set takes no more.  The ring's table of records is smaller, so only a bug could fill it.
        """
        if record.subject in self._nodes or len(self._nodes) >= MAX_REVOKED or not authorise(record, document):
            return False
        self._nodes[record.subject] = None
        return True
