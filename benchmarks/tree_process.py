"""One daemon of the tree benchmark: ``python -m benchmarks.tree_process`` reads what it is from standard input.

A real driver (``node.daemon``) around a core that knows one command: fetch this artifact from that peer.  On a line of
standard input it begins; when the artifact is whole and verified it says so, with the peak of its memory.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fl.notices import Leave, Start
from node.artifacts import ArtifactStore
from node.daemon import DaemonConfig, NodeDaemon
from node.identity.credentials import Credentials
from node.kvstore import KVStore
from protocol.effects import Effect, Emit, StartTransfer
from protocol.events import Command, Event, TransferDone, TransferFailed
from protocol.ids import NodeId
from protocol.messages import Contact


class Setup(msgspec.Struct):
    """Who to be."""

    id: bytes
    credentials: Credentials
    bytes_to_make: int
    """Size of the artifact that the root makes; 0 elsewhere."""


class Fetch(msgspec.Struct):
    """Where to get what."""

    parent: Contact
    blob: bytes
    size: int


class FetchCore:
    """The smallest core: it fetches, and says when it has."""

    def __init__(self) -> None:
        self.contacts: dict[NodeId, Contact] = {}

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        if isinstance(event, Command) and isinstance(event.request, Fetch):
            fetch = event.request
            self.contacts[fetch.parent.id] = fetch.parent
            return [StartTransfer(fetch.parent.id, fetch.blob, fetch.size)]
        if isinstance(event, TransferDone | TransferFailed):
            return [Emit(event)]
        assert not isinstance(event, Command) or isinstance(event.request, Start | Leave), event
        return []

    def contact(self, peer: NodeId) -> Contact | None:
        return self.contacts.get(peer)


def peak_kb() -> int:
    """Largest resident memory so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def say(**answer: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.flush()


async def lines() -> asyncio.StreamReader:
    """Standard input, without blocking the loop."""
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def serve(directory: Path) -> None:
    commands = await lines()
    setup = msgspec.json.decode(await commands.readline(), type=Setup)
    core = FetchCore()

    def make(me: Contact, restored: Mapping[str, bytes], wall_offset: int) -> FetchCore:
        return core

    daemon = NodeDaemon(
        setup.id, DaemonConfig(listen=("127.0.0.1:0",)), credentials=lambda: setup.credentials, make_core=make,
        state=KVStore(directory / "core.db"), artifacts=ArtifactStore(directory / "artifacts"),
    )  # fmt: skip
    notices = daemon.subscribe()
    await daemon.start()
    blob = b""
    if setup.bytes_to_make:
        # Not compressible, so that nobody can cheat; made in pieces, so that the peak is not ours.
        block = bytes(range(256)) * 4096
        content = b"".join(index.to_bytes(8, "big") + block[8:] for index in range(setup.bytes_to_make // len(block)))
        blob = await daemon.artifacts.put(content)
        del content
    say(contact=daemon.me, blob=blob, base_kb=peak_kb())
    while line := await commands.readline():
        daemon.command(msgspec.json.decode(line, type=Fetch))
        event = await anext(notices)
        say(ok=isinstance(event, TransferDone), at=time.monotonic(), peak_kb=peak_kb())
    await daemon.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mycelia-tree-") as scratch:
        asyncio.run(serve(Path(scratch)))
