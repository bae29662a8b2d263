"""The fabric's document: who owns it, whose endorsements count, who may issue them.

The owner's Ed25519 key signs it and is the root of all trust: nodes, applications and invitations name a fabric by the
*fingerprint* of that key.  The key is needed only to change the document, so it may live offline.

Every issuer has a certificate authority of its own, made where it is used; no private key ever travels.  The document
lists the authorities whose endorsements count and, apart from them, the nodes that may invite and revoke.  A retired
issuer leaves ``issuers`` and its authority stays, so that those it endorsed remain members; a compromised one leaves
both, and all that it endorsed have to join again.

Documents replace one another by ``serial``.  The order is total, so all nodes settle on the same one; an old document
has a valid signature but is never news, which is what keeps a withdrawn authority withdrawn.

What is signed is kept and passed on as the bytes that it was, so that a node verifies, and relays whole, a document to
which a later version has added fields.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

from dht.messages import Record
from dht.records import Kind, sign_record
from protocol.errors import AuthError, CodecError, LimitError, PeerError
from protocol.ids import ID_BYTES, NodeId
from protocol.messages import Id
from protocol.signing import Signer, Verifier
from protocol.wire import UNREADABLE

from .certificates import MAX_CERTIFICATE, check_authority

DOMAIN = "fabric"
MAX_DOCUMENT = 48 * 1024
"""Bytes: sixteen authorities and some room."""

MAX_APP_OWNERS = 256
SAID_FOR = 390 * 86400
"""Seconds for which a document is spread among those who are members already; newcomers get it when they join."""

PublicKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Certificate = Annotated[bytes, msgspec.Meta(max_length=MAX_CERTIFICATE)]


class FabricDocument(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One version of the owner's statement about the fabric."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
    zone: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    owner: PublicKey
    authorities: Annotated[tuple[Certificate, ...], msgspec.Meta(min_length=1, max_length=16)]
    """Certificates (DER) under which endorsements count."""
    issuers: Annotated[tuple[Id, ...], msgspec.Meta(max_length=16)]
    """Nodes that may invite others and revoke those who are not issuers."""
    serial: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
    app_owners: Annotated[tuple[PublicKey, ...], msgspec.Meta(max_length=MAX_APP_OWNERS)] = ()
    """Who may have applications here, beside the owner.  Whether their code runs is for each node's operator to say."""

    @property
    def fingerprint(self) -> bytes:
        return fingerprint(self.owner)


class SignedDocument(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A document as it is stored and sent."""

    body: Annotated[bytes, msgspec.Meta(max_length=MAX_DOCUMENT)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


def fingerprint(owner: bytes) -> bytes:
    """32 bytes that name the fabric of ``owner`` (a public key) for good."""
    return hashlib.sha256(b"mycelia fabric\0" + owner).digest()


def sign_document(document: FabricDocument, owner: Signer) -> SignedDocument:
    """``document`` under its owner's signature."""
    assert document.owner == owner.public_key, "only the owner signs"
    body = msgspec.msgpack.encode(document)
    return SignedDocument(body, owner.sign(DOMAIN, body))


def open_document(signed: SignedDocument, verifier: Verifier) -> FabricDocument:
    """What ``signed`` says.

    Raises CodecError when that is not a document, AuthError when the owner whom it names did not sign it or one of its
    authorities is none.
    """
    try:
        document = msgspec.msgpack.decode(signed.body, type=FabricDocument)
    except UNREADABLE as error:
        raise CodecError(f"not a fabric document: {error}") from None
    if not verifier.verify(document.owner, DOMAIN, signed.body, signed.signature):
        raise AuthError("a fabric document that its owner did not sign")
    for authority in document.authorities:
        check_authority(authority)
    return document


def is_news(held: FabricDocument, other: FabricDocument) -> bool:
    """Whether ``other`` replaces ``held``; both were opened.  Raises AuthError when they are of different fabrics.

    Of two documents with one serial, which only a mistake of the owner makes, the larger counts, so that all agree.
    """
    if held.owner != other.owner:
        raise AuthError("the document of another fabric")
    return (other.serial, msgspec.msgpack.encode(other)) > (held.serial, msgspec.msgpack.encode(held))


def is_issuer(document: FabricDocument, node: NodeId) -> bool:
    return node in document.issuers


def may_own(document: FabricDocument, key: bytes) -> bool:
    """Does the document let the holder of ``key`` have applications?"""
    return key == document.owner or key in document.app_owners


def spread_document(document: FabricDocument, owner: Signer, now: int) -> Record:
    """The record by which members learn of ``document``.  ``now`` is Unix seconds."""
    body = encode_document(sign_document(document, owner))
    subject = document.fingerprint[:ID_BYTES]
    return sign_record(owner, Kind.DOCUMENT, subject, document.serial, now + SAID_FOR, body)


def authorise(record: Record, held: FabricDocument, verifier: Verifier) -> bool:
    """Does ``record`` hold a document of the fabric whose present one is ``held``?"""
    if record.kind != Kind.DOCUMENT or record.signer != held.owner or record.subject != held.fingerprint[:ID_BYTES]:
        return False
    try:
        document = open_document(decode_document(record.body), verifier)
    except PeerError:
        return False
    return document.owner == held.owner and document.serial == record.version


def encode_document(signed: SignedDocument) -> bytes:
    return msgspec.msgpack.encode(signed)


def decode_document(content: bytes) -> SignedDocument:
    """Read what :func:`encode_document` wrote; nothing is verified yet.  Raises LimitError, CodecError."""
    if len(content) > MAX_DOCUMENT + 128:
        raise LimitError(f"a fabric document of {len(content)} bytes, the limit is {MAX_DOCUMENT}")
    try:
        return msgspec.msgpack.decode(content, type=SignedDocument)
    except UNREADABLE as error:
        raise CodecError(f"not a fabric document: {error}") from None
