"""The artifact store: everything large that this node holds, under the SHA-256 of its content.

    HEX         whole; mode 0400 says *sealed*: fsynced, trusted after a restart
    HEX.part    arriving, or whole but not yet known to be after a crash

A whole artifact becomes sealed when someone asks for durability (``persist``), because an fsync of a model costs more
than most rounds need: only what a durable key names must survive. After a start whatever is not sealed is a partial
again; the next transfer of it resumes at its length, and when all bytes turn out to be there and right, nothing is
transferred.

*Room.* Content is bounded by a quota, which is charged for bytes as they arrive: what is only announced displaces
nothing. To make room the least recently used artifact goes that is neither pinned nor in use; when that is not enough
the newcomer is refused in one sentence, at once if it could never fit, and what is pinned stays. Pins live in memory:
the core pins again, at its first step after a restart, what its restored state names.

File work happens in two threads, never on the loop.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import StorageError, UsageError
from protocol.ids import BLOB_BYTES, BlobId, blob_id

from .blobs import PARTIAL, WRONG, Blob, Reader, Writer
from .statedir import sync_directory, writing

MAX_ARTIFACTS = 16_384
"""Artifacts, however small."""
_SEALED = 0o400


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactConfig:
    """Disk that artifacts may take."""

    quota: int = 10 << 30
    """Bytes of content, partial and whole."""
    reserve: int = 64 << 20
    """Bytes that are left free on the file system, so that the durable state can still be written."""


class ArtifactStore:
    """See the module.  All methods are called on the loop."""

    def __init__(self, directory: Path, config: ArtifactConfig | None = None) -> None:
        self.directory = directory
        self.evicted = 0
        self._config = config or ArtifactConfig()
        self._io = ThreadPoolExecutor(2, thread_name_prefix="artifacts")
        # In order of use, the least recent first.
        self._blobs: dict[BlobId, Blob] = {}
        self._pins: dict[BlobId, dict[str, None]] = {}
        self._used = 0
        self._sealing: dict[BlobId, asyncio.Future[None]] = {}

    def open(self) -> None:
        """Take stock of the directory, creating it if needed.  Blocks.  Raises StorageError."""
        with writing(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = [(path, path.stat()) for path in self.directory.iterdir()]
            for path, stat in sorted(found, key=lambda item: item[1].st_mtime_ns):
                self._adopt(path, stat)

    def close(self) -> None:
        """End the threads; files stay."""
        self._io.shutdown(wait=True)

    # ---- what is here -----------------------------------------------------------------------------------------------

    def has(self, blob: BlobId) -> bool:
        """Whole and verified."""
        held = self._blobs.get(blob)
        return held is not None and held.complete

    def size(self, blob: BlobId) -> int:
        """Bytes of a whole artifact.  Raises UsageError."""
        return self._whole(blob).size

    def path(self, blob: BlobId) -> Path:
        """The file of a whole artifact, for reading only.  Raises UsageError."""
        return self._whole(blob).path

    def progress(self, blob: BlobId) -> int:
        """Bytes of ``blob`` that are here."""
        held = self._blobs.get(blob)
        return held.received if held is not None else 0

    def reader(self, blob: BlobId, offset: int = 0) -> Reader:
        """A cursor over an artifact that is here or arriving.  Raises UsageError when it is neither."""
        held = self._blobs.get(blob)
        if held is None or not (held.complete or held.writer):
            raise UsageError(f"no artifact {blob.hex()[:16]} here")
        self._touch(held)
        return Reader(held, offset)

    async def read(self, blob: BlobId) -> bytes:
        """All of a whole artifact.  Raises UsageError, StorageError."""
        self._whole(blob)
        reader = self.reader(blob)
        try:
            content = bytearray()
            while chunk := await reader.read():
                content += chunk
            return bytes(content)
        finally:
            reader.close()

    @contextmanager
    def mapped(self, blob: BlobId) -> Iterator[memoryview]:
        """A whole artifact as memory that the file backs: it costs no anonymous memory.  Raises UsageError."""
        with self.using(blob) as path, writing(path), path.open("rb") as file:
            # Never closed by hand: arrays may still look into it, and the last of them unmaps it.
            view = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        with self.using(blob):
            yield view

    @contextmanager
    def using(self, blob: BlobId) -> Iterator[Path]:
        """The file of a whole artifact, which stays as long as the context.  Raises UsageError."""
        held = self._whole(blob)
        held.acquire()
        self._touch(held)
        try:
            yield held.path
        finally:
            held.release()

    # ---- bringing content in ----------------------------------------------------------------------------------------

    async def put(self, content: bytes) -> BlobId:
        """Store ``content``, whole at once.  Raises StorageError."""
        loop = asyncio.get_running_loop()
        blob = await loop.run_in_executor(self._io, blob_id, content)
        while (held := self._blobs.get(blob)) is not None and held.writer:
            await held.news()
        if self.has(blob):
            return blob
        writer = await self.receive(blob, len(content))
        try:
            await writer.fill(content)
        finally:
            writer.close()
        return blob

    async def receive(self, blob: BlobId, size: int) -> Writer:
        """Start, or resume, bringing ``blob`` in.  Raises UsageError when that is under way, StorageError."""
        if not size > 0 or len(blob) != BLOB_BYTES:
            raise UsageError("an artifact has a 32-byte name and at least one byte")
        while (held := self._blobs.get(blob)) is not None and held.writer and held.writer.closing:
            await held.news()
        if held is not None and (held.complete or held.writer):
            raise UsageError(f"artifact {blob.hex()[:16]} is already here or on its way")
        if held is not None and held.size != size:
            held = self._resize(held, size)
        if held is None:
            held = Blob(blob, size, self.directory, self._io)
        self._check_room(held)
        self._blobs[blob] = held
        self._touch(held)
        if len(self._blobs) > MAX_ARTIFACTS and (idle := self._idle()):
            self._evict(idle[0])
        writer = Writer(held, charge=self._charge, on_wrong=self._wrong, on_nothing=self._nothing)
        try:
            await writer.resume()
        except BaseException:
            writer.close()
            raise
        return writer

    def discard(self, blob: BlobId, why: str) -> None:
        """Delete ``blob``, whole or not, whatever is pinned; its readers end with ``why``."""
        if (held := self._blobs.get(blob)) is not None:
            self._remove(held, why)

    # ---- keeping ----------------------------------------------------------------------------------------------------

    def pin(self, blob: BlobId, keep: bool = True, holder: str = "core") -> None:
        """Keep ``blob`` from the garbage collector, present or still to come, until every holder has let go of it."""
        if keep:
            self._pins.setdefault(blob, {})[holder] = None
        elif (holders := self._pins.get(blob)) is not None:
            holders.pop(holder, None)
            if not holders:
                del self._pins[blob]

    async def persist(self, blob: BlobId) -> None:
        """Make a whole artifact durable.  Raises UsageError, StorageError."""
        held = self._whole(blob)
        if held.sealed:
            return
        if (sealing := self._sealing.get(blob)) is None:
            sealing = asyncio.get_running_loop().run_in_executor(self._io, self._seal, held.path)
            self._sealing[blob] = sealing
            sealing.add_done_callback(lambda _: self._sealing.pop(blob))
        await asyncio.wait([sealing])
        sealing.result()
        held.seal()

    async def persist_named(self, values: Sequence[bytes]) -> None:
        """Make durable every artifact that one of ``values`` names: a durable key must not outlive what it points to.

        Raises StorageError.
        """
        loose = [blob for blob, held in self._blobs.items() if held.complete and not held.sealed]
        for blob in loose:
            if any(blob in value for value in values) and self.has(blob):
                await self.persist(blob)

    def metrics(self) -> dict[str, int]:
        whole = [held for held in self._blobs.values() if held.complete]
        return {
            "artifacts": len(whole),
            "artifacts_partial": len(self._blobs) - len(whole),
            "artifact_bytes": self._used,
            "artifacts_pinned": len(self._pins),
            "artifacts_evicted": self.evicted,
        }

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _whole(self, blob: BlobId) -> Blob:
        held = self._blobs.get(blob)
        if held is None or not held.complete:
            raise UsageError(f"no artifact {blob.hex()[:16]} here")
        return held

    def _touch(self, held: Blob) -> None:
        self._blobs[held.id] = self._blobs.pop(held.id)

    def _wrong(self, held: Blob) -> None:
        self._remove(held, WRONG)

    def _nothing(self, held: Blob) -> None:
        if self._blobs.get(held.id) is held:
            self._remove(held, "nothing of it came")

    def _evict(self, held: Blob) -> None:
        self.evicted += 1
        self._remove(held, "it made room for newer artifacts")

    def _remove(self, held: Blob, why: str) -> None:
        del self._blobs[held.id]
        self._used -= held.charged
        with writing(held.path):
            (held.path if held.complete else held.partial_path).unlink(missing_ok=True)
        held.drop(why)

    def _resize(self, held: Blob, size: int) -> Blob | None:
        """Of a partial found at the start only the length is known, and it may go on; otherwise someone lied."""
        if held.received or held.size > size:
            self._remove(held, "its size was wrong")
            return None
        return Blob(held.id, size, self.directory, self._io, charged=held.charged)

    def _charge(self, held: Blob, end: int) -> None:
        """The first ``end`` bytes of ``held`` are about to be on disk.  Raises StorageError."""
        need = end - held.charged
        if need > 0:
            self._make_room(need)
            held.charge(need)
            self._used += need

    def _check_room(self, held: Blob) -> None:
        """Refuse at once what could not fit if everything went that may go.  Raises StorageError."""
        need = held.size - held.charged
        idle = sum(other.charged for other in self._idle() if other is not held)
        if self._used + need - idle > self._config.quota:
            raise StorageError(
                f"no room for an artifact of {held.size} bytes: the quota is {self._config.quota}",
                "raise [storage] quota_gib, or unpin models that are no longer needed",
            )
        self._check_disk(need - idle)

    def _check_disk(self, need: int) -> None:
        free = shutil.disk_usage(self.directory).free
        if free < need + self._config.reserve:
            raise StorageError(f"no room for another {need} bytes: the disk has {free} bytes left", "free some space")

    def _idle(self) -> list[Blob]:
        return [held for held in self._blobs.values() if not held.users and held.id not in self._pins]

    def _make_room(self, need: int) -> None:
        over = self._used + need - self._config.quota
        if over > 0:
            for held in self._idle():
                over -= held.charged
                self._evict(held)
                if over <= 0:
                    break
            else:
                raise StorageError(
                    f"no room for another {need} bytes: the quota is {self._config.quota}",
                    "raise [storage] quota_gib, or unpin models that are no longer needed",
                )
        self._check_disk(need)

    def _adopt(self, path: Path, stat: os.stat_result) -> None:
        try:
            blob = bytes.fromhex(path.stem)
        except ValueError:
            return
        if len(blob) != BLOB_BYTES or path.suffix not in ("", PARTIAL) or not stat.st_size:
            return
        held = Blob(blob, stat.st_size, self.directory, self._io)
        if not path.suffix and stat.st_mode & 0o777 == _SEALED:
            held.found()
        elif not path.suffix:
            path.rename(held.partial_path)
        if blob not in self._blobs or held.complete:
            held.charge(held.size)
            self._used += held.size - (self._blobs[blob].charged if blob in self._blobs else 0)
            self._blobs[blob] = held

    @staticmethod
    def _seal(path: Path) -> None:
        with writing(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
                os.fchmod(descriptor, _SEALED)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_directory(path.parent)
