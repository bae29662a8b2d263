"""Keys: signatures bound to their purpose, and files that nobody else can read."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from node.identity.keys import Ed25519Verifier, Key, peer_id
from protocol.errors import ConfigError
from protocol.signing import tagged


def test_a_signature_is_for_one_domain_one_message_one_key() -> None:
    key, verifier = Key.generate(), Ed25519Verifier()
    signature = key.sign("record", b"content")
    assert verifier.verify(key.public_key, "record", b"content", signature)
    assert not verifier.verify(key.public_key, "head", b"content", signature)
    assert not verifier.verify(key.public_key, "record", b"kontent", signature)
    assert not verifier.verify(Key.generate().public_key, "record", b"content", signature)


def test_it_is_plain_ed25519_over_the_tagged_bytes() -> None:
    # RFC 8032, section 7.1, test 1: the key; any other implementation can check what we sign.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Key(Ed25519PrivateKey.from_private_bytes(seed))
    assert key.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    key.private.public_key().verify(key.sign("record", b"x"), tagged("record", b"x"))


@given(st.binary(max_size=80), st.text(max_size=10), st.binary(max_size=40), st.binary(max_size=80))
def test_verifying_is_total(public_key: bytes, domain: str, data: bytes, signature: bytes) -> None:
    assert not Ed25519Verifier().verify(public_key, domain, data, signature)


def test_a_key_survives_its_file(tmp_path: Path) -> None:
    key, path = Key.generate(), tmp_path / "node.key"
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Key.load(path).public_key == key.public_key


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    Key.generate().save(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read") as caught:
        Key.load(path)
    assert "chmod 600" in caught.value.remedy


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"node\.key") as caught:
        Key.load(path)
    assert caught.value.remedy


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(pem)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not Ed25519"):
        Key.load(path)


def test_a_missing_key_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing") as caught:
        Key.load(tmp_path / "node.key")
    assert "join" in caught.value.remedy


def test_peer_ids_are_libp2ps() -> None:
    key = Key.generate()
    name = peer_id(key.public_key)
    assert name.startswith("12D3KooW")
    assert len(name) == 52
    number = 0
    for digit in name:
        number = number * 58 + "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz".index(digit)
    # The leading 1 is the leading zero byte of the identity multihash.
    assert name[0] == "1"
    assert number.to_bytes(38, "big") == bytes.fromhex("002408011220") + key.public_key
