"""Revocation: who may, that it is final, and how it travels."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.config import RingConfig
from dht.messages import Record
from dht.records import RecordTable, verify
from node.identity.keys import Ed25519Verifier, Key
from node.identity.revocation import LIFE, REFRESH, RevocationSet, authorise, read_revocation, revoke
from protocol.errors import CodecError
from protocol.ids import NodeId
from tests.node.identity.lab import Lab

NOW = 1_800_000_000
LAB = Lab(NOW)
OTHER_ISSUER = LAB.member()
DOCUMENT = msgspec.structs.replace(LAB.document, issuers=(LAB.issuer.node, OTHER_ISSUER.node))
MEMBER = LAB.member()


def revocation(subject: NodeId, signer: bytes) -> Record:
    """As if ``signer`` had signed it; that it did is for the ring to check."""
    nonce = next((m.key.nonce for m in (LAB.issuer, OTHER_ISSUER, MEMBER) if m.key.public_key == signer), b"")
    return msgspec.structs.replace(revoke(LAB.owner, subject, NOW, "lost"), signer=signer, nonce=nonce)


@pytest.mark.parametrize(
    ("subject", "signer", "allowed"),
    [
        (MEMBER.node, LAB.owner.public_key, True),
        (LAB.issuer.node, LAB.owner.public_key, True),
        (MEMBER.node, LAB.issuer.key.public_key, True),
        (OTHER_ISSUER.node, LAB.issuer.key.public_key, False),
        (LAB.issuer.node, LAB.issuer.key.public_key, False),
        (MEMBER.node, MEMBER.key.public_key, False),
        (LAB.issuer.node, MEMBER.key.public_key, False),
        (MEMBER.node, Key.generate().public_key, False),
        (MEMBER.node, b"", False),
        (MEMBER.node, LAB.issuer.key.public_key + b"x", False),
    ],
)
def test_who_may_revoke_whom(subject: NodeId, signer: bytes, allowed: bool) -> None:
    record = revocation(subject, signer)
    assert authorise(record, DOCUMENT) is allowed
    assert RevocationSet().add(record, DOCUMENT) is allowed


def test_an_issuer_is_known_by_its_key_and_the_nonce_of_its_endorsement() -> None:
    record = revocation(MEMBER.node, LAB.issuer.key.public_key)
    assert authorise(record, DOCUMENT)
    for nonce in (b"", MEMBER.key.nonce):
        assert not authorise(msgspec.structs.replace(record, nonce=nonce), DOCUMENT)


def test_a_retired_issuer_revokes_nobody() -> None:
    record = revocation(MEMBER.node, OTHER_ISSUER.key.public_key)
    assert authorise(record, DOCUMENT)
    assert not authorise(record, LAB.document)


def test_a_record_of_another_kind_is_no_revocation() -> None:
    record = msgspec.structs.replace(revocation(MEMBER.node, LAB.owner.public_key), kind=2)
    assert not authorise(record, DOCUMENT)


def test_revoked_is_revoked_once_and_for_good() -> None:
    revoked = RevocationSet()
    record = revocation(MEMBER.node, LAB.owner.public_key)
    assert MEMBER.node not in revoked
    assert revoked.add(record, DOCUMENT)
    assert not revoked.add(record, DOCUMENT)
    assert MEMBER.node in revoked
    assert list(revoked) == [MEMBER.node]
    assert len(revoked) == 1


def test_the_reason_travels() -> None:
    body = read_revocation(revocation(MEMBER.node, LAB.owner.public_key))
    assert (body.at, body.reason) == (NOW, "lost")


def test_the_ring_takes_the_record() -> None:
    record = revoke(LAB.issuer.key, MEMBER.node, NOW, "x" * 1000)
    assert verify(record, Ed25519Verifier())
    table = RecordTable(RingConfig(), Ed25519Verifier())
    assert table.put(record, NOW - 60, lambda record: authorise(record, DOCUMENT)) is True


def test_what_is_about_to_expire_is_repeated_by_issuers() -> None:
    revoked = RevocationSet()
    revoked.add(revoke(LAB.owner, MEMBER.node, NOW), DOCUMENT)
    assert revoked.expiring(NOW) == ()
    late = NOW + LIFE - REFRESH + 1
    assert revoked.expiring(late) == (MEMBER.node,)
    assert not revoked.add(revoke(LAB.issuer.key, MEMBER.node, late), DOCUMENT)
    assert revoked.expiring(late) == ()
    assert MEMBER.node in revoked


@given(st.binary(max_size=64))
def test_a_body_that_is_none_revokes_nobody(body: bytes) -> None:
    record = msgspec.structs.replace(revocation(MEMBER.node, LAB.owner.public_key), body=body)
    try:
        read_revocation(record)
    except CodecError:
        assert not authorise(record, DOCUMENT)
