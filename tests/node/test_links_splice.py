"""Two sockets made one."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from pathlib import Path

from node.links.splice import Pipes, Splice

from .fabric import until


def open_files() -> int:
    gc.collect()  # what earlier tests dropped
    return len(list(Path("/proc/self/fd").iterdir()))


class Pair:
    """A splice with the far ends of its two sockets."""

    def __init__(self) -> None:
        self.client, outer = socket.socketpair()
        inner, self.server = socket.socketpair()
        for side in (self.client, outer, inner, self.server):
            side.setblocking(False)
        self.sides = (outer, inner)
        self.pipes = Pipes()
        self.answers = self.ends = 0
        self.splice = Splice(outer, inner, self.pipes, answered=self._answered, ended=self._ended)

    def _answered(self) -> None:
        self.answers += 1

    def _ended(self) -> None:
        self.ends += 1

    def over(self) -> bool:
        return bool(self.ends) and all(side.fileno() < 0 for side in self.sides)

    def close(self) -> None:
        self.splice.close()
        self.pipes.close()
        self.client.close()
        self.server.close()


async def drain(side: socket.socket, size: int) -> bytes:
    loop, got = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(20):
        while len(got) < size and (more := await loop.sock_recv(side, 1 << 20)):
            got += more
    return bytes(got)


def test_bytes_pass_both_ways_unchanged() -> None:
    async def scenario() -> None:
        pair, loop = Pair(), asyncio.get_running_loop()
        there, back = os.urandom(3 << 20), os.urandom(2 << 20)
        sent = asyncio.gather(loop.sock_sendall(pair.client, there), loop.sock_sendall(pair.server, back))
        assert await drain(pair.server, len(there)) == there
        assert await drain(pair.client, len(back)) == back
        await sent
        assert pair.answers
        pair.close()

    asyncio.run(scenario())


def test_a_reader_that_does_not_read_stops_the_writer_and_nothing_is_lost() -> None:
    async def scenario() -> None:
        pair, loop = Pair(), asyncio.get_running_loop()
        content = os.urandom(16 << 20)
        sending = asyncio.ensure_future(loop.sock_sendall(pair.client, content))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not sending.done()
        assert await drain(pair.server, len(content)) == content
        await sending
        pair.close()

    asyncio.run(scenario())


def test_an_end_is_passed_on_and_the_other_direction_lives() -> None:
    async def scenario() -> None:
        pair, loop = Pair(), asyncio.get_running_loop()
        await loop.sock_sendall(pair.client, b"question")
        pair.client.shutdown(socket.SHUT_WR)
        assert await drain(pair.server, 100) == b"question"
        await loop.sock_sendall(pair.server, b"answer")
        pair.server.close()
        assert await drain(pair.client, 100) == b"answer"
        await until(pair.over)
        assert pair.ends == 1
        pair.close()

    asyncio.run(scenario())


def test_a_side_that_breaks_ends_both() -> None:
    async def scenario() -> None:
        pair, loop = Pair(), asyncio.get_running_loop()
        pair.server.close()
        with_error = asyncio.ensure_future(loop.sock_sendall(pair.client, bytes(1 << 20)))
        await until(pair.over)
        await asyncio.gather(with_error, return_exceptions=True)
        assert pair.ends == 1
        pair.close()
        assert pair.ends == 1

    asyncio.run(scenario())


def test_what_is_quiet_holds_no_pipe() -> None:
    async def scenario() -> None:
        before = open_files()
        pairs = [Pair() for _ in range(20)]
        loop = asyncio.get_running_loop()
        for pair in pairs:
            await loop.sock_sendall(pair.client, b"x")
            assert await drain(pair.server, 1) == b"x"
        # Four sockets and one pipe that waits for the next, each.
        assert open_files() - before == 6 * len(pairs)
        for pair in pairs:
            pair.close()
        assert open_files() == before

    asyncio.run(scenario())
