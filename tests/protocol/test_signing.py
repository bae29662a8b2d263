"""A seal proves by itself whose it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import ring_id
from protocol.signing import Seal, Sealer
from simulations.signing import KeyedHashSigner, KeyedHashVerifier

SIGNER, OTHER, VERIFIER = KeyedHashSigner(1, "a"), KeyedHashSigner(1, "b"), KeyedHashVerifier()
MINE, OTHERS = Sealer(SIGNER, VERIFIER), Sealer(OTHER, VERIFIER)
NODE = ring_id(3, SIGNER.public_key)


def test_a_seal_holds_for_one_node_purpose_and_content() -> None:
    made = MINE.seal("vote", b"content")
    assert OTHERS.check(NODE, made, "vote", b"content")
    assert not OTHERS.check(ring_id(3, OTHER.public_key), made, "vote", b"content")
    assert not OTHERS.check(NODE, made, "record", b"content")
    assert not OTHERS.check(NODE, made, "vote", b"contents")
    assert not OTHERS.check(NODE, OTHERS.seal("vote", b"content"), "vote", b"content")


def test_the_issuers_nonce_is_part_of_the_id() -> None:
    made = MINE.seal("vote", b"content")
    ground = Seal(made.key, b"another nonce", made.signature)
    assert not OTHERS.check(NODE, ground, "vote", b"content")
    assert OTHERS.check(ring_id(3, SIGNER.public_key, b"another nonce"), ground, "vote", b"content")


@given(st.binary(max_size=64), st.binary(max_size=16), st.binary(max_size=64))
def test_whatever_a_seal_holds_it_is_true_or_false(key: bytes, nonce: bytes, signature: bytes) -> None:
    assert not OTHERS.check(NODE, Seal(key, nonce, signature), "vote", b"content")
