"""Messages of the ring.  Kinds 16 to 47."""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocol.messages import Contact, Contacts, Id, Message, Natural, register
from protocol.signing import MAX_NONCE

MAX_RECORD_BODY = 160 * 1024
"""Bytes: room for a descriptor with an inline bundle and an inline initial model."""

MAX_STATEMENTS = 4096
"""Records about applications: descriptors, orders to stop, newest heads."""
MAX_REVOCATIONS = 4096
"""Records that end a membership.  Their room is theirs alone."""
MAX_DOCUMENTS = 4
"""Records that hold the fabric's document; the layer above admits one."""
MAX_RECORDS = MAX_STATEMENTS + MAX_REVOCATIONS + MAX_DOCUMENTS

CONTACTS_LIMIT = 80 * 1024
"""Bytes: 64 contacts with as many and as long addresses as a contact may have, and as many bare ids."""


class Record(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A signed, versioned, expiring statement about ``subject``.

    The newest version wins; of two with one version, the larger signature, so that all replicas agree.
    """

    kind: Natural
    """What it says: see ``dht.records.Kind``."""
    subject: Id
    version: Natural
    expires: Natural
    """Unix time in seconds."""
    signer: Annotated[bytes, msgspec.Meta(max_length=64)]
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_RECORD_BODY)]
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    nonce: Annotated[bytes, msgspec.Meta(max_length=MAX_NONCE)] = b""
    """The signer's, when it signs as a node (``protocol.ids``); signed like the rest."""


Entry = tuple[Annotated[bytes, msgspec.Meta(max_length=8)], Natural]
"""Six bytes of the digest of a record's key, two of the record's own, and its version."""


@register(16, 64)
class Ping(Message):
    """Are you there?  ``digest`` sums up the sender's records, so that every ping is also an anti-entropy probe."""

    nonce: int
    digest: Annotated[bytes, msgspec.Meta(max_length=8)] = b""


@register(17, 64)
class Pong(Message):
    nonce: int
    digest: Annotated[bytes, msgspec.Meta(max_length=8)] = b""
    wall: Natural = 0
    """Unix seconds by the sender's own clock, uncorrected; 0 when it does not say."""


@register(18, 2048)
class JoinRing(Message):
    """Routed to the joiner's own id.  Each hop answers the joiner with the row that it shares with it."""

    joiner: Contact


@register(19, CONTACTS_LIMIT)
class RowShare(Message):
    """Contacts for the receiver's routing table: candidates, to be measured before they displace anything."""

    contacts: Contacts


@register(20, CONTACTS_LIMIT)
class Welcome(Message):
    """From the node closest to the joiner: its leaf set, itself first."""

    leaves: Contacts


@register(21, CONTACTS_LIMIT)
class LeafProbe(Message):
    """My leaf set and whom I believe dead.  The receiver adds me if I belong and answers with its own view.

    What is reported dead is probed, not trusted (consistent join, FreePastry).
    """

    sender: Contact
    leaves: Contacts
    failed: Annotated[tuple[Id, ...], msgspec.Meta(max_length=64)] = ()


@register(22, CONTACTS_LIMIT)
class LeafReply(Message):
    sender: Contact
    leaves: Contacts
    failed: Annotated[tuple[Id, ...], msgspec.Meta(max_length=64)] = ()


@register(23, 16)
class Goodbye(Message):
    """I am leaving on purpose: forget me now, without suspicion."""


@register(24, 64)
class FindReplicas(Message):
    """Routed to a key: who are the ``count`` live daemons closest to it, as far as its owner knows?"""

    token: int
    count: Natural


@register(25, CONTACTS_LIMIT)
class Replicas(Message):
    token: int
    contacts: Contacts


@register(26, MAX_RECORD_BODY + 64 * 1024)
class RecordPush(Message):
    """Records that the sender thinks are news to the receiver."""

    records: Annotated[tuple[Record, ...], msgspec.Meta(max_length=256)]


@register(27, 40 * MAX_RECORDS)
class RecordDigests(Message):
    """What the sender holds, one entry for each record.

    The receiver pushes what is missing or older at the sender and, when the sender holds something newer,
    answers with its own digests once (``reply`` true ends the exchange).
    """

    entries: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=MAX_RECORDS)]
    reply: bool = False
