"""A fabric in memory, and certificates that no honest node would make."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.identity.certificates import ONE_POSITION, Leaf, node_name, verify_endorsement
from node.identity.fabric import FabricDocument, SignedDocument, sign_document
from node.identity.issuing import endorse, make_authority, make_leaf
from node.identity.keys import Key
from node.identity.membership import Authority, Membership
from protocol.ids import NodeId

PEM = serialization.Encoding.PEM
DER = serialization.Encoding.DER


class Member(NamedTuple):
    key: Key
    node: NodeId
    endorsement: bytes

    def leaf(self, now: int, life: int = 3600) -> Leaf:
        return make_leaf(self.key, self.endorsement, now, life)


class Lab:
    """One fabric: an owner, an authority, and members on demand."""

    def __init__(self, now: int, zone: int = 0, name: str = "lab") -> None:
        self.now = now
        self.zone = zone
        self.owner = Key.generate()
        key = Key.generate()
        self.authority = Authority(key, make_authority(key, name, now))
        self.issuer = self.member()
        self.document = FabricDocument(
            name, zone, self.owner.public_key, (self.authority.certificate,), (self.issuer.node,), serial=1
        )

    @property
    def signed(self) -> SignedDocument:
        return sign_document(self.document, self.owner)

    def member(self) -> Member:
        key = Key.generate()
        endorsement = endorse(
            self.authority.key, self.authority.certificate, key.public_key, self.zone, ONE_POSITION, self.now
        )
        said = verify_endorsement(endorsement, (self.authority.certificate,), self.now)
        return Member(key.endorsed(said.nonce), said.node, endorsement)

    def membership(self, member: Member | None = None) -> Membership:
        member = member or self.issuer
        return Membership(member.key, member.endorsement, self.signed, self.now)


def forge_leaf(
    member: Member,
    now: int,
    names: Sequence[x509.GeneralName],
    common_names: Sequence[str] = (),
    *,
    ed25519: bool = False,
    ca: bool = False,
    life: int = 3600,
) -> Leaf:
    """A leaf that ``member`` signs with whatever names it likes."""
    leaf_key = Ed25519PrivateKey.generate() if ed25519 else ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_der_x509_certificate(member.endorsement)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names]))
        .issuer_name(issuer.subject)
        .public_key(leaf_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.fromtimestamp(min(now, now + life) - 300, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(now + life, dt.UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common_names)
    certificate = builder.sign(member.key.private, None)
    key_pem = leaf_key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Leaf(key_pem, certificate.public_bytes(PEM) + issuer.public_bytes(PEM), now - 300, now + life)


def forgeries(liar: Member, victim: NodeId, now: int) -> dict[str, Leaf]:
    """Leaves by which ``liar``, a member in good standing, tries to pass for ``victim``."""
    own, name = node_name(liar.node), node_name(victim)
    return {
        "dns": forge_leaf(liar, now, [x509.DNSName(name)]),
        "dns beside its own": forge_leaf(liar, now, [x509.DNSName(own), x509.DNSName(name)]),
        "wildcard": forge_leaf(liar, now, [x509.DNSName("*.mycelia")]),
        "email": forge_leaf(liar, now, [x509.RFC822Name(name)]),
        "uri": forge_leaf(liar, now, [x509.UniformResourceIdentifier(name)]),
        "email beside its own": forge_leaf(liar, now, [x509.DNSName(own), x509.RFC822Name(name)]),
        "common name": forge_leaf(liar, now, [], [name]),
        "common name beside its own": forge_leaf(liar, now, [x509.DNSName(own)], [name]),
        "common name and email": forge_leaf(liar, now, [x509.RFC822Name("a@b.example")], [name]),
        "common name and registered id": forge_leaf(
            liar, now, [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))], [name]
        ),
        "two common names": forge_leaf(liar, now, [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))], [name, own]),
    }


def with_extension(lab: Lab, member: Member, oid: x509.ObjectIdentifier, value: bytes | None) -> bytes:
    """The endorsement of ``member``, signed by its authority again with another value of ``oid``, or without it."""
    held = x509.load_der_x509_certificate(member.endorsement)
    builder = x509.CertificateBuilder(held.issuer, held.subject, held.public_key(), held.serial_number)
    builder = builder.not_valid_before(held.not_valid_before_utc).not_valid_after(held.not_valid_after_utc)
    for extension in held.extensions:
        if extension.oid != oid:
            builder = builder.add_extension(extension.value, extension.critical)
    if value is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return builder.sign(lab.authority.key.private, None).public_bytes(DER)


def chain(leaf: Leaf) -> tuple[bytes, bytes]:
    """Leaf and intermediate of ``leaf`` in DER."""
    first, second = x509.load_pem_x509_certificates(leaf.chain_pem)
    return first.public_bytes(DER), second.public_bytes(DER)
