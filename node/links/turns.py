"""Whose transfer goes on: few at once, fewer per peer, and none that stands still while others wait.

Peers that wait take turns.  A stream may be as slow as its link while nobody else wants its place; when all places are
taken and somebody waits who has a claim to one, the stream on which nothing moved for the longest time, and for at
least ``patience``, is ended.  What it brought stays, and whoever wants the rest asks again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from protocol.errors import TransportError
from protocol.ids import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnsConfig:
    """Places and patience."""

    total: int
    """Streams that move at once."""
    each: int
    """The same, of one peer."""
    waiting: int = 64
    """Streams that wait; more are refused."""
    waiting_each: int = 16
    """The same, of one peer."""
    patience: float = 10.0
    """Seconds for which nothing may move on a stream whose place another peer wants."""


class Turn:
    """A place, held.  Call :meth:`moved` whenever something did."""

    __slots__ = ("_limit", "_loop", "last", "peer")

    def __init__(self, peer: NodeId, limit: asyncio.Timeout) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self.peer = peer
        self.last = self._loop.time()

    def moved(self) -> None:
        self.last = self._loop.time()

    def end(self) -> None:
        """Interrupt whoever holds it."""
        self._limit.reschedule(self._loop.time())


class Turns:
    """See the module.  All methods are called on the loop."""

    def __init__(self, config: TurnsConfig) -> None:
        self.refused = 0
        self.ended = 0
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._running: dict[Turn, None] = {}
        self._count: Counter[NodeId] = Counter()
        """Places taken or granted, by peer."""
        self._waiting: OrderedDict[NodeId, deque[asyncio.Future[None]]] = OrderedDict()
        self._queued = 0
        self._ending: Turn | None = None
        self._watch: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def turn(self, peer: NodeId) -> AsyncIterator[Turn]:
        """A place for ``peer``, after a while.

        Raises TransportError when too many wait already, and, from inside, when the stream stood still and was ended.
        """
        await self._wait(peer)
        turn, limit = None, asyncio.timeout(None)
        try:
            async with limit:
                turn = Turn(peer, limit)
                self._running[turn] = None
                self._watch_over()
                yield turn
        except TimeoutError:
            if not limit.expired():
                raise
            self.ended += 1
            raise TransportError("nothing moved while others waited") from None
        finally:
            if turn is not None:
                del self._running[turn]
                if self._ending is turn:
                    self._ending = None
            self._release(peer)

    async def _wait(self, peer: NodeId) -> None:
        config = self._config
        if self._queued >= config.waiting or len(self._waiting.get(peer, ())) >= config.waiting_each:
            self.refused += 1
            raise TransportError("busy")
        granted = self._loop.create_future()
        self._waiting.setdefault(peer, deque()).append(granted)
        self._queued += 1
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._release(peer)
            else:
                self._forget(peer, granted)
            raise

    def _grant(self) -> None:
        while self._count.total() < self._config.total and (peer := self._claimant()) is not None:
            granted = self._waiting[peer].popleft()
            self._waiting.move_to_end(peer)
            self._queued -= 1
            if not self._waiting[peer]:
                del self._waiting[peer]
            self._count[peer] += 1
            granted.set_result(None)
        self._watch_over()

    def _claimant(self) -> NodeId | None:
        """The peer whose turn is next among those who wait and have a place to come."""
        return next((peer for peer in self._waiting if self._count[peer] < self._config.each), None)

    def _forget(self, peer: NodeId, granted: asyncio.Future[None]) -> None:
        self._waiting[peer].remove(granted)
        self._queued -= 1
        if not self._waiting[peer]:
            del self._waiting[peer]

    def _release(self, peer: NodeId) -> None:
        self._count[peer] -= 1
        if not self._count[peer]:
            del self._count[peer]
        self._grant()

    def _watch_over(self) -> None:
        """Look again when the stream that stands still for longest may be ended, while anybody has a claim."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        # One at a time: the place of the one that was ended last may be all that was wanted.
        if self._running and self._ending is None and self._claimant() is not None:
            stalest = min(turn.last for turn in self._running)
            self._watch = self._loop.call_at(stalest + self._config.patience, self._end_stalest)

    def _end_stalest(self) -> None:
        self._watch = None
        stalest = min(self._running, key=lambda turn: turn.last, default=None)
        if stalest is not None and self._claimant() is not None:
            if stalest.last + self._config.patience <= self._loop.time():
                self._ending = stalest
                stalest.end()
            self._watch_over()
