"""Ed25519 keys: the identity of a node, of a fabric's owner, of a certificate authority.

A node *is* its Ed25519 key.  Its ring id is a hash of the public half (``protocol.ids``), its certificate an
endorsement of it, and the name that other libp2p implementations know it by is the *PeerId*: the public key in
libp2p's protobuf, under the identity multihash (code 0, because 36 bytes are below the limit of 42), in base58btc.

On disk a private key is PKCS#8 PEM, which every other tool can read, in a file that only its owner may read.
Signatures are pure Ed25519 (RFC 8032) over domain-tagged bytes (``protocol.signing``).
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.errors import ConfigError
from protocol.signing import tagged

from ..statedir import read_file, write_file

PUBLIC_KEY_BYTES = 32

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PEER_ID_HEAD = bytes.fromhex("002408011220")
"""Identity multihash of 36 bytes; protobuf field 1 (type) = 1 (Ed25519); field 2 (data) = 32 bytes."""


class Key:
    """One private key; a :class:`protocol.signing.Signer`."""

    __slots__ = ("_public", "nonce", "private")

    def __init__(self, private: Ed25519PrivateKey, nonce: bytes = b"") -> None:
        self.private, self.nonce = private, nonce
        self._public = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Key:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Key:
        """The key in the PEM file at ``path``.

        Raises ConfigError when the file is missing, readable by others, or holds anything but an Ed25519 key.
        """
        pem = read_file(path, secret=True)
        remedy = f"restore {path} from a backup; a node that lost its key has to join again as a new one"
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} holds no readable private key ({type(error).__name__})", remedy) from None
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigError(f"{path} holds a private key that is not Ed25519", remedy)
        return cls(private)

    def save(self, path: Path) -> None:
        """Write the key to ``path``, mode 0600, durably.  Raises StorageError."""
        pem = self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_file(path, pem)

    @property
    def public_key(self) -> bytes:
        """32 raw bytes."""
        return self._public

    def endorsed(self, nonce: bytes) -> Key:
        """The same key as that of a node whom an issuer gave ``nonce``."""
        return Key(self.private, nonce)

    def sign(self, domain: str, data: bytes) -> bytes:
        """64 bytes of signature over ``data`` for one purpose, ``domain``."""
        return self.private.sign(tagged(domain, data))


class Ed25519Verifier:
    """Checks anybody's signature; a :class:`protocol.signing.Verifier`, so total: malformed input is simply false."""

    __slots__ = ()

    def verify(self, public_key: bytes, domain: str, data: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, tagged(domain, data))
        except (InvalidSignature, ValueError):
            return False
        return True


def peer_id(public_key: bytes) -> str:
    """The libp2p PeerId (``12D3KooW…``) of a 32-byte Ed25519 public key."""
    raw = _PEER_ID_HEAD + public_key
    number = int.from_bytes(raw, "big")
    digits = ""
    while number:
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return _ALPHABET[0] * zeros + digits
