"""Whose code may run here: the operator's configuration, and what was added at run time.

Who may *have* applications in the fabric is another question, which the fabric's document answers for all nodes alike
(``identity.fabric``).  Whoever is on this list may have some at this node too: it then holds their descriptors and
passes them on, while nodes that know nothing of that owner do neither.

What is added is 32 bytes, an owner's public key or the hash of a bundle.  Nothing tells them apart, and nothing needs
to: neither can be made to look like the other.
"""

from __future__ import annotations

import string
from collections.abc import Mapping

from protocol.errors import ConfigError, UsageError

from .config import TrustSection
from .service import TrustedKey, TrustInfo

MAX_ADDED = 1024
KEY_BYTES = 32
_PREFIX = "trust/"


def parse_key(text: str, where: str) -> bytes:
    """32 bytes from 64 hex digits.  Raises ConfigError naming ``where`` they were written."""
    if len(text) != 2 * KEY_BYTES or not set(text) <= set(string.hexdigits):
        raise ConfigError(f"{where}: {text[:80]} is neither a key nor a hash", "both are 64 hex digits")
    return bytes.fromhex(text)


class TrustList:
    """Changes answer the batch that makes them durable (None deletes)."""

    def __init__(self, config: TrustSection, fabric_owner: bytes, restored: Mapping[str, bytes]) -> None:
        """``restored``: what the batches of earlier lives made durable.  Raises ConfigError for a malformed key."""
        self._approve = config.approve
        self._fabric_owner = fabric_owner if config.fabric_owner else b""
        self._listed = dict.fromkeys(parse_key(key, "[trust] owners") for key in config.owners)
        self._added = {bytes.fromhex(key.removeprefix(_PREFIX)): None for key in restored if key.startswith(_PREFIX)}

    def effective(self) -> tuple[frozenset[bytes], frozenset[bytes]]:
        """Trusted owners, and approved bundles."""
        added = frozenset(self._added)
        if self._approve == "hash":
            return frozenset(), added
        fabric = [self._fabric_owner] if self._fabric_owner else []
        return frozenset([*fabric, *self._listed]) | added, added

    def believes(self, key: bytes) -> bool:
        """Is the holder of ``key`` somebody whose names mean something here?  Approval by hash changes nothing."""
        return key in self._listed or key in self._added or key == self._fabric_owner

    def names(self, key: bytes) -> bool:
        """Does the operator want to hear of applications of the holder of ``key``?"""
        return key in self._listed or key in self._added

    def add(self, key: bytes) -> dict[str, bytes | None]:
        """Raises UsageError when too many were added."""
        if key not in self._added and len(self._added) >= MAX_ADDED:
            raise UsageError(f"{MAX_ADDED} keys were added already", "remove some with `mycelia trust rm`")
        self._added[key] = None
        return {_PREFIX + key.hex(): b""}

    def remove(self, key: bytes) -> dict[str, bytes | None]:
        """Raises UsageError when ``key`` was not added at run time."""
        if key in self._added:
            del self._added[key]
            return {_PREFIX + key.hex(): None}
        if key == self._fabric_owner:
            raise UsageError(
                "that is the owner of the fabric", "set [trust] fabric_owner = false and restart the daemon"
            )
        if key in self._listed:
            raise UsageError("that key is in the configuration", "take it out of [trust] owners and restart the daemon")
        raise UsageError("that key is not trusted anyway", "see `mycelia trust ls`")

    def info(self) -> TrustInfo:
        """For people."""
        keys = [TrustedKey(key=self._fabric_owner.hex(), why="fabric")] if self._fabric_owner else []
        keys += [TrustedKey(key=key.hex(), why="config") for key in self._listed]
        keys += [TrustedKey(key=key.hex(), why="added") for key in self._added]
        return TrustInfo(keys=keys, approve=self._approve)
