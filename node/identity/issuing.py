"""Making certificates: authorities, endorsements, leaves.  What they look like, and why, is in ``certificates``.

*The nonce* of an endorsement is a keyed hash of the node's key, the key being the authority's.  Nobody can tell it
before the endorsement is there, so nobody can look for a key that lands beside somebody; and the same key gets the same
nonce however often and by whatever invitation it asks, so a new place costs a new key *and* a new invitation.  A nonce
that was drawn would have to be remembered for as long as the authority lives for the second half of that to hold.
"""

from __future__ import annotations

import datetime as dt
import hashlib

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.errors import AuthError, UsageError
from protocol.ids import ring_id
from protocol.membership import vouch

from .certificates import (
    AUTHORITY_DEPTH,
    LIMITS_OID,
    NODE_DEPTH,
    NONCE_BYTES,
    NONCE_OID,
    VOUCHER_OID,
    Leaf,
    Limits,
    common_name,
    constraints,
    node_name,
)
from .keys import Key

BACKDATE = 300
"""Seconds that a leaf is backdated: peers whose clocks run up to 5 min behind accept it at once."""
AUTHORITY_LIFE = 20 * 365 * 86400
"""Seconds.  Ends the fabric's PKI, so it is longer than a fleet of machines lives."""
LEAF_LIFE = 86400
"""Seconds.  A stolen leaf key is worthless tomorrow; renewed at two thirds (``renewal``)."""

_AUTHORITY_BACKDATE = 86400
"""Edge machines without a battery-backed clock start up to a day behind until they hear of the time."""
_NONCE_DOMAIN = "endorsement nonce"
_PEM = serialization.Encoding.PEM
_DER = serialization.Encoding.DER


def make_authority(key: Key, fabric: str, now: int) -> bytes:
    """A self-signed authority certificate (DER) for ``key``.  ``now`` is Unix seconds."""
    # The key's own bytes in the name keep the authorities of one fabric apart when chains are built.
    subject = common_name(f"{fabric[:40]} {key.public_key[:8].hex()}")
    window = (now - _AUTHORITY_BACKDATE, now + AUTHORITY_LIFE)
    builder = _builder(subject, subject, key.private.public_key(), window)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=AUTHORITY_DEPTH), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(_authority_id(key), critical=False)
    return builder.sign(key.private, None).public_bytes(_DER)


def nonce_for(authority_key: Key, public_key: bytes) -> bytes:
    """The nonce, 16 bytes, with which the holder of ``authority_key`` endorses ``public_key``: always the same."""
    # Ed25519 signatures are deterministic, and who lacks the key can tell nothing of them in advance.
    return hashlib.sha256(authority_key.sign(_NONCE_DOMAIN, public_key)).digest()[:NONCE_BYTES]


def endorse(authority_key: Key, authority: bytes, public_key: bytes, zone: int, limits: Limits, now: int) -> bytes:
    """The intermediate certificate (DER) that makes the holder of ``public_key`` a node of ``zone``.

    The name follows from key and nonce, so nobody can be given another's.  Whether the asker holds the private half is
    for the caller to have checked (``enrol``).  Raises AuthError when ``public_key`` is no Ed25519 key.
    """
    try:
        subject_key = Ed25519PublicKey.from_public_bytes(public_key)
    except ValueError:
        raise AuthError("not an Ed25519 public key") from None
    issuer = x509.load_der_x509_certificate(authority)
    nonce = nonce_for(authority_key, public_key)
    node = ring_id(zone, public_key, nonce)
    name = node_name(node)
    window = (now - _AUTHORITY_BACKDATE, int(issuer.not_valid_after_utc.timestamp()))
    builder = _builder(common_name(name), issuer.subject, subject_key, window)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=NODE_DEPTH), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(constraints(name), critical=True)
    builder = builder.add_extension(_authority_id(authority_key), critical=False)
    # Not critical: a verifier that is not ours refuses critical extensions that it does not know.
    voucher = vouch(authority_key, node)
    for oid, value in ((LIMITS_OID, msgspec.msgpack.encode(limits)), (NONCE_OID, nonce), (VOUCHER_OID, voucher)):
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return builder.sign(authority_key.private, None).public_bytes(_DER)


def make_leaf(key: Key, intermediate: bytes, now: int, life: int = LEAF_LIFE) -> Leaf:
    """A fresh leaf for the node that holds ``key`` and was endorsed by ``intermediate`` (DER), valid ``life`` seconds.

    Raises UsageError when the intermediate is for another key or has expired.
    """
    endorsement = x509.load_der_x509_certificate(intermediate)
    if endorsement.public_key() != key.private.public_key():
        raise UsageError("the certificate endorses another key", "restore node.key and node.crt from the same backup")
    name = endorsement.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    not_before = now - BACKDATE
    not_after = min(now + life, int(endorsement.not_valid_after_utc.timestamp()))
    if not_after <= now:
        raise UsageError("the fabric's certificates have expired", "check this machine's clock")
    # No subject: the one name is the alternative name, and nothing is left to fall back on.
    builder = _builder(x509.Name([]), endorsement.subject, leaf_key.public_key(), (not_before, not_after))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(str(name))]), critical=True)
    builder = builder.add_extension(_authority_id(key), critical=False)
    certificate = builder.sign(key.private, None)
    key_pem = leaf_key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain_pem = certificate.public_bytes(_PEM) + endorsement.public_bytes(_PEM)
    return Leaf(key_pem, chain_pem, not_before, not_after)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Ed25519PublicKey | ec.EllipticCurvePublicKey, window: tuple[int, int]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(window[0]))
        .not_valid_after(_utc(window[1]))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority_id(issuer: Key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.private.public_key())


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _utc(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
