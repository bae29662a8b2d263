"""The engine's signatures fail where real ones fail."""

from __future__ import annotations

from simulations.signing import KeyedHashSigner, KeyedHashVerifier


def test_signatures_hold_for_one_key_domain_and_content() -> None:
    signer, other, verifier = KeyedHashSigner(1, "a"), KeyedHashSigner(1, "b"), KeyedHashVerifier()
    signature = signer.sign("record", b"content")
    assert verifier.verify(signer.public_key, "record", b"content", signature)
    assert not verifier.verify(other.public_key, "record", b"content", signature)
    assert not verifier.verify(signer.public_key, "vote", b"content", signature)
    assert not verifier.verify(signer.public_key, "record", b"contents", signature)
    assert not verifier.verify(signer.public_key, "record", b"content", b"")
    assert not verifier.verify(b"", "record", b"content", signature)


def test_keys_come_from_seed_and_name() -> None:
    assert KeyedHashSigner(1, "a").public_key == KeyedHashSigner(1, "a").public_key
    assert len({KeyedHashSigner(seed, name).public_key for seed in (1, 2) for name in ("a", "b")}) == 4
