"""One artifact on disk: a file that grows, the one who writes it, and everyone who reads it meanwhile.

*Cut-through.* A reader follows with a cursor of its own and is woken by each new chunk, so that a node passes an
artifact on while it still receives it and a slow child delays nobody. The newest chunks are kept in memory as the
very objects that arrived, so a child that keeps up costs no read and no copy.

*Nothing unverified is ever whole.*  Until the digest of the content is verified, readers do not get its last chunk.  So
whoever completes an artifact that does not hash to its name got it from a liar, and not from an honest node that
was passing a lie on.

*Progress is the length of the file.* Writing only appends, in order, and the hash advances with it; a writer that
stops leaves what it has, and the next one goes on there.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from protocol.errors import Code, LimitError, PeerError, TransportError, UsageError
from protocol.ids import BlobId

from .statedir import writing

MIN_CHUNK = 64 * 1024
MAX_CHUNK = 1 << 20
PARTIAL = ".part"
WRONG = "its content did not match its name"
"""Why readers of a lie end."""
_RECENT = 4
"""Chunks of an artifact kept in memory for readers close behind its writer: 4 MiB at most."""


class DigestError(PeerError):
    """Content that does not hash to its name."""

    code = Code.BAD_DIGEST


class WorthlessError(TransportError):
    """What was received so far cannot be kept: its source, or its source's source, lied."""


def chunk_size(size: int) -> int:
    """Bytes per chunk of an artifact of ``size`` bytes: about 64 chunks, within 64 KiB and 1 MiB."""
    return min(max(size // 64, MIN_CHUNK), MAX_CHUNK)


class Blob:
    """State of one artifact.  Belongs to the store; all but the functions for threads is called on the loop."""

    __slots__ = (
        "_fd", "_recent", "_waiting", "charged", "chunk", "complete", "gone", "hasher", "id", "io", "path", "received",
        "sealed", "size", "users", "writer", "written",
    )  # fmt: skip

    def __init__(self, blob: BlobId, size: int, directory: Path, io: Executor, *, charged: int = 0) -> None:
        self.id = blob
        self.size = size
        self.path = directory / blob.hex()
        self.io = io
        self.chunk = chunk_size(size)
        self.complete = False
        self.sealed = False
        """Complete, and known to survive a loss of power."""
        self.gone = ""
        """Why the artifact is no longer here; readers end with this."""
        self.users = 0
        """Readers, mappings and the writer; the garbage collector leaves a blob in use alone."""
        self.writer: Writer | None = None
        self.hasher = hashlib.sha256()
        self.received = 0
        self.written = 0
        self.charged = charged
        """Bytes that count against the store's quota: those that are on disk, or about to be."""
        self._fd = -1
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=_RECENT)
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def partial_path(self) -> Path:
        return self.path.with_suffix(PARTIAL)

    @property
    def _last_chunk(self) -> int:
        return (self.size - 1) // self.chunk * self.chunk

    # ---- what the store makes of it -------------------------------------------------------------------------------

    def charge(self, need: int) -> None:
        """``need`` more bytes count against the quota."""
        self.charged += need

    def found(self) -> None:
        """An earlier life left it, whole and durable."""
        self.complete = self.sealed = True
        self.received = self.written = self.size

    def seal(self) -> None:
        """It survives a loss of power."""
        self.sealed = True

    # ---- users hold the descriptor open -----------------------------------------------------------------------------

    def acquire(self) -> int:
        """The descriptor, open until as many releases.  Raises StorageError."""
        if self._fd < 0:
            path = self.path if self.complete else self.partial_path
            with writing(path):
                flags = os.O_RDONLY if self.complete else os.O_RDWR | os.O_CREAT
                self._fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        self.users += 1
        return self._fd

    def release(self) -> None:
        self.users -= 1
        if not self.users:
            os.close(self._fd)
            self._fd = -1
            self._recent.clear()

    # ---- content ----------------------------------------------------------------------------------------------------

    def remember(self, offset: int, chunk: bytes) -> None:
        """``chunk`` arrived: readers may have it before it is written."""
        self._recent.append((offset, chunk))
        self.received = offset + len(chunk)
        self.wake()

    def share(self, offset: int, chunk: bytes) -> None:
        """``chunk`` was read: other readers need not."""
        if self.recent(offset) is None:
            self._recent.append((offset, chunk))

    def recent(self, offset: int) -> bytes | None:
        for start, chunk in self._recent:
            if start == offset:
                return chunk
        return None

    def readable(self, offset: int) -> int:
        """Bytes from ``offset`` that a reader may have from the file now."""
        end = self.size if self.complete else min(self.written, self._last_chunk)
        return max(0, end - offset)

    def withheld(self, offset: int) -> bool:
        """Whether ``offset`` lies in the last chunk while the digest is not verified."""
        return not self.complete and offset >= self._last_chunk

    def wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def news(self) -> None:
        """Wait for a chunk, for completion, or for the end."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def drop(self, why: str) -> None:
        """Readers end; the file is the store's to delete."""
        self.gone = why
        self.wake()

    # ---- in threads -------------------------------------------------------------------------------------------------

    def append(self, fd: int, offset: int, chunk: bytes) -> None:
        """Write ``chunk`` and advance the digest."""
        self.overwrite(fd, offset, chunk)
        self.hasher.update(chunk)

    def overwrite(self, fd: int, offset: int, content: bytes) -> None:
        """Write ``content``, whatever the system takes at once."""
        view = memoryview(content)
        with writing(self.partial_path):
            while view:
                done = os.pwrite(fd, view, offset)
                view, offset = view[done:], offset + done

    def rehash(self, fd: int, length: int) -> None:
        """Begin anew: the digest of the first ``length`` bytes, and nothing behind them."""
        self.hasher = hashlib.sha256()
        with writing(self.partial_path):
            os.ftruncate(fd, length)
            for offset in range(0, length, MAX_CHUNK):
                self.hasher.update(os.pread(fd, min(MAX_CHUNK, length - offset), offset))


class Writer:
    """Appends to one blob.  At most one exists per blob; ``close`` it whatever happens, what was written stays."""

    def __init__(
        self,
        blob: Blob,
        *,
        charge: Callable[[Blob, int], None],
        on_wrong: Callable[[Blob], None],
        on_nothing: Callable[[Blob], None],
    ) -> None:
        """``charge`` makes room for the blob's first so many bytes, or raises StorageError.  The others delete a blob:
        one that turned out to be something else, and one of which nothing came.
        """
        self._blob = blob
        self._charge = charge
        self._on_wrong = on_wrong
        self._on_nothing = on_nothing
        self.closing = False
        """Closed, but a thread is still writing the last chunk."""
        self._fd = blob.acquire()
        blob.writer = self
        self._pending: asyncio.Future[None] | None = None

    @property
    def progress(self) -> int:
        """Bytes that were received; where the next chunk belongs."""
        return self._blob.received

    async def resume(self) -> None:
        """Take up what an earlier process left on disk.  Raises StorageError."""
        blob = self._blob
        if blob.received:
            return
        found = min(os.fstat(self._fd).st_size, blob.size)
        if found < blob.size:
            found -= found % blob.chunk
        if found:
            await asyncio.get_running_loop().run_in_executor(blob.io, blob.rehash, self._fd, found)
            blob.received = blob.written = found
            blob.wake()

    async def write(self, chunk: bytes) -> None:
        """Append ``chunk``; returns when the one *before* it is on file, so that receiving and writing overlap.

        Raises LimitError when it goes beyond the artifact's size, StorageError when the disk fails.
        """
        blob = self._blob
        if len(chunk) > min(MAX_CHUNK, blob.size - blob.received):
            raise LimitError(f"more than the {blob.size} bytes of the artifact")
        await self.settle()
        self._charge(blob, blob.received + len(chunk))
        offset = blob.received
        self._pending = asyncio.get_running_loop().run_in_executor(blob.io, blob.append, self._fd, offset, chunk)
        blob.remember(offset, chunk)

    async def settle(self) -> None:
        """Wait until all that was received is on file.  Raises StorageError; then ``progress`` is what is."""
        pending = self._pending
        if pending is None:
            return
        # Not awaited directly: our cancellation must not hide that a thread is still writing.
        await asyncio.wait([pending])
        if self._pending is pending:
            self._settled(pending)
        pending.result()

    def _settled(self, pending: asyncio.Future[None]) -> None:
        self._pending = None
        blob = self._blob
        if pending.exception() is None:
            blob.written = blob.received
            blob.wake()
        else:
            blob.received = blob.written

    async def finish(self) -> None:
        """Verify the digest and make the artifact whole.

        Raises UsageError when bytes are missing, DigestError when it is something else (then nothing of it is kept).
        """
        await self.settle()
        blob = self._blob
        if blob.written != blob.size:
            raise UsageError(f"only {blob.written} of {blob.size} bytes are here")
        if blob.hasher.digest() != blob.id:
            self._on_wrong(blob)
            raise DigestError(f"content does not hash to {blob.id.hex()[:16]}")
        self._complete()

    async def fill(self, content: bytes) -> None:
        """All of it at once, by someone who has just computed its name from it.  Raises StorageError."""
        blob = self._blob
        assert len(content) == blob.size
        self._charge(blob, blob.size)
        loop = asyncio.get_running_loop()
        self._pending = loop.run_in_executor(blob.io, blob.overwrite, self._fd, 0, content)
        blob.received = blob.size
        await self.settle()
        self._complete()

    def _complete(self) -> None:
        blob = self._blob
        with writing(blob.path):
            blob.partial_path.rename(blob.path)
        blob.complete = True
        blob.wake()

    def close(self) -> None:
        """Give the blob back; unfinished content waits for the next writer."""
        if self._blob.writer is not self or self.closing:
            return
        self.closing = True
        if self._pending is None:
            self._release()
        else:
            self._pending.add_done_callback(self._close_after)

    def _close_after(self, pending: asyncio.Future[None]) -> None:
        if self._pending is pending:
            self._settled(pending)
        self._release()

    def _release(self) -> None:
        blob = self._blob
        blob.writer = None
        blob.release()
        blob.wake()
        if not blob.charged and not blob.gone:
            self._on_nothing(blob)


class Reader:
    """A cursor over one blob, complete or still arriving.  ``close`` it."""

    def __init__(self, blob: Blob, offset: int) -> None:
        if not 0 <= offset <= blob.size:
            raise UsageError(f"offset {offset} of {blob.size} bytes")
        self._blob = blob
        self._fd = blob.acquire()
        self._closed = False
        self.offset = offset
        self.size = blob.size

    async def read(self) -> bytes:
        """The next chunk, as soon as it is here; empty at the end.

        Raises TransportError when the artifact was given up (WorthlessError when it was a lie), StorageError when the
        disk fails.
        """
        blob = self._blob
        while self.offset < blob.size:
            if blob.gone:
                raise (WorthlessError if blob.gone == WRONG else TransportError)(blob.gone)
            chunk = await self._available()
            if chunk:
                self.offset += len(chunk)
                return chunk
            await blob.news()
        return b""

    async def _available(self) -> bytes | None:
        blob, offset = self._blob, self.offset
        if not blob.withheld(offset) and (chunk := blob.recent(offset)) is not None:
            return chunk
        length = min(blob.readable(offset), blob.chunk - offset % blob.chunk)
        if not length:
            return None
        chunk = await asyncio.get_running_loop().run_in_executor(blob.io, self._pread, length, offset)
        if blob.complete:
            # The other children are likely to be at the same place.
            blob.share(offset, chunk)
        return chunk

    def _pread(self, length: int, offset: int) -> bytes:
        with writing(self._blob.path):
            return os.pread(self._fd, length, offset)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._blob.release()
