"""Artifact stores: what each host holds, and what the blobs contain.

Contents are kept once for the whole run, by blob id; a host's store is a table of names.  The simulated content may be
far smaller than the size it declares (an integer that stands for 10^8 bytes); transfers are charged the declared size.
"""

from __future__ import annotations

import hashlib
from typing import Any

from protocol.ids import BlobId

from .host import Host

DEFAULT_QUOTA = 10 << 30
"""Bytes that a store may hold, as in the daemon."""


class Artifacts:
    """The contents of all blobs, and every host's store."""

    def __init__(self, quota: int = DEFAULT_QUOTA) -> None:
        self._quota = quota
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

    def holds(self, host: Host, blob: BlobId) -> bool:
        return host.artifacts is not None and blob in host.artifacts

    def add(self, host: Host, blob: BlobId) -> None:
        """``blob`` is now whole and verified at ``host``; something unpinned may have to go."""
        if host.artifacts is None:
            host.artifacts = {}
        host.artifacts.pop(blob, None)
        host.artifacts[blob] = self._contents[blob][0]
        self._collect(host)

    def pin(self, host: Host, blob: BlobId, keep: bool) -> None:
        """Keep ``blob``, present or still to come, from the garbage collector; or do not."""
        if host.pins is None:
            host.pins = {}
        if keep:
            host.pins[blob] = None
        else:
            host.pins.pop(blob, None)

    def restarted(self, host: Host) -> None:
        """Pins are the process's, not the disk's."""
        host.pins = None

    def _collect(self, host: Host) -> None:
        """Least recently added first, until the store is within its quota or all that is left is pinned."""
        store, pins = host.artifacts or {}, host.pins or {}
        over = sum(store.values()) - self._quota
        for blob in [blob for blob in store if blob not in pins][:-1]:
            if over <= 0:
                break
            over -= store.pop(blob)
