"""The fabric's document: who owns it, whose endorsements count, who may issue them.

The owner's Ed25519 key signs it and is the root of all trust: nodes, applications and invitations name a fabric by the
*fingerprint* of that key.  The key is needed only to change the document, so it may live offline.

Every issuer has a certificate authority of its own, made where it is used; no private key ever travels.  The document
lists the authorities whose endorsements count and, apart from them, the nodes that may invite and revoke.  A retired
issuer leaves ``issuers`` and its authority stays, so that those it endorsed remain members; a compromised one leaves
both, and all that it endorsed have to join again.

Documents replace one another by ``serial``.  The order is total, so all nodes settle on the same one; an old document
has a valid signature but is never news, which is what keeps a withdrawn authority withdrawn.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

from protocol.errors import AuthError, CodecError, LimitError
from protocol.ids import NodeId
from protocol.messages import Id
from protocol.signing import Signer, Verifier

from .certificates import MAX_CERTIFICATE, check_authority

DOMAIN = "fabric"
MAX_DOCUMENT = 48 * 1024
"""Bytes: sixteen authorities and some room."""

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
    serial: Annotated[int, msgspec.Meta(ge=1)]
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""

    @property
    def fingerprint(self) -> bytes:
        return fingerprint(self.owner)


def fingerprint(owner: bytes) -> bytes:
    """32 bytes that name the fabric of ``owner`` (a public key) for good."""
    return hashlib.sha256(b"mycelia fabric\0" + owner).digest()


def sign_document(document: FabricDocument, owner: Signer) -> FabricDocument:
    """``document`` under the owner's name and signature.  Raises AuthError when an authority is malformed."""
    for authority in document.authorities:
        check_authority(authority)
    unsigned = msgspec.structs.replace(document, owner=owner.public_key, signature=b"")
    return msgspec.structs.replace(unsigned, signature=owner.sign(DOMAIN, encode_document(unsigned)))


def verify_document(document: FabricDocument, verifier: Verifier) -> None:
    """Raise AuthError unless the owner that ``document`` names signed it and its authorities are well-formed."""
    unsigned = msgspec.structs.replace(document, signature=b"")
    if not verifier.verify(document.owner, DOMAIN, encode_document(unsigned), document.signature):
        raise AuthError("a fabric document that its owner did not sign")
    for authority in document.authorities:
        check_authority(authority)


def newest(held: FabricDocument, other: FabricDocument) -> FabricDocument:
    """The one of two verified documents of one fabric that counts.  Raises AuthError when the owners differ."""
    if held.owner != other.owner:
        raise AuthError("the document of another fabric")
    return max(held, other, key=lambda document: (document.serial, document.signature))


def is_issuer(document: FabricDocument, node: NodeId) -> bool:
    return node in document.issuers


def encode_document(document: FabricDocument) -> bytes:
    return msgspec.msgpack.encode(document)


def decode_document(content: bytes) -> FabricDocument:
    """Read a document; its signature is not checked here.  Raises LimitError, CodecError."""
    if len(content) > MAX_DOCUMENT:
        raise LimitError(f"a fabric document of {len(content)} bytes, the limit is {MAX_DOCUMENT}")
    try:
        return msgspec.msgpack.decode(content, type=FabricDocument)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CodecError(f"not a fabric document: {error}") from None
