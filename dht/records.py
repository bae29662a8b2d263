"""Signed records: small statements that every node of the zone holds.

A record is a last-writer-wins register.  Of two with the same key the larger ``(version, signature)`` stays, and what a
bound forces out is decided by an order on the records themselves (those that expire first go first), so replicas that
saw the same records hold the same table, in whatever order they came.  From the second at which it expires, by the wall
clock, a record is taken by nobody, and within seconds it is swept from where it was held.

*Keys.*  ``APP`` and ``VOTERS`` are keyed by (kind, subject): there is one present descriptor and one newest voter set
per application, whoever signed it, and the layer above knows who may (``authorise``).  ``STOP`` and ``REVOCATION`` are
keyed by the signer too: they are final, and what one issuer said must not be displaced by another's larger version.

*Bounds.*  Each class of records has room of its own, in number and bytes, in total and for each signer, so statements
about applications never displace one about membership.  In most classes the oldest make room.  Revocations do not: a
member that was put out must not come back because somebody said much afterwards.  When a signer has used up its share
of that class, what it says further is not taken.

*Blame.*  Whoever passes a record on can check its signature, and nothing else: neither this node's clock, nor whom its
operator trusts, nor what its version of the program makes of the body.  So only a bad signature costs the sender.

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
from .messages import MAX_DOCUMENTS, MAX_RECORDS, MAX_REVOCATIONS, MAX_STATEMENTS, Entry, Record

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
    DOCUMENT = 5
    """The fabric's document; the subject is the fabric."""


_KINDS = {int(kind) for kind in Kind}
_BY_SIGNER = {int(Kind.STOP), int(Kind.REVOCATION)}


class _Class:
    """Kinds that share one room."""

    __slots__ = ("bytes", "count", "final", "limit", "of")

    def __init__(self, limit: int, *, final: bool = False) -> None:
        self.limit = limit
        """Records."""
        self.final = final
        """What is held stays until it expires; what is beyond a bound is not taken."""
        self.count = 0
        self.bytes = 0
        self.of: dict[bytes, tuple[int, int]] = {}
        """Signer → its records and bytes here."""

    def add(self, record: Record, sign: int) -> None:
        """Count ``record`` in (``sign`` 1) or out (-1)."""
        size = sign * len(record.body)
        count, held = self.of.pop(record.signer, (0, 0))
        self.count, self.bytes = self.count + sign, self.bytes + size
        if count + sign:
            self.of[record.signer] = (count + sign, held + size)

    def crowded(self, config: RingConfig) -> bool:
        return self.count > self.limit or self.bytes > config.record_bytes

    def hogged(self, signer: bytes, config: RingConfig) -> bool:
        count, held = self.of.get(signer, (0, 0))
        return count > config.records_per_signer or held > config.signer_bytes


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

    __slots__ = ("_classes", "_config", "_digest", "_dropped", "_held", "_next_expiry", "_verifier")

    def __init__(self, config: RingConfig, verifier: Verifier) -> None:
        self._config = config
        self._verifier = verifier
        self._held: dict[bytes, _Held] = {}
        statements = _Class(MAX_STATEMENTS)
        self._classes: dict[int, _Class] = {
            Kind.APP: statements,
            Kind.STOP: statements,
            Kind.VOTERS: statements,
            Kind.REVOCATION: _Class(MAX_REVOCATIONS, final=True),
            Kind.DOCUMENT: _Class(MAX_DOCUMENTS),
        }
        self._dropped: list[Record] = []
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
        if record.kind not in _KINDS or not wall < record.expires <= wall + self._config.record_lifetime:
            # Too old or too long-lived by our clock: by the sender's it may be neither.
            return False
        key = key_of(record)
        held = self._held.get(key)
        if held is not None and rank(record) <= rank(held.record):
            return False
        if not authorise(record):
            return False
        if not verify(record, self._verifier):
            return Code.BAD_SIGNATURE
        return self._replace(key, record)

    def _replace(self, key: bytes, record: Record) -> bool:
        old = self._held.get(key)
        if old is not None:
            self._remove(key)
        self._insert(key, record)
        room = self._classes[record.kind]
        if room.final and (room.crowded(self._config) or room.hogged(record.signer, self._config)):
            self._remove(key)
            if old is not None:
                self._insert(key, old.record)
            return False
        self._trim(room, record.signer)
        return key in self._held

    def _insert(self, key: bytes, record: Record) -> None:
        mark = hashlib.blake2b(key + record.version.to_bytes(8, "big") + record.signature, digest_size=_HASH_BYTES)
        held = _Held(record, int.from_bytes(mark.digest(), "big"))
        self._held[key] = held
        self._classes[record.kind].add(record, 1)
        self._digest ^= held.mark
        if not self._next_expiry or record.expires < self._next_expiry:
            self._next_expiry = record.expires

    def _remove(self, key: bytes) -> Record:
        held = self._held.pop(key)
        self._classes[held.record.kind].add(held.record, -1)
        self._digest ^= held.mark
        return held.record

    def _drop(self, key: bytes) -> None:
        """Remove for good, which whoever keeps a copy has to learn (:meth:`take_dropped`)."""
        self._dropped.append(self._remove(key))

    def _trim(self, room: _Class, signer: bytes) -> None:
        while room.hogged(signer, self._config):
            own = (key for key, held in self._of(room) if held.record.signer == signer)
            self._drop(min(own, key=self._tenure))
        while room.crowded(self._config):
            self._drop(min((key for key, _ in self._of(room)), key=self._tenure))

    def _of(self, room: _Class) -> Iterator[tuple[bytes, _Held]]:
        return ((key, held) for key, held in self._held.items() if self._classes[held.record.kind] is room)

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

    def rejudge(self, authorise: Callable[[Record], bool]) -> None:
        """Drop the statements about applications that ``authorise`` would not take any more."""
        # Descriptors first: what else is said of an application is judged by whether its descriptor is held.
        statements = sorted(self._of(self._classes[Kind.APP]), key=lambda entry: entry[1].record.kind)
        for key, held in statements:
            if not authorise(held.record):
                self._drop(key)

    def take_dropped(self) -> list[Record]:
        """What was dropped since the last call; those that were replaced by newer ones are not among them."""
        dropped, self._dropped = self._dropped, []
        return dropped

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
        assert len(self._held) <= MAX_RECORDS
        for room in self._classes.values():
            mine = [held.record for _, held in self._of(room)]
            assert room.count == len(mine) <= room.limit
            assert room.bytes == sum(len(record.body) for record in mine) <= self._config.record_bytes
            assert len(room.of) <= room.count
            assert not any(room.hogged(signer, self._config) for signer in room.of)
