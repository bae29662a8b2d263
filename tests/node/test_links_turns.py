"""Whose transfer goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from node.links.turns import Turn, Turns, TurnsConfig
from protocol.errors import TransportError
from protocol.ids import NodeId

from .fabric import until

LIAR, HONEST, THIRD = b"l" * 16, b"h" * 16, b"t" * 16


class Lab:
    """Streams that hold their place until they are told to go on."""

    def __init__(self, config: TurnsConfig) -> None:
        self.turns = Turns(config)
        self.held: dict[int, Turn] = {}
        self.ends: dict[int, str] = {}
        self.leave = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def want(self, peer: NodeId) -> int:
        number = len(self._tasks)
        self._tasks.append(asyncio.create_task(self._hold(peer, number)))
        return number

    async def _hold(self, peer: NodeId, number: int) -> None:
        try:
            async with self.turns.turn(peer) as turn:
                self.held[number] = turn
                await self.leave.wait()
            self.ends[number] = "done"
        except TransportError as error:
            self.ends[number] = str(error)
        finally:
            self.held.pop(number, None)

    def cancel(self, number: int) -> None:
        self._tasks[number].cancel()

    async def close(self) -> None:
        self.leave.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def lab(config: TurnsConfig) -> AsyncIterator[Lab]:
    made = Lab(config)
    yield made
    await made.close()
    assert not made.held
    assert not made.turns._count
    assert not made.turns._waiting
    assert made.turns._queued == 0


def run(config: TurnsConfig, scenario: Callable[[Lab], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with lab(config) as it:
            await scenario(it)

    asyncio.run(main())


def test_eight_streams_of_one_peer_leave_room_for_another() -> None:
    async def scenario(it: Lab) -> None:
        for _ in range(8):
            it.want(LIAR)
        await until(lambda: len(it.held) == 2)
        honest = it.want(HONEST)
        await until(lambda: honest in it.held)
        assert len(it.held) == 3

    run(TurnsConfig(total=8, each=2), scenario)


def test_peers_that_wait_take_turns() -> None:
    async def scenario(it: Lab) -> None:
        first = it.want(THIRD)
        await until(lambda: first in it.held)
        crowd = [it.want(LIAR) for _ in range(5)]
        honest = it.want(HONEST)
        it.cancel(first)
        await until(lambda: crowd[0] in it.held)
        it.cancel(crowd[0])
        await until(lambda: honest in it.held)

    run(TurnsConfig(total=1, each=1, patience=60), scenario)


def test_a_stream_that_stands_still_is_ended_when_another_peer_waits() -> None:
    async def scenario(it: Lab) -> None:
        slow = [it.want(LIAR), it.want(THIRD)]
        await until(lambda: len(it.held) == 2)
        honest = it.want(HONEST)
        await until(lambda: honest in it.held)
        assert it.turns.ended == 1
        assert it.ends == {slow[0]: "nothing moved while others waited"}

    run(TurnsConfig(total=2, each=1, patience=0.05), scenario)


def test_a_stream_that_stands_still_is_left_alone_while_nobody_has_a_claim() -> None:
    async def scenario(it: Lab) -> None:
        it.want(LIAR)
        await until(lambda: len(it.held) == 1)
        it.want(LIAR)
        await asyncio.sleep(0)
        assert it.turns._watch is None
        assert it.turns.ended == 0

    run(TurnsConfig(total=2, each=1, patience=0), scenario)


def test_a_stream_that_moves_keeps_its_place() -> None:
    async def scenario(it: Lab) -> None:
        moving = it.want(LIAR)
        still = it.want(THIRD)
        await until(lambda: len(it.held) == 2)
        honest = it.want(HONEST)
        while still in it.held:
            it.held[moving].moved()
            await asyncio.sleep(0)
        await until(lambda: honest in it.held)
        assert moving in it.held

    run(TurnsConfig(total=2, each=1, patience=0.05), scenario)


def test_too_many_that_wait_are_refused_per_peer_and_in_total() -> None:
    async def scenario(it: Lab) -> None:
        await until(lambda: it.want(LIAR) >= 7)
        await until(lambda: len(it.ends) == 4)
        assert set(it.ends.values()) == {"busy"}
        it.want(HONEST)
        it.want(THIRD)
        await until(lambda: len(it.ends) == 5)
        assert it.turns.refused == 5

    run(TurnsConfig(total=1, each=1, waiting=4, waiting_each=3, patience=60), scenario)


def test_who_leaves_while_waiting_leaves_nothing_behind() -> None:
    async def scenario(it: Lab) -> None:
        it.want(LIAR)
        waiting = it.want(HONEST)
        await until(lambda: it.turns._queued == 1)
        it.cancel(waiting)
        await until(lambda: it.turns._queued == 0)

    run(TurnsConfig(total=1, each=1, patience=60), scenario)


def test_another_failure_inside_is_passed_on() -> None:
    async def scenario(it: Lab) -> None:
        with pytest.raises(TimeoutError):
            async with it.turns.turn(LIAR):
                raise TimeoutError

    run(TurnsConfig(total=1, each=1), scenario)
