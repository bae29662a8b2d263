"""Signed records: small statements that every node of the zone holds.

A record is a last-writer-wins register.  Of two with the same key the larger ``(version, signature)`` stays, and what a
bound forces out is decided by an order on the records themselves (those that expire first go first), so replicas that
saw the same records hold the same table, in whatever order they came.  From the second at which it expires, by the wall
clock, a record is taken by nobody, and within seconds it is swept from where it was held.

*Keys.*  ``APP`` and ``VOTERS`` are keyed by (kind, subject): there is one present descriptor and one newest voter set
per application, whoever signed it, and the layer above knows who may (``authorise``).  ``STOP`` and ``REVOCATION`` are
keyed by the signer too: they are final, and what one issuer said must not be displaced by another's larger version.

*Digest.*  The table is summed up in 8 bytes: the exclusive or of a hash of each record.  Equal tables have equal
digests, a put or a removal changes it in constant time, and pings carry it, so that replicas notice that they differ.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from protocol.errors import Code
from protocol.ids import NodeId, ring_id, zone_of
from protocol.signing import Signer, Verifier

from .config import RingConfig
from .messages import MAX_RECORDS, Entry, Record

DOMAIN = "record"
_HASH_BYTES = 8
_KEY_BYTES = 6
_encoder = msgspec.msgpack.Encoder()


class Kind(enum.IntEnum):
    """What a record says.  Numbers travel; never reuse one."""

    APP = 1
    """The descriptor of an application; the subject is its id."""
    STOP = 2
    """The application is over."""
    REVOCATION = 3
    """The subject, a node, has lost its membership."""
    VOTERS = 4
    """The newest head of an application and who guards it: where to look, not what to believe."""


_KINDS = {int(kind) for kind in Kind}
_BY_SIGNER = {int(Kind.STOP), int(Kind.REVOCATION)}


def sign_record(signer: Signer, kind: Kind, subject: bytes, version: int, expires: int, body: bytes) -> Record:
    """A record by the holder of ``signer``; ``expires`` in Unix seconds."""
    unsigned = Record(int(kind), subject, version, expires, signer.public_key, body, nonce=signer.nonce)
    return msgspec.structs.replace(unsigned, signature=signer.sign(DOMAIN, _encoder.encode(unsigned)))


def said_by(node: NodeId, record: Record) -> bool:
    """Is ``node`` the one that signed ``record``, whose signature was verified?"""
    return ring_id(zone_of(node), record.signer, record.nonce) == node


def verify(record: Record, verifier: Verifier) -> bool:
    """Did ``record.signer`` sign this very record?"""
    unsigned = msgspec.structs.replace(record, signature=b"")
    return verifier.verify(record.signer, DOMAIN, _encoder.encode(unsigned), record.signature)


def key_of(record: Record) -> bytes:
    """8 bytes that name the register that ``record`` writes to."""
    hasher = hashlib.blake2b(record.kind.to_bytes(8, "big") + record.subject, digest_size=_HASH_BYTES)
    if record.kind in _BY_SIGNER:
        hasher.update(record.signer)
    return hasher.digest()


def rank(record: Record) -> tuple[int, bytes]:
    """Order of the writes to one register."""
    return record.version, record.signature


class _Held(NamedTuple):
    record: Record
    mark: int
    """Hash of this very record, 64 bits."""


class RecordTable:
    """All records of the zone, within bounds."""

    __slots__ = ("_bytes", "_config", "_digest", "_held", "_next_expiry", "_per_signer", "_verifier")

    def __init__(self, config: RingConfig, verifier: Verifier) -> None:
        self._config = config
        self._verifier = verifier
        self._held: dict[bytes, _Held] = {}
        self._per_signer: dict[bytes, int] = {}
        self._bytes = 0
        self._digest = 0
        self._next_expiry = 0

    def digest(self) -> bytes:
        """8 bytes that are equal for equal tables."""
        return self._digest.to_bytes(_HASH_BYTES, "big")

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Record]:
        return (held.record for held in self._held.values())

    def get(self, kind: Kind, subject: bytes) -> Record | None:
        """The present record of ``kind`` about ``subject``; of several signers' the one of the highest rank."""
        found = [r for r in self if r.kind == kind and r.subject == subject] if kind in _BY_SIGNER else []
        if kind not in _BY_SIGNER:
            held = self._held.get(key_of(Record(int(kind), subject, 0, 0, b"", b"")))
            return None if held is None else held.record
        return max(found, key=rank, default=None)

    def of_kind(self, kind: Kind) -> list[Record]:
        return [record for record in self if record.kind == kind]

    # ---- writing ----

    def put(self, record: Record, wall: int, authorise: Callable[[Record], bool]) -> Code | bool:
        """Take ``record`` if it is news, genuine and allowed.  ``wall``: Unix seconds.

        True when the table changed, False when nothing was to be done, a Code when the sender is to blame.
        """
        if record.kind not in _KINDS or record.expires <= wall:
            return False
        key = key_of(record)
        held = self._held.get(key)
        if held is not None and rank(record) <= rank(held.record):
            return False
        if record.expires > wall + self._config.record_lifetime:
            return Code.UNAUTHORISED
        if not verify(record, self._verifier):
            return Code.BAD_SIGNATURE
        if not authorise(record):
            return Code.UNAUTHORISED
        self._drop(key)
        self._insert(key, record)
        self._trim(record.signer)
        held = self._held.get(key)
        return held is not None and held.record is record

    def _insert(self, key: bytes, record: Record) -> None:
        mark = hashlib.blake2b(key + record.version.to_bytes(8, "big") + record.signature, digest_size=_HASH_BYTES)
        held = _Held(record, int.from_bytes(mark.digest(), "big"))
        self._held[key] = held
        self._per_signer[record.signer] = self._per_signer.get(record.signer, 0) + 1
        self._bytes += len(record.body)
        self._digest ^= held.mark
        if not self._next_expiry or record.expires < self._next_expiry:
            self._next_expiry = record.expires

    def _drop(self, key: bytes) -> None:
        held = self._held.pop(key, None)
        if held is None:
            return
        signer = held.record.signer
        self._per_signer[signer] -= 1
        if not self._per_signer[signer]:
            del self._per_signer[signer]
        self._bytes -= len(held.record.body)
        self._digest ^= held.mark

    def _trim(self, signer: bytes) -> None:
        config = self._config
        while self._per_signer.get(signer, 0) > config.records_per_signer:
            self._drop(min((key for key, held in self._held.items() if held.record.signer == signer), key=self._tenure))
        while len(self._held) > MAX_RECORDS or self._bytes > config.record_bytes:
            self._drop(min(self._held, key=self._tenure))

    def _tenure(self, key: bytes) -> tuple[int, bytes]:
        """Who goes first when there is no room: a function of the records alone."""
        return self._held[key].record.expires, key

    def expire(self, wall: int) -> None:
        """Drop what is over at ``wall``, Unix seconds."""
        if not self._next_expiry or wall < self._next_expiry:
            return
        for key in [key for key, held in self._held.items() if held.record.expires <= wall]:
            self._drop(key)
        self._next_expiry = min((held.record.expires for held in self._held.values()), default=0)

    # ---- reconciliation ----

    def entries(self) -> tuple[Entry, ...]:
        """What is held, for a peer to compare: 6 bytes of the key, 2 of the record itself, and the version.

        The last 2 tell apart two writes of one version, which the version alone would not.
        """
        return tuple(self._entry(key, held) for key, held in self._held.items())

    def _entry(self, key: bytes, held: _Held) -> Entry:
        return key[:_KEY_BYTES] + (held.mark & 0xFFFF).to_bytes(2, "big"), held.record.version

    def compare(self, entries: Iterable[Entry]) -> tuple[list[Record], bool]:
        """(what a peer with ``entries`` lacks or holds older, whether it holds something that we lack)."""
        theirs = {name[:_KEY_BYTES]: (name[_KEY_BYTES:], version) for name, version in entries}
        ours_newer: list[Record] = []
        theirs_newer = False
        for key, held in self._held.items():
            name, version = self._entry(key, held)
            other = theirs.pop(name[:_KEY_BYTES], None)
            if other is None or other[1] < version:
                ours_newer.append(held.record)
            elif other != (name[_KEY_BYTES:], version):
                theirs_newer = True
                if other[1] == version:
                    ours_newer.append(held.record)
        # Descriptors first: who may stop an application can only be judged by those who hold its descriptor.
        ours_newer.sort(key=lambda record: record.kind)
        return ours_newer, theirs_newer or bool(theirs)

    def check(self) -> None:
        """Raise AssertionError when a bound or the digest is wrong."""
        digest = 0
        for key, held in self._held.items():
            assert key == key_of(held.record)
            digest ^= held.mark
        assert digest == self._digest
        assert self._bytes == sum(len(record.body) for record in self) <= self._config.record_bytes
        assert len(self._held) <= MAX_RECORDS
        assert all(0 < n <= self._config.records_per_signer for n in self._per_signer.values())
