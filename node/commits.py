"""Durability for the core: ``Store`` effects in, ``Stored`` events out, one commit for many.

Whatever is stored while a commit is under way goes out together with the next one, so the rate of fsyncs follows the
disk and a round costs two or three of them however many keys it touches. An artifact that a stored value names is
made durable first: a promise must not outlive the model that it speaks of.

When the disk fails nothing is reported as stored, so the protocol above stops promising by itself; what is to be
written is kept, one value per key, and tried again until there is room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from protocol.errors import StorageError
from protocol.events import Event, Stored

from .supervisor import Supervisor

log = logging.getLogger("mycelia.node")

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
"""Seconds between attempts to write to a disk that fails: doubles from the first to the longest."""


class Durable(Protocol):
    """The part of ``node.kvstore.KVStore`` that a commit needs."""

    async def write(self, batch: Mapping[str, bytes | None]) -> None:
        """All or nothing.  Raises StorageError."""
        ...


class Commits:
    """See the module."""

    def __init__(
        self,
        store: Durable,
        persist_named: Callable[[Sequence[bytes]], Awaitable[None]],
        post: Callable[[Event], None],
        supervisor: Supervisor,
    ) -> None:
        """``persist_named`` makes the artifacts durable that the values name."""
        self.count = 0
        self.failure = ""
        """Why the last attempt failed; empty when it did not."""
        self._store = store
        self._persist_named = persist_named
        self._post = post
        self._supervisor = supervisor
        self._batch: dict[str, bytes | None] = {}
        self._keys: list[str] = []
        self._running: asyncio.Task[Any] | None = None

    def store(self, key: str, value: bytes | None) -> None:
        """Make ``key`` durable; ``Stored(key)`` follows, once for each call, in order."""
        self._batch[key] = value
        self._keys.append(key)
        if self._running is None:
            self._running = self._supervisor.spawn(self._run(), "commit")

    async def flushed(self) -> None:
        """Wait until everything is durable."""
        if self._running is not None:
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        try:
            while self._keys:
                batch, keys = self._batch, self._keys
                self._batch, self._keys = {}, []
                await self._commit(batch)
                self.count += 1
                for key in keys:
                    self._post(Stored(key))
        finally:
            self._running = None

    async def _commit(self, batch: dict[str, bytes | None]) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._persist_named([value for value in batch.values() if value])
                await self._store.write(batch)
            except StorageError as error:
                if not self.failure:
                    log.error("%s; %s", error, error.remedy)  # noqa: TRY400 - the reason is the message
                self.failure = str(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self.failure = ""
                return
