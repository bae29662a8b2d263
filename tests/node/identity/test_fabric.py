"""The fabric document: signed by the owner, relayed whole, and only ever replaced by a later one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.identity.fabric import (
    MAX_DOCUMENT,
    FabricDocument,
    SignedDocument,
    decode_document,
    encode_document,
    fingerprint,
    is_issuer,
    is_news,
    open_document,
    sign_document,
)
from node.identity.keys import Ed25519Verifier, Key
from protocol.errors import AuthError, CodecError, LimitError, PeerError
from tests.node.identity.lab import Lab

NOW = 1_800_000_000
LAB = Lab(NOW)
VERIFIER = Ed25519Verifier()


def test_a_document_survives_the_wire() -> None:
    signed = decode_document(encode_document(LAB.signed))
    assert open_document(signed, VERIFIER) == LAB.document
    assert LAB.document.fingerprint == fingerprint(LAB.owner.public_key)
    assert is_issuer(LAB.document, LAB.issuer.node)
    assert not is_issuer(LAB.document, LAB.member().node)


def test_only_the_owner_signs() -> None:
    signed = LAB.signed
    forged = msgspec.structs.replace(signed, signature=Key.generate().sign("fabric", signed.body))
    with pytest.raises(AuthError, match="owner did not sign"):
        open_document(forged, VERIFIER)
    # A signature that the owner made for something else is worth nothing here.
    elsewhere = msgspec.structs.replace(signed, signature=LAB.owner.sign("record", signed.body))
    with pytest.raises(AuthError, match="owner did not sign"):
        open_document(elsewhere, VERIFIER)
    with pytest.raises(AssertionError):
        sign_document(LAB.document, Key.generate())


def test_a_changed_document_is_not_the_owners() -> None:
    richer = msgspec.structs.replace(LAB.document, issuers=(*LAB.document.issuers, LAB.member().node))
    signed = SignedDocument(msgspec.msgpack.encode(richer), LAB.signed.signature)
    with pytest.raises(AuthError):
        open_document(signed, VERIFIER)


def test_what_is_listed_as_authority_has_to_be_one() -> None:
    document = msgspec.structs.replace(LAB.document, authorities=(LAB.member().endorsement,))
    with pytest.raises(AuthError, match="rank"):
        open_document(sign_document(document, LAB.owner), VERIFIER)


def test_a_document_with_fields_of_a_later_version_is_read_and_relayed_whole() -> None:
    body = msgspec.msgpack.encode([*msgspec.to_builtins(LAB.document, builtin_types=(bytes,)), "a later field"])
    signed = SignedDocument(body, LAB.owner.sign("fabric", body))
    assert open_document(signed, VERIFIER) == LAB.document
    assert decode_document(encode_document(signed)) == signed


def test_the_later_serial_counts_and_ties_are_settled_alike_everywhere() -> None:
    one = LAB.document
    two = msgspec.structs.replace(one, serial=2)
    other = msgspec.structs.replace(one, name="other")
    assert is_news(one, two)
    assert not is_news(two, one)
    assert not is_news(one, one)
    assert is_news(one, other) != is_news(other, one)
    with pytest.raises(AuthError, match="another fabric"):
        is_news(one, Lab(NOW).document)


@given(st.binary(max_size=300))
def test_random_bytes_are_no_document(content: bytes) -> None:
    with pytest.raises(PeerError):
        open_document(decode_document(content), VERIFIER)


@given(st.binary(max_size=300))
def test_a_signed_body_that_is_no_document_is_refused(body: bytes) -> None:
    with pytest.raises(CodecError):
        open_document(SignedDocument(body, LAB.owner.sign("fabric", body)), VERIFIER)


def test_an_oversized_document_is_not_even_decoded() -> None:
    with pytest.raises(LimitError):
        decode_document(bytes(MAX_DOCUMENT + 1000))


def test_the_largest_document_fits() -> None:
    document = FabricDocument(
        "x" * 40,
        0xFFFF,
        LAB.owner.public_key,
        tuple(Lab(NOW, name="y" * 40).authority.certificate for _ in range(16)),
        tuple(LAB.member().node for _ in range(16)),
        serial=(1 << 63) - 1,
    )
    signed = sign_document(document, LAB.owner)
    assert open_document(decode_document(encode_document(signed)), VERIFIER) == document
