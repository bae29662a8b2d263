"""Notices for whoever listens: the control API, the demo, tests.

Each subscriber has a queue of its own, bounded; one that does not keep up loses the oldest notices and is told how
many, so that it can ask for the whole state again. Nobody slows the node down.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Self

import msgspec


class Lost(msgspec.Struct, frozen=True, gc=False):
    """``count`` notices were dropped here because the subscriber was too slow."""

    count: int


class Subscription:
    """An asynchronous iterator over notices.  ``close`` it, or use it as a context manager."""

    def __init__(self, hub: Hub, limit: int) -> None:
        self._hub = hub
        self._limit = limit
        self._queue: deque[Any] = deque()
        self._lost = 0
        self._closed = False
        self._wake = asyncio.Event()

    def offer(self, notice: Any) -> None:
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self._lost += 1
        self._queue.append(notice)
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._hub.forget(self)
        self._wake.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Any:
        """The next notice, or :class:`Lost`; ends when the subscription is closed and drained."""
        while True:
            if self._lost:
                count, self._lost = self._lost, 0
                return Lost(count)
            if self._queue:
                return self._queue.popleft()
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()


class Hub:
    """Hands every notice to every subscriber."""

    def __init__(self) -> None:
        self._subscribers: list[Subscription] = []

    def subscribe(self, limit: int = 1024) -> Subscription:
        """From now on; at most ``limit`` notices wait."""
        subscription = Subscription(self, limit)
        self._subscribers.append(subscription)
        return subscription

    def publish(self, notice: Any) -> None:
        for subscriber in self._subscribers:
            subscriber.offer(notice)

    def forget(self, subscription: Subscription) -> None:
        if subscription in self._subscribers:
            self._subscribers.remove(subscription)

    def close(self) -> None:
        """Every subscription ends once it is drained."""
        for subscriber in list(self._subscribers):
            subscriber.close()
