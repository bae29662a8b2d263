"""The daemon's end of the connection to one worker process.

The process runs foreign code, so what it writes is checked like a peer's words: types and limits by the codec, tensors
in a copy of our own, the number of log lines here.  Memory that goes to it is measured here while it is lent, because
nobody else can tell how much was written into it, and is taken back with its answer.  It is known by a *pidfd*, taken
while it was still running our own code, so that killing it can never hit another process that got its number later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fl.learn import channel, memory
from fl.learn.errors import WorkerLost
from fl.learn.forkserver import MEASURE_EVERY, peer_uid, short_address
from fl.learn.worker import LOG_LINES
from protocol.errors import PeerError

LARGE = 4 << 20
"""Bytes from which copying is left to a thread: a millisecond."""
_CHUNK = 65536
_RETRY_S = 0.02

Content = bytes | memoryview | Path
Hear = Callable[[str], None]
T = TypeVar("T")


class WorkerProcess:
    """A process that answers one request at a time.  Anything unexpected raises WorkerLost; then :meth:`kill` it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames = channel.Frames(replies=True)
        self._process = -1
        self._pid = 0
        self._directory = Path()
        self._memory = 0
        """Bytes that it may take; 0 for no limit."""
        self._lent: list[int] = []
        """Descriptors that the request under way took along."""
        self._next_look = 0.0
        """When what it takes is measured again, on the loop's clock."""

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
            self._pid, self._directory = hello.pid, Path(hello.directory)
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
        writes.  Raises what the worker reports, AppError when it takes more memory than it may, and WorkerLost.
        """
        carried = self._lent = []
        if isinstance(request, channel.Open):
            self._memory = request.memory
        try:
            if content is not None:
                carried.append(await _descriptor(content))
            if channel.carries(request) > len(carried):
                carried.append(channel.slot(limit))
            await self._send(request, carried)
            for _ in range(LOG_LINES + 2):
                reply = await self._receive()
                if isinstance(reply, channel.Failed):
                    raise reply.error()
                if not isinstance(reply, channel.Log):
                    given, carried = carried, []
                    self._lent = []
                    return reply, await _settled(reply, given, content)
                hear(reply.text)
        except OSError as error:
            raise WorkerLost(f"the worker process is gone: {error.strerror}", _DIED) from None
        except PeerError as error:
            raise WorkerLost(f"the worker process breaks the protocol: {error}", _DIED) from None
        finally:
            self._lent = []
            _close(carried)
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

    async def _send(self, request: channel.Request, carried: Sequence[int]) -> None:
        data = memoryview(channel.frame(request))
        while data:
            try:
                sent = socket.send_fds(self._connection, [data], carried)
            except BlockingIOError:
                await self._until(writable=True)
                continue
            data, carried = data[sent:], ()

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
            while not ready.done():
                await asyncio.wait([ready], timeout=self._measured(loop.time()))
        finally:
            remove(self._connection)

    def _measured(self, now: float) -> float | None:
        """Seconds until memory is to be measured again, None for never.  Raises AppError when it takes too much."""
        if not self._memory or not self._lent:
            return None
        if now >= self._next_look:
            self._next_look = now + MEASURE_EVERY
            taken = memory.taken(self._pid, self._directory, memory.held(self._lent))
            if taken > self._memory:
                raise memory.exceeded(taken, self._memory)
        return self._next_look - now


_RESTART = "see forkserver.log in the runtime directory"
_DIED = "the next task gets a fresh process; a process that dies again is most likely out of memory"


async def _descriptor(content: Content) -> int:
    if isinstance(content, Path):
        return os.open(content, os.O_RDONLY | os.O_CLOEXEC)
    lend = partial(channel.lent, content)
    return lend() if len(content) < LARGE else await _aside(lend, os.close)


async def _settled(reply: Any, given: Sequence[int], content: Content | None) -> bytes:
    """The tensors that came with a last answer; ``given`` went with its request, is taken back, and is closed.

    After any other end of a request the process is killed, and its copies go with it.
    """
    borrowed = given[1:] if isinstance(content, Path) else given
    size = reply.size if isinstance(reply, channel.Done) else 0

    def settle() -> bytes:
        try:
            answer = channel.taken(given[-1], size) if len(given) > (content is not None) else b""
            for descriptor in borrowed:
                channel.reclaim(descriptor)
            return answer
        finally:
            _close(given)

    large = memory.held(borrowed) >= LARGE
    return await _aside(settle, lambda _: None) if large else settle()


async def _aside(call: Callable[[], T], drop: Callable[[T], None]) -> T:
    """What ``call`` returns, from a thread.  It is done to its end even if nobody waits for it any more, since it has
    descriptors in its hands; what it returns then is dropped."""
    made = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(made)
    except asyncio.CancelledError:
        made.add_done_callback(lambda done: None if done.exception() else drop(done.result()))
        raise


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
