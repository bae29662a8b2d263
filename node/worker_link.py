"""The daemon's end of the connection to one worker process.

The process runs foreign code, so what it writes is checked like a peer's words: types and limits by the codec, seals
before anything is mapped, the number of log lines here.  It is known by a *pidfd*, taken while it was still running our
own code, so that killing it can never hit another process that got its number later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fl.learn import channel
from fl.learn.errors import WorkerLost
from fl.learn.forkserver import peer_uid, short_address
from fl.learn.worker import LOG_LINES
from protocol.errors import PeerError

LARGE = 4 << 20
"""Bytes from which copying is left to a thread: a millisecond."""
_CHUNK = 65536
_RETRY_S = 0.02

Content = bytes | memoryview | Path
Hear = Callable[[str], None]


class WorkerProcess:
    """A process that answers one request at a time.  Anything unexpected raises WorkerLost; then :meth:`kill` it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames = channel.Frames(replies=True)
        self._process = -1

    @classmethod
    async def connect(cls, path: Path, patience: float) -> WorkerProcess:
        """A new process from the fork server at ``path``, which may take ``patience`` seconds to be there and ready.

        Raises WorkerLost.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        self = cls(connection)
        try:
            async with asyncio.timeout(patience):
                await self._dial(path)
                hello = await self._receive()
            if not isinstance(hello, channel.Hello):
                raise WorkerLost("the worker process does not speak our protocol", _RESTART)
            self._process = os.pidfd_open(hello.pid)
        except TimeoutError:
            raise WorkerLost(f"no worker process within {patience:g} s from {path}", _RESTART) from None
        except OSError as error:
            raise WorkerLost(f"no worker process: {error}", _RESTART) from None
        finally:
            if self._process < 0:
                self.kill()
        return self

    async def ask(self, request: channel.Request, content: Content | None, limit: int, hear: Hear) -> tuple[Any, bytes]:
        """The answer to ``request``, and the at most ``limit`` bytes of tensors that came with it, for which
        ``request`` takes a slot along (``channel.carries``).

        ``content`` goes along: a file by itself, bytes as sealed memory.  ``hear`` gets each line that user code
        writes.  Raises what the worker reports, and WorkerLost.
        """
        slot = -1
        try:
            if channel.carries(request) > (content is not None):
                slot = channel.slot(limit)
            await self._send(request, content, slot)
            for _ in range(LOG_LINES + 2):
                reply = await self._receive()
                if isinstance(reply, channel.Failed):
                    raise reply.error()
                if not isinstance(reply, channel.Log):
                    size = reply.size if isinstance(reply, channel.Done) else 0
                    return reply, await self._read(slot, size) if slot >= 0 else b""
                hear(reply.text)
        except OSError as error:
            raise WorkerLost(f"the worker process is gone: {error.strerror}", _DIED) from None
        except PeerError as error:
            raise WorkerLost(f"the worker process breaks the protocol: {error}", _DIED) from None
        finally:
            if slot >= 0:
                os.close(slot)
        raise WorkerLost("the worker process writes more lines than it may", _DIED)

    def kill(self) -> None:
        """End the process at once, whatever it is doing."""
        if self._process >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            os.close(self._process)
            self._process = -1
        self._connection.close()

    async def _dial(self, path: Path) -> None:
        while True:
            try:
                with short_address(path) as address:
                    self._connection.connect(address)
                break
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                await asyncio.sleep(_RETRY_S)  # not there yet, or busy
        if peer_uid(self._connection) != os.getuid():
            raise WorkerLost(
                f"the fork server at {path} belongs to another user", "set [worker] fork_server to your own"
            )

    async def _send(self, request: channel.Request, content: Content | None, slot: int) -> None:
        descriptor = await _descriptor(content)
        try:
            data = memoryview(channel.frame(request))
            carried = [one for one in (descriptor, slot) if one >= 0]
            while data:
                try:
                    sent = socket.send_fds(self._connection, [data], carried)
                except BlockingIOError:
                    await self._until(writable=True)
                    continue
                data, carried = data[sent:], []
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    async def _receive(self) -> Any:
        while (received := self._frames.next()) is None:
            try:
                # No room for descriptors: the kernel drops what is attached, and says so.
                data, _, flags, _ = self._connection.recvmsg(_CHUNK)
            except BlockingIOError:
                await self._until(writable=False)
                continue
            if not data:
                raise WorkerLost("the worker process died", _DIED)
            self._frames.feed(data, truncated=bool(flags & socket.MSG_CTRUNC))
        return received[0]

    async def _until(self, *, writable: bool) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        add, remove = (loop.add_writer, loop.remove_writer) if writable else (loop.add_reader, loop.remove_reader)

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        add(self._connection, wake)
        try:
            await ready
        finally:
            remove(self._connection)

    @staticmethod
    async def _read(slot: int, size: int) -> bytes:
        channel.taken(slot, size)

        def copy() -> bytes:
            with channel.mapped(os.dup(slot)) as view:
                return bytes(view)

        return copy() if size < LARGE else await asyncio.to_thread(copy)


_RESTART = "see forkserver.log in the runtime directory"
_DIED = "the next task gets a fresh process; a process that dies again is most likely out of memory"


async def _descriptor(content: Content | None) -> int:
    if content is None:
        return -1
    if isinstance(content, Path):
        return os.open(content, os.O_RDONLY | os.O_CLOEXEC)
    return channel.sealed(content) if len(content) < LARGE else await asyncio.to_thread(channel.sealed, content)
