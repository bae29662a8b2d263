"""Artifact stores: what each host holds, and what the blobs contain.

Contents are kept once for the whole run, by blob id; a host's store is a table of names.  The simulated content may be
far smaller than the size it declares (an integer that stands for 10^8 bytes); transfers are charged the declared size.
"""

from __future__ import annotations

import hashlib
from typing import Any

from protocol.ids import BlobId

from .host import Host

UNPINNED_KEPT = 8
"""A store forgets the least recently used of more unpinned blobs than this: whoever needs one must pin it."""


class Artifacts:
    """The contents of all blobs, and every host's store."""

    def __init__(self) -> None:
        self._contents: dict[BlobId, tuple[int, Any]] = {}

    def create(self, host: Host, size: int, content: int | bytes) -> BlobId:
        """Put ``content``, which stands for ``size`` bytes, into the store of ``host``."""
        raw = content if isinstance(content, bytes) else repr((size, content)).encode()
        blob = hashlib.sha256(raw).digest()
        self._contents[blob] = (size, content)
        self.add(host, blob)
        return blob

    def content(self, blob: BlobId) -> Any:
        return self._contents[blob][1]

    def size(self, blob: BlobId) -> int | None:
        """Bytes that ``blob`` declares, None if nobody ever made it."""
        entry = self._contents.get(blob)
        return entry[0] if entry is not None else None

    def holds(self, host: Host, blob: BlobId) -> bool:
        return host.artifacts is not None and blob in host.artifacts

    def add(self, host: Host, blob: BlobId) -> None:
        """``blob`` is now whole and verified at ``host``; something unpinned may have to go."""
        if host.artifacts is None:
            host.artifacts = {}
        host.artifacts[blob] = host.artifacts.pop(blob, False)
        self._collect(host.artifacts)

    def pin(self, host: Host, blob: BlobId, keep: bool) -> None:
        """Only the driver's own garbage collection asks; pinning what is not here has no effect."""
        if self.holds(host, blob):
            assert host.artifacts is not None
            del host.artifacts[blob]
            host.artifacts[blob] = keep
            self._collect(host.artifacts)

    def restarted(self, host: Host) -> None:
        """Pins are the process's, not the disk's."""
        if host.artifacts is not None:
            host.artifacts = dict.fromkeys(host.artifacts, False)

    def _collect(self, store: dict[BlobId, bool]) -> None:
        unpinned = [blob for blob, pinned in store.items() if not pinned]
        for blob in unpinned[:-UNPINNED_KEPT]:
            del store[blob]
