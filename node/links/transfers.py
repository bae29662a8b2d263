"""Transfers: which artifacts come from whom, how many at once, and what is made of those that fail.

The one who wants an artifact asks. If the holder can be dialled, by ``Fetch`` on a bulk connection; if not, a frame
on the control link asks the holder to dial and ``Push``. Either way the bytes go straight to the artifact store, from
where our own children already read them (cut-through), and what has arrived stays when the source fails: the next
transfer, from whomever, resumes there.

Both directions are bounded, in total and per peer (``turns``): beyond the bound transfers wait their turn, and one that
stands still while others wait is ended.  So are the calls that one peer has open here, of whatever kind.

*Blame.*  A digest that is wrong at the end is held against the source only if every byte came from it in this transfer;
an honest node never delivers the last chunk of a lie (``node.blobs``).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from node.artifacts import ArtifactStore
from node.blobs import WRONG, DigestError, Reader, WorthlessError, Writer
from node.supervisor import Supervisor
from protocol.errors import Code, CodecError, LimitError, StorageError, TransportError, UsageError
from protocol.events import Event, TransferDone, TransferFailed
from protocol.ids import BlobId, NodeId, short

from . import bulk
from .bulk import Connections, Want
from .channels import UnreachableError
from .frames import DriverMessage, PushPlease, PushRefused
from .manager import LinkManager
from .turns import Turn, Turns, TurnsConfig

_WISHES = TurnsConfig(total=4, each=4, waiting=4096, waiting_each=4096)
_SERVED = TurnsConfig(total=8, each=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """How much moves at once."""

    incoming: TurnsConfig = _WISHES
    """Artifacts received at once.  Those that wait are this node's own wishes, which are bounded where they arise."""
    outgoing: TurnsConfig = _SERVED
    """Streams served at once: the fan-out of a tree, twice."""
    calls_each: int = 16
    """Calls that one peer may have open, those that wait included."""
    connection_idle: float = bulk.IDLE
    """Seconds after which an unused bulk connection is closed."""


class _Transfer:
    """One artifact on its way here.  ``waiters`` are local callers beside the core."""

    __slots__ = ("begun", "blob", "for_core", "peer", "size", "task", "waiters")

    def __init__(self, peer: NodeId, blob: BlobId, size: int) -> None:
        self.peer = peer
        self.blob = blob
        self.size = size
        self.begun = asyncio.Event()
        """Readers may follow: there is a partial artifact, or there will be none."""
        self.for_core = False
        self.waiters: list[asyncio.Future[None]] = []
        self.task: asyncio.Task[Any] | None = None


class _Offer:
    """A push that we asked for: resolved with the call on which it comes, which stays open until ``over``."""

    __slots__ = ("call", "over", "want")

    def __init__(self, want: Want) -> None:
        self.want = want
        self.call: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()

    def fail(self, why: str) -> None:
        if not self.call.done():
            self.call.set_exception(TransportError(why))


class Transfers:
    """See the module.  All methods are called on the loop."""

    def __init__(
        self,
        config: TransferConfig,
        artifacts: ArtifactStore,
        links: LinkManager,
        supervisor: Supervisor,
        post: Callable[[Event], None],
    ) -> None:
        """``post`` takes ``TransferDone`` and ``TransferFailed``."""
        self.counters = dict.fromkeys(("bytes_in", "bytes_out", "done", "failed", "served", "refused"), 0)
        self._config = config
        self._artifacts = artifacts
        self._links = links
        self._supervisor = supervisor
        self._post = post
        self._connections = Connections(links.open_channel, supervisor, config.connection_idle)
        self._incoming = Turns(config.incoming)
        self._outgoing = Turns(config.outgoing)
        self._calls: Counter[NodeId] = Counter()
        self._running: dict[BlobId, _Transfer] = {}
        self._offers: dict[tuple[NodeId, BlobId], _Offer] = {}
        links.attach(self._on_driver, self._on_gone)

    def handlers(self) -> dict[str, Any]:
        """The methods of the link service that transfers answer."""
        return {
            "Fetch": grpc.unary_stream_rpc_method_handler(self._serve_fetch),
            "Push": grpc.stream_unary_rpc_method_handler(self._serve_push),
        }

    async def close(self) -> None:
        """Stop everything; progress stays on disk."""
        for transfer in list(self._running.values()):
            self.cancel(transfer.blob)
        await self._connections.close()

    # ---- wanting ----------------------------------------------------------------------------------------------------

    def start(self, peer: NodeId, blob: BlobId, size: int) -> None:
        """Bring ``blob`` here from ``peer`` and tell the core.  One source at a time: a newer one replaces an older."""
        if self._artifacts.has(blob):
            self._post(TransferDone(blob))
        else:
            self._transfer(peer, blob, size).for_core = True

    async def bring(self, peer: NodeId, blob: BlobId, size: int) -> None:
        """The same for a local caller.  Raises TransportError with the reason."""
        if not self._artifacts.has(blob):
            waiter = asyncio.get_running_loop().create_future()
            self._transfer(peer, blob, size).waiters.append(waiter)
            await waiter

    def cancel(self, blob: BlobId) -> None:
        """Stop bringing ``blob``; the core hears nothing more of it."""
        transfer = self._running.pop(blob, None)
        if transfer is not None and transfer.task is not None:
            transfer.task.cancel()
            self._tell_waiters(transfer, "cancelled")

    def drop(self, peer: NodeId) -> None:
        """``peer`` is to be cut off: no transfer with it goes on."""
        self._connections.drop(peer)
        self._on_gone(peer)

    def _transfer(self, peer: NodeId, blob: BlobId, size: int) -> _Transfer:
        running = self._running.get(blob)
        if running is not None and running.peer == peer:
            return running
        transfer = self._running[blob] = _Transfer(peer, blob, size)
        before = None
        if running is not None:
            before = running.task
            transfer.for_core, transfer.waiters = running.for_core, running.waiters
            if before is not None:
                before.cancel()
        transfer.task = self._supervisor.spawn(self._run(transfer, before), "transfer")
        return transfer

    async def _run(self, transfer: _Transfer, before: asyncio.Task[Any] | None) -> None:
        failure = "internal error"
        try:
            if before is not None:
                await asyncio.wait([before])
            async with self._incoming.turn(transfer.peer) as turn:
                await self._receive(transfer, turn)
            failure = ""
        except (TransportError, StorageError, UsageError, DigestError, LimitError) as error:
            failure = str(error)
        finally:
            transfer.begun.set()
            # Not when it was cancelled or replaced.
            if self._running.get(transfer.blob) is transfer:
                del self._running[transfer.blob]
                self._conclude(transfer, failure)

    def _conclude(self, transfer: _Transfer, failure: str) -> None:
        self.counters["failed" if failure else "done"] += 1
        self._tell_waiters(transfer, failure)
        if not transfer.for_core:
            return
        if failure:
            self._post(TransferFailed(transfer.blob, self._artifacts.progress(transfer.blob), failure))
        else:
            self._post(TransferDone(transfer.blob))

    def _tell_waiters(self, transfer: _Transfer, failure: str) -> None:
        for waiter in transfer.waiters:
            if waiter.done():
                continue
            if failure:
                waiter.set_exception(TransportError(f"cannot fetch from {short(transfer.peer)}: {failure}"))
            else:
                waiter.set_result(None)

    async def _receive(self, transfer: _Transfer, turn: Turn) -> None:
        peer, blob, size = transfer.peer, transfer.blob, transfer.size
        if self._artifacts.has(blob):
            return
        writer = await self._artifacts.receive(blob, size)
        begun = writer.progress
        transfer.begun.set()
        try:
            if begun < size:
                await self._bring(peer, Want(blob, size, begun), writer, turn)
            if writer.progress < size:
                raise TransportError("the stream ended early")
            await writer.finish()
        except WorthlessError:
            self._artifacts.discard(blob, WRONG)
            raise
        except DigestError:
            if not begun:
                self._links.penalise(peer, Code.BAD_DIGEST)
            raise
        except LimitError:
            self._links.penalise(peer, Code.OVERSIZE)
            raise
        finally:
            self.counters["bytes_in"] += writer.progress - begun
            writer.close()

    async def _bring(self, peer: NodeId, want: Want, writer: Writer, turn: Turn) -> None:
        try:
            async with self._connections.use(peer) as channel:
                await bulk.fetch(channel, want, writer, turn.moved)
        except UnreachableError:
            if not self._links.linked(peer):
                raise
            await self._ask_for_push(peer, want, writer, turn)

    async def _ask_for_push(self, peer: NodeId, want: Want, writer: Writer, turn: Turn) -> None:
        offer = self._offers[peer, want.blob] = _Offer(want)
        try:
            self._links.send(peer, PushPlease(want.blob, want.size, want.offset))
            call = await bulk.patiently(offer.call)
            await bulk.receive(call.read, writer, turn.moved)
        finally:
            del self._offers[peer, want.blob]
            offer.over.set()

    async def _serve_push(self, _requests: Any, context: Any) -> bytes:
        peer = await self._links.admit(context)
        async with self._call(peer, context):
            want = await self._header(peer, context)
            offer = self._offers.get((peer, want.blob))
            if offer is None or offer.want != want or offer.call.done():
                self._links.penalise(peer, Code.UNEXPECTED)
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not asked for")
                raise AssertionError("abort raises")
            offer.call.set_result(context)
            await offer.over.wait()
        return b""

    # ---- having -----------------------------------------------------------------------------------------------------

    async def _serve_fetch(self, request: bytes, context: Any) -> None:
        peer = await self._links.admit(context)
        async with self._call(peer, context):
            await self._answer(peer, request, context)

    async def _answer(self, peer: NodeId, request: bytes, context: Any) -> None:
        try:
            want = bulk.decode(request)
            await self._begun(want.blob)
            async with self._outgoing.turn(peer) as turn:
                with self._reading(want) as reader:
                    await self._send(turn, reader, context.write)
        except CodecError as error:
            self._links.penalise(peer, error.code)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except UsageError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except WorthlessError as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, str(error))
        except (TransportError, StorageError) as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    async def _push(self, peer: NodeId, want: Want) -> None:
        started = False
        try:
            await self._begun(want.blob)
            async with self._outgoing.turn(peer) as turn:
                with self._reading(want) as reader:
                    async with self._connections.use(peer) as channel, bulk.push(channel, want) as write:
                        started = True
                        await self._send(turn, reader, write)
        except (TransportError, UsageError, StorageError) as error:
            # Once the stream stands its end says it all, and a word on the other link could come too late.
            if not started:
                self._links.send(peer, PushRefused(want.blob, str(error)[:128]))

    async def _send(self, turn: Turn, reader: Reader, write: Callable[[bytes], Awaitable[Any]]) -> None:
        await bulk.send(reader, write, lambda: not self._links.refusal(turn.peer), turn.moved)
        self.counters["served"] += 1

    async def _begun(self, blob: BlobId) -> None:
        """A child may ask before our own transfer of the same artifact got its turn.  Raises TransportError."""
        if (transfer := self._running.get(blob)) is not None:
            await bulk.patiently(transfer.begun.wait())

    @contextmanager
    def _reading(self, want: Want) -> Iterator[Reader]:
        """Raises UsageError when what is wanted is not here."""
        reader = self._artifacts.reader(want.blob, want.offset)
        try:
            if reader.size != want.size:
                raise UsageError(f"the artifact has {reader.size} bytes")
            yield reader
        finally:
            self.counters["bytes_out"] += reader.offset - want.offset
            reader.close()

    @asynccontextmanager
    async def _call(self, peer: NodeId, context: Any) -> AsyncIterator[None]:
        """Counts an incoming call of ``peer`` while it is open; one too many is refused before it costs anything."""
        if self._calls[peer] >= self._config.calls_each:
            self.counters["refused"] += 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at once")
        self._calls[peer] += 1
        try:
            yield
        finally:
            self._hang_up(peer)

    def _hang_up(self, peer: NodeId) -> None:
        self._calls[peer] -= 1
        if not self._calls[peer]:
            del self._calls[peer]

    # ---- inside -----------------------------------------------------------------------------------------------------

    async def _header(self, peer: NodeId, context: Any) -> Want:
        try:
            return bulk.decode(await bulk.patiently(context.read(), bulk.HEADER))
        except CodecError as error:
            self._links.penalise(peer, error.code)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except TransportError:
            await context.abort(grpc.StatusCode.CANCELLED, "no header")
        raise AssertionError("abort raises")

    def _on_driver(self, peer: NodeId, message: DriverMessage) -> None:
        if isinstance(message, PushPlease) and message.size:
            want = Want(message.blob, message.size, message.offset)
            if self._calls[peer] >= self._config.calls_each:
                self.counters["refused"] += 1
                self._links.send(peer, PushRefused(want.blob, "too many calls at once"))
                return
            self._calls[peer] += 1
            self._supervisor.spawn(self._push(peer, want), "push").add_done_callback(lambda _: self._hang_up(peer))
        elif isinstance(message, PushRefused) and (offer := self._offers.get((peer, message.blob))):
            offer.fail(message.why)

    def _on_gone(self, peer: NodeId) -> None:
        for (source, _), offer in list(self._offers.items()):
            if source == peer:
                offer.fail("the link is gone")
