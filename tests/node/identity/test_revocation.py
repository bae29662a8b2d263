from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.messages import Record
from node.identity.keys import Key
from node.identity.revocation import RevocationSet, authorise, make_revocation, read_revocation
from protocol.errors import CodecError
from protocol.ids import NodeId
from tests.node.identity.lab import Lab

NOW = 1_800_000_000
LAB = Lab(NOW)
OTHER_ISSUER = LAB.member()
DOCUMENT = msgspec.structs.replace(LAB.document, issuers=(LAB.issuer.node, OTHER_ISSUER.node))
MEMBER = LAB.member()


def revocation(subject: NodeId, signer: bytes) -> Record:
    return make_revocation(subject, signer, NOW, NOW + 3600, "lost")


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


@given(st.binary(max_size=64))
def test_a_body_that_is_none_revokes_nobody(body: bytes) -> None:
    record = msgspec.structs.replace(revocation(MEMBER.node, LAB.owner.public_key), body=body)
    try:
        read_revocation(record)
    except CodecError:
        assert not authorise(record, DOCUMENT)
