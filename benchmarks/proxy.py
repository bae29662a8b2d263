"""TCP proxies that can make a process deaf and dumb: its connections stay open and carry nothing more, whoever dialled
them, as when a firewall begins to drop silently.

A connection belongs to the process that dialled it (its end of the socket is looked up in /proc, so this is for Linux)
and to the process behind the proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

CHUNK = 1 << 16


def dialled_by(port: int, pids: Iterable[int]) -> int:
    """Which of ``pids`` holds the socket with local ``port``; 0 when none does."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next((row[9] for row in rows if int(row[1].rpartition(":")[2], 16) == port), "")
    wanted = f"socket:[{inode}]"
    for pid in pids:
        with contextlib.suppress(OSError):
            if any(str(fd.readlink()) == wanted for fd in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
    return 0


class Wires:
    """All proxies of one fabric.  ``pids``: process behind each, by index; kept up to date by the caller."""

    def __init__(self) -> None:
        self.pids: dict[int, int] = {}
        self._deaf = -1
        self._changed = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._pipes: set[asyncio.Task[None]] = set()

    async def add(self, index: int, port: int, target: int) -> None:
        """Listen on ``port`` for process ``index``, which listens on ``target``."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._accept(index, target, reader, writer)

        self._servers.append(await asyncio.start_server(accept, "127.0.0.1", port))

    def deafen(self, index: int) -> None:
        """From now on no byte passes to or from process ``index``, and nobody is told.  -1: nobody is deaf."""
        self._deaf = index
        self._changed.set()
        self._changed = asyncio.Event()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _accept(
        self, index: int, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        dialler = dialled_by(writer.get_extra_info("peername")[1], self.pids.values())
        ends = {index, *(known for known, pid in self.pids.items() if pid == dialler)}
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pipe = asyncio.create_task(self._pipe(ends, source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, ends: set[int], source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                await self._open(ends)
                sink.write(data)
                await sink.drain()
        await self._open(ends)
        sink.close()

    async def _open(self, ends: set[int]) -> None:
        while self._deaf in ends:
            await self._changed.wait()
