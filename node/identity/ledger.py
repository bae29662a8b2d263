"""The issuer's memory of its invitations: which secrets are out, and who used which.

Only hashes of secrets are kept; a stolen ledger admits nobody.  (A plain hash will do: a secret has 128 random bits.)
A secret goes from *out* to *used by a key* before the answer leaves, durably and under one lock, so of two joiners with
one secret the second is refused whatever crashes in between; and because the entry names the key and holds the
certificate, the same joiner that did not hear the answer asks again and hears it again.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import hmac
import secrets
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Protocol

import msgspec

from protocol.errors import AuthError, ConfigError, UsageError
from protocol.wire import UNREADABLE

from .fabric import Certificate
from .invite import SECRET_BYTES

KEEP = 7 * 86400
"""Seconds that an entry outlives its invitation: a joiner may repeat its request, and "expired" is a better answer than
"unknown"."""
MAX_ENTRIES = 4096

_PREFIX = "invitation."


class Reason(enum.IntEnum):
    """Why a joiner was refused.  Numbers travel; never reuse one."""

    MALFORMED = 1
    UNKNOWN = 2
    EXPIRED = 3
    USED = 4
    REVOKED = 5
    UNPROVEN = 6
    UNAVAILABLE = 7


REMEDIES = {
    Reason.MALFORMED: ("the request was malformed", "use the same version of mycelia on both machines"),
    Reason.UNKNOWN: ("the issuer does not know this invitation", "ask the issuer for a new one"),
    Reason.EXPIRED: ("this invitation has expired", "ask the issuer for a new one"),
    Reason.USED: ("this invitation was already used by another node", "ask for one invitation per node"),
    Reason.REVOKED: ("this node's key was revoked", "join with a new state directory, which makes a new key"),
    Reason.UNPROVEN: ("the request does not prove possession of its key", "use the same version of mycelia on both"),
    Reason.UNAVAILABLE: ("the issuer cannot issue certificates at the moment", "try again; see the issuer's log"),
}


class RefusedError(AuthError):
    """An issuer will not endorse this joiner."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(*REMEDIES[reason])
        self.reason = reason


class Store(Protocol):
    """Durable keys; ``node.kvstore.KVStore``."""

    async def write(self, batch: Mapping[str, bytes | None]) -> None: ...


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One invitation."""

    expires: int
    """Unix time in seconds."""
    holder: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """Public key of who used it; empty while it is out."""
    endorsement: Certificate = b""
    """The certificate (DER) that the holder was given."""


class Ledger:
    """All invitations of one issuer."""

    def __init__(self, store: Store, restored: Mapping[str, bytes]) -> None:
        """``restored`` is what ``store`` held at start-up.  Raises ConfigError when an entry is corrupt."""
        self._store = store
        self._lock = asyncio.Lock()
        self._tasks: dict[asyncio.Task[bytes], None] = {}
        self._entries: dict[str, Entry] = {}
        for key, value in restored.items():
            if key.startswith(_PREFIX):
                try:
                    self._entries[key] = msgspec.msgpack.decode(value, type=Entry)
                except UNREADABLE:
                    raise ConfigError(
                        f"the ledger of invitations is corrupt at {key}",
                        "move issuer.db aside: the invitations that are out become void, members stay members",
                    ) from None

    async def invite(self, expires: int, now: int) -> bytes:
        """A new secret, known to be out until ``expires`` (Unix seconds), durable before it is returned.

        Raises UsageError when too many are out, StorageError.
        """
        return await self._uncancelled(self._invite(expires, now))

    async def redeem(self, secret: bytes, public_key: bytes, now: int, endorse: Callable[[], bytes]) -> bytes:
        """The endorsement (DER) that ``secret`` buys the holder of ``public_key``: from ``endorse`` the first time, the
        same one again ever after.

        Raises RefusedError, StorageError; in both cases the secret is as good as before.
        """
        return await self._uncancelled(self._redeem(secret, public_key, now, endorse))

    async def _invite(self, expires: int, now: int) -> bytes:
        async with self._lock:
            old: dict[str, bytes | None] = {
                key: None for key, entry in self._entries.items() if entry.expires + KEEP < now
            }
            if len(self._entries) - len(old) >= MAX_ENTRIES:
                raise UsageError(f"{MAX_ENTRIES} invitations are out", "wait until some have expired")
            secret = secrets.token_bytes(SECRET_BYTES)
            entry = Entry(expires)
            await self._store.write({**old, _key(secret): msgspec.msgpack.encode(entry)})
            for key in old:
                del self._entries[key]
            self._entries[_key(secret)] = entry
            return secret

    async def _redeem(self, secret: bytes, public_key: bytes, now: int, endorse: Callable[[], bytes]) -> bytes:
        async with self._lock:
            key = _key(secret)
            entry = self._entries.get(key)
            if entry is None:
                raise RefusedError(Reason.UNKNOWN)
            if entry.holder:
                if not hmac.compare_digest(entry.holder, public_key):
                    raise RefusedError(Reason.USED)
                return entry.endorsement
            if now >= entry.expires:
                raise RefusedError(Reason.EXPIRED)
            used = Entry(entry.expires, public_key, endorse())
            await self._store.write({key: msgspec.msgpack.encode(used)})
            self._entries[key] = used
            return used.endorsement

    async def _uncancelled(self, work: Coroutine[Any, Any, bytes]) -> bytes:
        """Run ``work`` to its end even if the caller is cancelled: a write that may be durable must be known to be."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[bytes]) -> None:
        del self._tasks[task]
        if not task.cancelled():
            # Marks the outcome as seen: nobody may be waiting for it any more.
            task.exception()


def _key(secret: bytes) -> str:
    # The look-up is by hash, so what its timing tells is about a hash that the asker cannot choose.
    return _PREFIX + hashlib.sha256(b"mycelia invitation\0" + secret).hexdigest()
