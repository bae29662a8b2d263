"""One node's membership: its key, its endorsement, the fabric's document, and the leaf that it shows today.

The files of the state directory are written in such an order that a crash half-way leaves a node that is not a member
yet and can simply try again: the document comes last, and its presence is what membership means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import grpc
import msgspec

from protocol.errors import AuthError, ConfigError, PeerError, UsageError
from protocol.ids import NodeId, ring_id

from ..statedir import StateDir, read_file, sync_directory, write_file, writing
from .certificates import ONE_POSITION, Limits, authorities_of, public_key_of, verify_endorsement
from .credentials import Credentials, channel_credentials, roots_pem, server_credentials
from .fabric import (
    FabricDocument,
    SignedDocument,
    decode_document,
    encode_document,
    is_news,
    open_document,
    sign_document,
)
from .issuing import endorse, make_authority, make_leaf, nonce_for
from .keys import Ed25519Verifier, Key
from .renewal import is_due


class Authority(msgspec.Struct, frozen=True, gc=False):
    """What makes a node an issuer: the key that endorses others, and its certificate (DER)."""

    key: Key
    certificate: bytes

    def endorse(self, public_key: bytes, zone: int, now: int, limits: Limits = ONE_POSITION) -> bytes:
        """See ``issuing.endorse``."""
        return endorse(self.key, self.certificate, public_key, zone, limits, now)

    def node(self, public_key: bytes, zone: int) -> NodeId:
        """Who the holder of ``public_key`` is, or would be, when this authority endorses it."""
        return ring_id(zone, public_key, nonce_for(self.key, public_key))


class Membership:
    """What a daemon knows of itself.  Changed on the event loop only; :meth:`credentials` may be read on any thread."""

    def __init__(self, key: Key, endorsement: bytes, signed: SignedDocument, now: int) -> None:
        """``endorsement`` is DER, ``now`` Unix seconds.

        Raises AuthError or CodecError when ``signed`` is not a valid document, or ``endorsement`` is not for ``key`` or
        not under that document.
        """
        document = open_document(signed, Ed25519Verifier())
        if public_key_of(endorsement) != key.public_key:
            raise AuthError("an endorsement of another key")
        said = verify_endorsement(endorsement, document.authorities, now)
        self.node, self.voucher, self.limits = said.node, said.voucher, said.limits
        self.key = key.endorsed(said.nonce)
        self.endorsement = endorsement
        self.document = document
        self.signed = signed
        self._authorities = authorities_of(document.authorities)
        self._credentials = Credentials(make_leaf(key, endorsement, now), roots_pem(document.authorities))

    def authorities(self) -> Mapping[bytes, bytes]:
        """Those whose vouchers count now: name → public key."""
        return self._authorities

    def credentials(self) -> Credentials:
        """What to show now."""
        return self._credentials

    def server(self) -> grpc.ServerCredentials:
        """For a gRPC server: a client certificate of the fabric is required, and renewals are followed."""
        return server_credentials(self.credentials)

    def client(self) -> grpc.ChannelCredentials:
        """For one dial, now."""
        return channel_credentials(self._credentials)

    def renew(self, now: int) -> bool:
        """Make a new leaf if one is due at ``now`` (Unix seconds; see ``renewal``); say whether that was so."""
        if not is_due(self._credentials.leaf, now):
            return False
        leaf = make_leaf(self.key, self.endorsement, now)
        self._credentials = msgspec.structs.replace(self._credentials, leaf=leaf)
        return True

    def adopt(self, signed: SignedDocument, state: StateDir) -> bool:
        """Follow a newer document of this fabric, durably; say whether it was newer.

        Raises AuthError or CodecError when it is not the owner's, StorageError when it cannot be stored; then the old
        one holds.
        """
        document = open_document(signed, Ed25519Verifier())
        if not is_news(self.document, document):
            return False
        write_file(state.fabric, encode_document(signed))
        self.document, self.signed = document, signed
        self._authorities = authorities_of(document.authorities)
        self._credentials = msgspec.structs.replace(self._credentials, roots_pem=roots_pem(document.authorities))
        return True

    @classmethod
    def load(cls, state: StateDir, now: int) -> Self:
        """The membership in ``state``.  Raises ConfigError naming the file that is missing or wrong."""
        key = Key.load(state.node_key)
        signed, _ = load_document(state)
        try:
            return cls(key, read_file(state.node_certificate), signed, now)
        except PeerError as error:
            raise ConfigError(
                f"{state.node_certificate} does not make this node a member: {error}",
                error.remedy or f"restore {state.root} from one backup, or join again with a new invitation",
            ) from None

    @classmethod
    def enter(cls, state: StateDir, key: Key, endorsement: bytes, signed: SignedDocument, now: int) -> Self:
        """Make what a join brought durable.  Raises AuthError or CodecError when it is inconsistent, StorageError."""
        membership = cls(key, endorsement, signed, now)
        write_file(state.node_certificate, endorsement)
        write_file(state.fabric, encode_document(signed))
        return membership


def found(state: StateDir, name: str, zone: int, now: int) -> Membership:
    """Make a new fabric with this node as its first member and issuer; hold the lock of ``state``.

    Writes the owner's key beside the node's; it may be moved offline afterwards.  Raises UsageError when ``state`` is a
    member of a fabric already or ``name`` is unfit, StorageError.
    """
    require_newcomer(state)
    if not 1 <= len(name) <= 40 or not name.isprintable():
        raise UsageError(f"{name!r} cannot name a fabric", "use 1 to 40 printable characters")
    owner, authority_key, key = Key.generate(), Key.generate(), node_key(state)
    authority = make_authority(authority_key, name, now)
    issuer = Authority(authority_key, authority)
    node = issuer.node(key.public_key, zone)
    document = FabricDocument(name, zone, owner.public_key, (authority,), (node,), serial=1)
    endorsement = issuer.endorse(key.public_key, zone, now)
    owner.save(state.owner_key)
    authority_key.save(state.authority_key)
    write_file(state.authority_certificate, authority)
    return Membership.enter(state, key, endorsement, sign_document(document, owner), now)


def require_newcomer(state: StateDir) -> None:
    """Raise UsageError when ``state`` belongs to a fabric already: an identity is never overwritten."""
    if state.is_member:
        _, document = load_document(state)
        name = document.name
        raise UsageError(f"{state.root} already belongs to fabric {name!r}", "use another state directory (-C DIR)")


def give_up(state: StateDir) -> None:
    """Stop being a member, durably; hold the lock.  Keys stay, so that nothing is lost that only we have.

    Raises StorageError.
    """
    with writing(state.root):
        # The document first: without it the rest means nothing.
        state.fabric.unlink(missing_ok=True)
        state.node_certificate.unlink(missing_ok=True)
        sync_directory(state.root)


def node_key(state: StateDir) -> Key:
    """This node's key, made on first use, so that a join that was cut off is repeated under the same identity."""
    if state.node_key.exists():
        return Key.load(state.node_key)
    key = Key.generate()
    key.save(state.node_key)
    return key


def load_document(state: StateDir) -> tuple[SignedDocument, FabricDocument]:
    """The fabric's document in ``state``, verified.  Raises ConfigError."""
    content = read_file(state.fabric)
    try:
        signed = decode_document(content)
        return signed, open_document(signed, Ed25519Verifier())
    except PeerError as error:
        raise ConfigError(
            f"{state.fabric} is corrupt: {error}",
            "restore it from a backup, or copy it from another node of the fabric",
        ) from None


def load_authority(state: StateDir) -> Authority | None:
    """The authority of an issuer; None on every other node.  Raises ConfigError when its files are damaged."""
    if not state.authority_key.exists():
        return None
    authority = Authority(Key.load(state.authority_key), read_file(state.authority_certificate))
    try:
        matches = public_key_of(authority.certificate) == authority.key.public_key
    except AuthError:
        matches = False
    if not matches:
        raise ConfigError(
            f"{state.authority_certificate} is not the certificate of {state.authority_key}",
            "restore both from one backup",
        )
    return authority
