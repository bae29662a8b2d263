"""The certificate chain: fabric authority → node intermediate → leaf.

    authority     Ed25519, self-signed, path length 1; listed in the fabric's document (``fabric``), never trusted alone
    intermediate  the node's own Ed25519 identity key, path length 0, constrained to the one name ``<ring id>.mycelia``
    leaf          P-256, days at most, signed by the node itself; what TLS shows

A node is endorsed once and from then on renews its leaf without asking anybody, so no issuer has to be up for the
fabric to live.  The leaf's key is P-256 because gRPC's TLS refuses Ed25519 leaves; that key is never kept.
Membership ends by revocation (``revocation``), not by expiry: the intermediate lives as long as its authority.

*What the constraints must say.*  Whoever holds an intermediate may write any leaf below it, so the constraints alone
keep a member from showing another member's name.  A constraint on DNS names alone is not enough, as tried: gRPC takes
e-mail and URI alternative names for names as well, and the common name when there is no DNS name at all, and a
constraint holds only for names of its own type (RFC 5280, section 4.2.1.10), so one member could pass for another, as
server and as client.  The intermediate therefore permits, of every type that can be mistaken for a name, either its own
name or one that cannot exist.  Beside that :func:`peer_of` reads the leaf itself and takes exactly one form.

*Why limits are in the certificate and roles are not.*  How many ring positions a node may hold is a fact about one
node, fixed when it is endorsed, needed by whoever checks such a claim, so it rides in an extension of the intermediate
(arc 2.25, which is open to everyone: a UUID).  So does the issuer's nonce, without which the name does not follow from
the key (``protocol.ids``): who checks the endorsement checks that the issuer chose the place, not the node.  So does
a voucher, by which a node is known as a member where its certificate is not seen (``protocol.membership``).  Who may
issue is the owner's decision, may be withdrawn at any time, and must not be within the power of an issuer to hand on,
so it is in the document that the owner signs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from protocol.errors import AuthError
from protocol.ids import ID_BYTES, NodeId, ring_id, zone_of
from protocol.membership import Roll, Standing, authority_name
from protocol.signing import MAX_NONCE
from protocol.wire import UNREADABLE

from .keys import Ed25519Verifier

DOMAIN = "mycelia"
"""Top label of every node's name.  Not a public domain, and never looked up."""

AUTHORITY_DEPTH = 1
NODE_DEPTH = 0
"""A node signs leaves and nothing below them."""

LIMITS_OID = x509.ObjectIdentifier("2.25.245911712525216065612371960998504883809")
NONCE_OID = x509.ObjectIdentifier("2.25.98210395427630713960271188240652193117")
VOUCHER_OID = x509.ObjectIdentifier("2.25.318246047913310278446512939201764390822")
NONCE_BYTES = MAX_NONCE
"""Length of the issuer's nonce: as long as an id, so that nobody meets one by chance."""
MAX_LEAF_LIFE = 7 * 86400
"""Seconds from one end of a leaf's window to the other that peers accept.  Ours live a day: whoever steals the key of
one has it for days at most, whatever window its node wrote into it."""
MAX_CERTIFICATE = 2048
"""Bytes of one certificate (DER); ours take about 600."""

_NOBODY = "invalid"
"""A host name that cannot exist (RFC 6761)."""
_UNPARSABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

E = TypeVar("E", bound=x509.ExtensionType)


class Limits(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What an endorsement allows its node."""

    positions: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    """Ring positions: virtual node indices below this are the node's own."""


ONE_POSITION = Limits()


class Endorsement(NamedTuple):
    """What an intermediate certificate says, verified."""

    node: NodeId
    nonce: bytes
    """The issuer's, 16 bytes: with the key it gives ``node``."""
    voucher: bytes
    """Shows to those who do not see the certificate that ``node`` is a member (``protocol.membership``)."""
    limits: Limits


class Leaf(msgspec.Struct, frozen=True, gc=False):
    """What a node shows in TLS until it makes the next one."""

    key_pem: bytes
    """PKCS#8 PEM of the P-256 key."""
    chain_pem: bytes
    """Leaf, then intermediate."""
    not_before: int
    """Unix time in seconds."""
    not_after: int
    """Unix time in seconds."""


def node_name(node: NodeId) -> str:
    """The DNS name of ``node`` in certificates, and what a dialler must demand."""
    return f"{node.hex()}.{DOMAIN}"


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def constraints(name: str) -> x509.NameConstraints:
    """What the holder of an intermediate may call itself: ``name``, in whatever type of field (see the module)."""
    permitted: list[x509.GeneralName] = [
        x509.DNSName(name),
        x509.DirectoryName(common_name(name)),
        x509.RFC822Name(_NOBODY),
        x509.UniformResourceIdentifier(_NOBODY),
    ]
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None)


def node_of(name: str) -> NodeId:
    """The node that ``name`` belongs to.  Raises AuthError unless it is exactly what ``node_name`` gives."""
    label, _, domain = name.partition(".")
    try:
        node = bytes.fromhex(label)
    except ValueError:
        node = b""
    if len(node) != ID_BYTES or domain != DOMAIN or node_name(node) != name:
        raise AuthError(f"{name[:80]!r} is not the name of a node")
    return node


def verify_chain(leaf: bytes, intermediate: bytes, authorities: Sequence[bytes], now: int) -> NodeId:
    """The node that the chain (all DER) speaks for, under any of ``authorities``, at ``now`` (Unix seconds).

    Raises AuthError saying what is wrong.
    """
    node = verify_endorsement(intermediate, authorities, now).node
    certificate = _parse(leaf)
    _check_signed(certificate, _parse(intermediate))
    _check_window(certificate, now)
    if _node_of_leaf(certificate) != node:
        raise AuthError("a leaf that claims the name of another node")
    return node


def verify_endorsement(intermediate: bytes, authorities: Sequence[bytes], now: int) -> Endorsement:
    """Whom ``intermediate`` (DER) endorses, and to what.  Raises AuthError saying what is wrong."""
    certificate = _parse(intermediate)
    issuers = [_parse(authority) for authority in authorities]
    issuer = next((issuer for issuer in issuers if issuer.subject == certificate.issuer), None)
    if issuer is None:
        raise AuthError("a certificate of another fabric")
    _check_depth(issuer, AUTHORITY_DEPTH)
    _check_signed(certificate, issuer)
    _check_window(issuer, now)
    _check_window(certificate, now)
    nonce = _nonce(certificate)
    node = _node_of_intermediate(certificate, nonce)
    voucher = _own_extension(certificate, VOUCHER_OID, "a voucher")
    key = _identity_key(issuer)
    if Roll(voucher, Ed25519Verifier(), lambda: {authority_name(key): key}).standing(node, voucher) != Standing.MEMBER:
        raise AuthError("an endorsement whose voucher does not hold")
    return Endorsement(node, nonce, voucher, _limits(certificate))


def check_authority(authority: bytes) -> None:
    """Raise AuthError unless ``authority`` (DER) is what ``make_authority`` makes."""
    certificate = _parse(authority)
    _identity_key(certificate)
    _check_depth(certificate, AUTHORITY_DEPTH)
    _check_signed(certificate, certificate)


def authorities_of(certificates: Sequence[bytes]) -> dict[bytes, bytes]:
    """Name in vouchers → public key, of authorities whose certificates (DER) were checked.  Raises AuthError."""
    keys = [_identity_key(_parse(one)) for one in certificates]
    return {authority_name(key): key for key in keys}


def public_key_of(intermediate: bytes) -> bytes:
    """The 32-byte identity key that ``intermediate`` (DER) endorses.  Raises AuthError."""
    return _identity_key(_parse(intermediate))


def peer_of(auth_context: Mapping[str, Sequence[bytes]]) -> NodeId:
    """Who is at the other end of a gRPC connection, from its ``auth_context()``.

    gRPC has verified the chain; this insists on the form of the leaf, so that nothing but the one DNS name can be taken
    for an identity.  Raises AuthError when the connection is not mutually authenticated.
    """
    pem = list(auth_context.get("x509_pem_cert", ()))
    if list(auth_context.get("transport_security_type", ())) != [b"ssl"] or len(pem) != 1:
        raise AuthError("a connection without a client certificate")
    try:
        certificate = _whole(x509.load_pem_x509_certificate(pem[0]))
    except _UNPARSABLE as error:
        raise AuthError(f"not a certificate: {error}") from None
    return _node_of_leaf(certificate)


def _parse(der: bytes) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE:
        raise AuthError(f"a certificate of {len(der)} bytes, the limit is {MAX_CERTIFICATE}")
    try:
        return _whole(x509.load_der_x509_certificate(der))
    except _UNPARSABLE as error:
        raise AuthError(f"not a certificate: {error}") from None


def _whole(certificate: x509.Certificate) -> x509.Certificate:
    """Parse now what the library would otherwise parse, and raise on, wherever it is first used."""
    _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.signature_algorithm_parameters
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.public_key()
    return certificate


def _extension(certificate: x509.Certificate, kind: type[E]) -> E:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        raise AuthError(f"a certificate without {kind.__name__}") from None


def _check_signed(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        raise AuthError("a certificate that its issuer did not sign") from None


def _check_window(certificate: x509.Certificate, now: int) -> None:
    if now < certificate.not_valid_before_utc.timestamp():
        raise AuthError("a certificate that is not valid yet", "check the clocks of both machines")
    if now >= certificate.not_valid_after_utc.timestamp():
        raise AuthError("a certificate that has expired", "check the clocks of both machines")


def _check_depth(certificate: x509.Certificate, depth: int) -> None:
    if _extension(certificate, x509.BasicConstraints) != x509.BasicConstraints(ca=True, path_length=depth):
        raise AuthError("a certificate of the wrong rank")
    if not _extension(certificate, x509.KeyUsage).key_cert_sign:
        raise AuthError("a certificate that may not sign certificates")


def _identity_key(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise AuthError("a certificate whose key is not Ed25519")
    return key.public_bytes_raw()


def _node_of_intermediate(certificate: x509.Certificate, nonce: bytes) -> NodeId:
    common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(certificate.subject) != 1 or len(common_names) != 1:
        raise AuthError("an endorsement without a single name")
    name = str(common_names[0].value)
    node = node_of(name)
    if ring_id(zone_of(node), _identity_key(certificate), nonce) != node:
        raise AuthError("an endorsement whose name does not follow from its key and nonce")
    _check_depth(certificate, NODE_DEPTH)
    if _extension(certificate, x509.NameConstraints) != constraints(name):
        raise AuthError("an endorsement that is not confined to its own name")
    return node


def _node_of_leaf(certificate: x509.Certificate) -> NodeId:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise AuthError("a leaf whose key is not P-256")
    if _extension(certificate, x509.BasicConstraints).ca:
        raise AuthError("a leaf that may sign certificates")
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if life.total_seconds() > MAX_LEAF_LIFE:
        raise AuthError("a leaf that lives longer than leaves may", "renew it: `mycelia up` makes one that lives a day")
    names = list(_extension(certificate, x509.SubjectAlternativeName))
    if len(names) != 1 or not isinstance(names[0], x509.DNSName) or len(certificate.subject):
        raise AuthError("a leaf with another name than the one DNS name of its node")
    return node_of(names[0].value)


def _own_extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier, what: str) -> bytes:
    try:
        extension = certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        raise AuthError(f"an endorsement without {what}") from None
    assert isinstance(extension, x509.UnrecognizedExtension)
    return extension.value


def _nonce(certificate: x509.Certificate) -> bytes:
    nonce = _own_extension(certificate, NONCE_OID, "a nonce")
    if len(nonce) != NONCE_BYTES:
        raise AuthError("an endorsement with a malformed nonce")
    return nonce


def _limits(certificate: x509.Certificate) -> Limits:
    try:
        return msgspec.msgpack.decode(_own_extension(certificate, LIMITS_OID, "limits"), type=Limits)
    except UNREADABLE:
        raise AuthError("an endorsement with malformed limits") from None
