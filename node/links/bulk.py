"""Bulk streams: one artifact, one gRPC stream, on a connection that carries no control.

    Fetch   unary → stream    the one who wants dials the one who has
    Push    stream → unary    the one who has dials, asked to on the control link, where it cannot be dialled

Both begin with a :class:`Want` and then carry plain chunks; gRPC's flow control is the back-pressure. How a stream
ended is the status: ``NOT_FOUND`` and ``RESOURCE_EXHAUSTED`` say try elsewhere or later, ``DATA_LOSS`` says that the
holder itself was lied to and that what it sent is worthless.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import grpc
import grpc.aio
import msgspec

from node.blobs import Reader, Writer
from node.supervisor import Supervisor
from protocol.errors import CodecError, TransportError
from protocol.ids import NodeId
from protocol.messages import Digest, Natural
from protocol.wire import UNREADABLE

from .channels import FETCH, PUSH, errors

IDLE = 10.0
"""Seconds after its last stream when a bulk connection is closed."""
STALL = 120.0
"""Seconds that one chunk may take, on its way in or out, before a stream is given up: 1 MiB at 70 kbit/s.  The machines
above have usually chosen another source long before; this bounds what is held for a peer that nobody watches."""

HEADER = 5.0
"""Seconds for the header of a ``Push``, which its sender has at hand."""


class Want(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Which bytes a stream carries: ``blob`` of ``size`` bytes, from ``offset`` on."""

    blob: Digest
    size: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
    offset: Natural


T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Want)


def encode(want: Want) -> bytes:
    return _encoder.encode(want)


def decode(frame: Any) -> Want:
    """Raises CodecError."""
    try:
        return _decoder.decode(frame)
    except (*UNREADABLE, TypeError) as error:
        raise CodecError(f"not a transfer's header: {error}") from None


# ---- moving bytes, the same for Fetch and Push, for client and server ------------------------------------------------


async def patiently(step: Awaitable[T], limit: float = STALL) -> T:
    """``await step``, but not for ever.  Raises TransportError when that fails or takes ``limit`` seconds."""
    patience = asyncio.timeout(limit)
    try:
        async with patience:
            with errors():
                return await step
    except TimeoutError:
        if not patience.expired():
            raise
        raise TransportError(f"nothing moved for {limit:g} s") from None


async def receive(read: Callable[[], Awaitable[Any]], writer: Writer, moved: Callable[[], None]) -> None:
    """Drain a stream into ``writer``, telling ``moved`` of each chunk.  Returns at its end, which may come early.

    Raises TransportError when it breaks or stalls, LimitError when it holds more than was wanted, StorageError.
    """
    while (chunk := await patiently(read())) is not grpc.aio.EOF:
        moved()
        await writer.write(chunk)


async def send(
    reader: Reader, write: Callable[[bytes], Awaitable[Any]], proceed: Callable[[], bool], moved: Callable[[], None]
) -> None:
    """Stream what ``reader`` has, and what it is yet to get, as long as ``proceed`` says so.

    Raises TransportError when the artifact is given up, when it stalls, or when ``proceed`` says no.
    """
    while chunk := await patiently(reader.read()):
        if not proceed():
            raise TransportError("refused")
        moved()
        await patiently(write(chunk))
        moved()


async def fetch(channel: Any, want: Want, writer: Writer, moved: Callable[[], None]) -> None:
    """Pull ``want`` over ``channel`` into ``writer``.  Raises TransportError, LimitError, StorageError."""
    call = channel.unary_stream(FETCH)(encode(want))
    try:
        await receive(call.read, writer, moved)
    finally:
        call.cancel()


@asynccontextmanager
async def push(channel: Any, want: Want) -> AsyncIterator[Callable[[bytes], Awaitable[Any]]]:
    """A ``Push`` of ``want``: yields what writes a chunk.  Raises TransportError when the other side refused."""
    call = channel.stream_unary(PUSH)()
    try:
        with errors():
            await call.write(encode(want))
        yield call.write
        with errors():
            await call.done_writing()
            await call
    finally:
        call.cancel()


# ---- connections ----------------------------------------------------------------------------------------------------


class _Connection:
    __slots__ = ("expiry", "opening", "users")

    def __init__(self, opening: asyncio.Task[Any]) -> None:
        self.opening = opening
        self.users = 0
        self.expiry: asyncio.TimerHandle | None = None


class Connections:
    """Bulk connections by peer: opened on demand, shared by concurrent transfers, closed when idle."""

    def __init__(self, dial: Callable[[NodeId], Awaitable[Any]], supervisor: Supervisor, idle: float = IDLE) -> None:
        """``dial`` opens a channel and raises TransportError; ``idle`` is in seconds."""
        self._dial = dial
        self._supervisor = supervisor
        self._idle = idle
        self._open: dict[NodeId, _Connection] = {}

    @asynccontextmanager
    async def use(self, peer: NodeId) -> AsyncIterator[Any]:
        """A channel to ``peer``.  One on which something failed is not used again.  Raises TransportError."""
        connection = self._open.get(peer)
        if connection is None:
            connection = self._open[peer] = _Connection(asyncio.ensure_future(self._dial(peer)))
        connection.users += 1
        if connection.expiry is not None:
            connection.expiry.cancel()
        try:
            # One user's cancellation must not take the connection from the others.
            yield await asyncio.shield(connection.opening)
        except TransportError:
            self.drop(peer, connection)
            raise
        finally:
            connection.users -= 1
            if not connection.users and self._open.get(peer) is connection:
                loop = asyncio.get_running_loop()
                connection.expiry = loop.call_later(self._idle, self.drop, peer, connection)

    def drop(self, peer: NodeId, only: _Connection | None = None) -> None:
        """Close the connection to ``peer``; streams on it end."""
        connection = self._open.get(peer)
        if connection is None or only not in (None, connection):
            return
        del self._open[peer]
        if connection.expiry is not None:
            connection.expiry.cancel()
        self._supervisor.spawn(self._close(connection), "close bulk connection")

    async def close(self) -> None:
        """Close all."""
        connections, self._open = list(self._open.values()), {}
        for connection in connections:
            if connection.expiry is not None:
                connection.expiry.cancel()
            await self._close(connection)

    @property
    def count(self) -> int:
        return len(self._open)

    async def _close(self, connection: _Connection) -> None:
        connection.opening.cancel()
        await asyncio.wait([connection.opening])
        if not connection.opening.cancelled() and connection.opening.exception() is None:
            await connection.opening.result().close()
