"""A seal proves by itself whose it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import ring_id
from protocol.signing import Seal, seal, sealed_by
from simulations.signing import KeyedHashSigner, KeyedHashVerifier

SIGNER, OTHER, VERIFIER = KeyedHashSigner(1, "a"), KeyedHashSigner(1, "b"), KeyedHashVerifier()
NODE = ring_id(3, SIGNER.public_key)


def test_a_seal_holds_for_one_node_purpose_and_content() -> None:
    made = seal(SIGNER, "vote", b"content")
    assert sealed_by(NODE, made, VERIFIER, "vote", b"content")
    assert not sealed_by(ring_id(3, OTHER.public_key), made, VERIFIER, "vote", b"content")
    assert not sealed_by(NODE, made, VERIFIER, "record", b"content")
    assert not sealed_by(NODE, made, VERIFIER, "vote", b"contents")
    assert not sealed_by(NODE, seal(OTHER, "vote", b"content"), VERIFIER, "vote", b"content")


def test_the_issuers_nonce_is_part_of_the_id() -> None:
    made = seal(SIGNER, "vote", b"content")
    ground = Seal(made.key, b"another nonce", made.signature)
    assert not sealed_by(NODE, ground, VERIFIER, "vote", b"content")
    assert sealed_by(ring_id(3, SIGNER.public_key, b"another nonce"), ground, VERIFIER, "vote", b"content")


@given(st.binary(max_size=64), st.binary(max_size=16), st.binary(max_size=64))
def test_whatever_a_seal_holds_it_is_true_or_false(key: bytes, nonce: bytes, signature: bytes) -> None:
    assert not sealed_by(NODE, Seal(key, nonce, signature), VERIFIER, "vote", b"content")
