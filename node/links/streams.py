"""One bidirectional stream of frames, seen alike from the side that dialled it and from the side that accepted it.

gRPC is not symmetric: the client ends its half with ``done_writing`` and learns the status, the server ends both
halves by returning from its handler.  So neither end of stream nor status says whether the other side *meant* to
close; only a ``Goodbye`` frame does (``frames``), and an end without one is a death.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Protocol

import grpc
import grpc.aio

from protocol.errors import TransportError

from .channels import ACCEPTED, CONTROL, REVOKED, DisownedError, errors

CLOSING = 1.0
"""Seconds that a polite close may take before it is cut short."""


class Stream(Protocol):
    """``write`` has one caller, ``read`` another; ``close`` and ``abort`` may come from anywhere."""

    dialled: bool
    closed: bool
    parting: str
    """Why we said goodbye on it; empty when we did not."""

    def part(self, why: str) -> None:
        """We are about to say goodbye on it."""
        ...

    async def read(self) -> bytes | None:
        """The next frame; None when nothing more will come, whatever the reason."""
        ...

    async def write(self, frame: bytes) -> None:
        """Returns when the frame has left for the transport.  Raises TransportError."""
        ...

    async def finish(self) -> None:
        """Write nothing more; what was written still arrives and the other side may finish what it has."""
        ...

    async def close(self) -> None:
        """Finish, then give back what the stream holds, within ``CLOSING`` seconds."""
        ...

    def abort(self) -> None:
        """End it now."""
        ...


class DialledStream:
    """Our end of a link that we dialled.  Owns its channel."""

    __slots__ = ("_call", "_channel", "closed", "dialled", "parting")

    def __init__(self, channel: Any, call: Any) -> None:
        self.dialled = True
        self.closed = False
        self.parting = ""
        self._channel = channel
        self._call = call

    def part(self, why: str) -> None:
        self.parting = why

    @classmethod
    async def open(cls, channel: Any) -> DialledStream:
        """Open the control stream on a connected channel.  Raises TransportError when the other side refuses, of which
        DisownedError is one kind."""
        call = channel.stream_stream(CONTROL)()
        try:
            metadata = await call.initial_metadata()
            if ACCEPTED not in tuple(metadata or ()):
                why = f"refused: {await call.details() or 'no reason given'}"
                revoked = REVOKED in tuple(await call.trailing_metadata() or ())
                raise DisownedError(why) if revoked else TransportError(why)
        except BaseException:
            call.cancel()
            await channel.close()
            raise
        return cls(channel, call)

    async def read(self) -> bytes | None:
        try:
            with errors():
                frame = await self._call.read()
        except TransportError:
            return None
        return None if frame is grpc.aio.EOF else frame

    async def write(self, frame: bytes) -> None:
        if self.closed:
            raise TransportError("the stream is closed")
        try:
            with errors():
                await self._call.write(frame)
        except TransportError:
            self.closed = True
            raise

    async def finish(self) -> None:
        if self.closed:
            return
        self.closed = True
        with suppress(TransportError), errors():
            await self._call.done_writing()

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSING):
                await self.finish()
                await self._call.code()
        except TimeoutError:
            self._call.cancel()
        finally:
            self.closed = True
            await self._channel.close()

    def abort(self) -> None:
        self.closed = True
        self._call.cancel()


class AcceptedStream:
    """Our end of a link that the peer dialled.  Lives as long as the handler in which it was made.

    A handler cannot cancel its call; it can only return.  So ``abort`` interrupts whoever reads or writes, and the
    handler, finding :attr:`aborted`, returns.
    """

    __slots__ = ("_context", "_reader", "_writer", "_writing", "aborted", "closed", "dialled", "parting")

    def __init__(self, context: Any) -> None:
        self.dialled = False
        self.closed = False
        self.parting = ""
        self.aborted = False
        self._context = context
        self._reader: asyncio.Task[Any] | None = None
        self._writer: asyncio.Task[Any] | None = None
        self._writing = asyncio.Lock()

    def part(self, why: str) -> None:
        self.parting = why

    async def read(self) -> bytes | None:
        if self.aborted:
            return None
        self._reader = asyncio.current_task()
        try:
            with errors():
                frame = await self._context.read()
        except TransportError:
            return None
        except asyncio.CancelledError:
            if self._interrupted(self._reader):
                return None
            raise
        finally:
            self._reader = None
        return None if frame is grpc.aio.EOF else frame

    async def write(self, frame: bytes) -> None:
        async with self._writing:
            if self.closed:
                raise TransportError("the stream is closed")
            self._writer = asyncio.current_task()
            try:
                with errors():
                    await self._context.write(frame)
            except TransportError:
                self.closed = True
                raise
            except asyncio.CancelledError:
                if self._interrupted(self._writer):
                    raise TransportError("the stream was aborted") from None
                raise
            finally:
                self._writer = None

    def _interrupted(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a cancellation was ours alone, as ``asyncio.timeout`` tells it."""
        return self.aborted and task is not None and task.uncancel() == 0

    async def finish(self) -> None:
        self.closed = True

    async def close(self) -> None:
        """The handler must not return, which ends the call, in the middle of a write."""
        self.closed = True
        try:
            async with asyncio.timeout(CLOSING), self._writing:
                return
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        if self.aborted:
            return
        self.closed = self.aborted = True
        for task in (self._reader, self._writer):
            if task is not None:
                task.cancel()
