"""The link to one peer: frames that wait, streams that stand, a dial under way.

*One link out of two dials.* Both sides may dial at once, and then two streams stand. The one dialled by the lower
node id wins, which both sides can tell without a word. Until a side has seen the winner it uses what it has, so
nobody waits for the election; the loser's dialler then ends its half, the other side finishes the frame that it is
writing and ends the rest. Nothing that was written on the loser is lost, because both sides read it to its end.

*One pump.* While frames wait, one task writes them in order to whichever stream is preferred, and dials when none
stands. What cannot be delivered is handed back once, as ``SendFailed``. The queue is bounded in frames and bytes; a
peer that does not read fills it and the rest fails at once, which is what the machines above need to hear.

*Up and down.*  ``PeerUp`` when the first stream stands, ``PeerDown`` when the last is gone and no dial is under way.
A second stream dialled by the same side means that its old one died unseen: down and up again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, NamedTuple, Protocol

from protocol import wire
from protocol.errors import TransportError, UsageError
from protocol.ids import NodeId
from protocol.messages import Message, Routed

from .frames import Goodbye
from .streams import CLOSING, Stream


class Owner(Protocol):
    """What a link asks of the manager that keeps it."""

    async def dial(self, link: Link) -> Stream:
        """Raises TransportError."""
        ...

    async def read(self, link: Link, stream: Stream) -> None:
        """Hand frames up until the stream ends, then detach it."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[Any]: ...

    def wrote(self, link: Link, size: int) -> None: ...

    def on_up(self, link: Link) -> None: ...

    def on_down(self, link: Link, why: str) -> None: ...

    def on_failed(self, link: Link, message: Message | Routed, why: str) -> None: ...

    def on_unsendable(self, link: Link, error: UsageError) -> None: ...

    def on_rest(self, link: Link) -> None:
        """Something ended; the link may be quiet now."""
        ...


class _Waiting(NamedTuple):
    message: Message | Routed
    frame: bytes


class Link:
    """See the module.  All methods are called on the loop."""

    __slots__ = (
        "_dialling", "_max_bytes", "_max_frames", "_mine_wins", "_owner", "_pumping", "_queue", "_queued", "_turn",
        "peer", "streams", "up",
    )  # fmt: skip

    def __init__(self, me: NodeId, peer: NodeId, owner: Owner, max_frames: int, max_bytes: int) -> None:
        """``max_frames`` and ``max_bytes`` bound what waits for ``peer``."""
        self.peer = peer
        self.up = False
        self.streams: list[Stream] = []
        self._owner = owner
        self._mine_wins = me < peer
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._queue: deque[_Waiting] = deque()
        self._queued = 0
        self._pumping: asyncio.Task[Any] | None = None
        self._dialling: asyncio.Task[Any] | None = None
        self._turn = asyncio.Event()

    @property
    def quiet(self) -> bool:
        """Nothing stands, waits or is under way: the link may be forgotten."""
        return not (self.streams or self._queue or self._pumping or self._dialling)

    @property
    def dialled(self) -> bool:
        """Our own dial carries the link."""
        stream = self._preferred()
        return stream is not None and stream.dialled

    # ---- sending ----------------------------------------------------------------------------------------------------

    def send(self, message: Message | Routed) -> None:
        """Queue ``message``; it is written, or comes back as ``SendFailed``.  One that is too large is dropped: the
        peer has not failed, and nobody else could be sent it."""
        try:
            frame = wire.encode(message)
        except UsageError as error:
            self._owner.on_unsendable(self, error)
            return
        if len(self._queue) >= self._max_frames or self._queued + len(frame) > self._max_bytes:
            self._owner.on_failed(self, message, "queue full")
            return
        self._queue.append(_Waiting(message, frame))
        self._queued += len(frame)
        self._start()

    def connect(self) -> None:
        """Dial ahead of need."""
        if not self.streams:
            self._start_dial()

    def _start(self) -> None:
        if self._pumping is None:
            self._pumping = self._owner.spawn(self._pump(), "pump")

    async def flushed(self) -> None:
        """Wait until nothing waits any more: written or given back."""
        if self._pumping is not None:
            await asyncio.wait([self._pumping])

    async def _pump(self) -> None:
        try:
            while self._queue:
                stream = await self._usable()
                if stream is None:
                    self.fail_all("unreachable")
                    return
                if self._queue:
                    await self._write_next(stream)
        finally:
            self._pumping = None
            self._owner.on_rest(self)

    async def _write_next(self, stream: Stream) -> None:
        message, frame = self._queue.popleft()
        self._queued -= len(frame)
        if isinstance(message, Goodbye):
            # Before it is written: the other side's end may be seen before our write returns.
            stream.part(message.why)
        try:
            await stream.write(frame)
        except TransportError as error:
            self.detach(stream, "closed")
            self._owner.on_failed(self, message, str(error))
            return
        self._owner.wrote(self, len(frame))
        if isinstance(message, Goodbye):
            self.detach(stream, message.why)
            self._owner.spawn(self._part(stream), "close link")

    async def _part(self, stream: Stream) -> None:
        """Our Goodbye is out.  Whoever dialled ends its half; the reader ends the rest when the other side has."""
        await stream.finish()
        await asyncio.sleep(CLOSING)
        stream.abort()

    async def _usable(self) -> Stream | None:
        """The stream to write to, dialling when none stands; None when that failed."""
        while (stream := self._preferred()) is None:
            self._start_dial()
            self._turn.clear()
            await self._turn.wait()
            if self._hopeless():
                return None
        return stream

    def _start_dial(self) -> None:
        if self._dialling is None:
            self._dialling = self._owner.spawn(self._dial(), "dial")

    def _hopeless(self) -> bool:
        return self._dialling is None and self._preferred() is None

    def fail_all(self, why: str) -> None:
        """Give back everything that waits."""
        waiting, self._queued = list(self._queue), 0
        self._queue.clear()
        for message, _ in waiting:
            self._owner.on_failed(self, message, why)

    # ---- streams ----------------------------------------------------------------------------------------------------

    def _preferred(self) -> Stream | None:
        usable = [stream for stream in self.streams if not stream.closed]
        for stream in usable:
            if stream.dialled == self._mine_wins:
                return stream
        return usable[0] if usable else None

    async def _dial(self) -> None:
        try:
            stream = await self._owner.dial(self)
        except TransportError:
            stream = None
        finally:
            if self._dialling is asyncio.current_task():
                self._dialling = None
            self._turn.set()
        if stream is not None:
            self.attach(stream)
            self._owner.spawn(self._owner.read(self, stream), "link")
            return
        if not self.streams:
            self._down("closed")
        self._owner.on_rest(self)

    def attach(self, stream: Stream) -> None:
        """``stream`` stands and its peer is authenticated."""
        for other in [other for other in self.streams if other.dialled == stream.dialled]:
            self.streams.remove(other)
            other.abort()
            if not self.streams:
                self._down("closed")
        self.streams.append(stream)
        if len(self.streams) > 1:
            for loser in self.streams:
                if loser.dialled and not self._mine_wins:
                    self._owner.spawn(loser.finish(), "retire link")
        if not self.up:
            self.up = True
            self._owner.on_up(self)
        self._turn.set()

    def detach(self, stream: Stream, why: str) -> None:
        """``stream`` carries nothing more.  Idempotent."""
        if stream not in self.streams:
            return
        self.streams.remove(stream)
        if not self.streams and self._dialling is None:
            self._down(stream.parting or why)

    def close(self, why: str) -> None:
        """Say goodbye after what already waits; cut it short when that takes too long."""
        if not self.up:
            self.fail_all(why)
            return
        self.send(Goodbye(why))
        self._owner.spawn(self._cut(list(self.streams), why), "close link")

    async def _cut(self, streams: list[Stream], why: str) -> None:
        await asyncio.sleep(CLOSING)
        for stream in streams:
            if stream in self.streams:
                self.detach(stream, why)
                stream.abort()

    def abort(self, why: str) -> None:
        """Drop everything now."""
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        for stream in list(self.streams):
            stream.abort()
            self.detach(stream, why)
        self.fail_all(why)
        self._turn.set()

    def _down(self, why: str) -> None:
        if self.up:
            self.up = False
            self._owner.on_down(self, why)
