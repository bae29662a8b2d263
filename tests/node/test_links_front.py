"""The door, with a stand-in for gRPC behind it: who gets through, and what strangers hold."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from node import descriptors
from node.links.accepting import Acceptor
from node.links.front import Door, Front, FrontConfig, _complete, _plausible
from protocol.errors import ConfigError

from .fabric import until

pytestmark = pytest.mark.net

PEER, OTHER = b"p" * 16, b"q" * 16
HELLO = b"\x16\x03\x01\x00\x20\x01" + bytes(31)
"""The shape of a ClientHello; what is inside, TLS judges."""


class Lab:
    """A front on loopback and whoever is behind it."""

    def __init__(self, config: FrontConfig) -> None:
        self.handed: list[tuple[str, socket.socket]] = []
        """What was let through: the caller as gRPC would name it, and our end."""
        self.clients: list[socket.socket] = []
        self.behind = socket.socket(socket.AF_UNIX)
        self.front = Front(Door(self._listen), config)
        self.address = self.front.listen("127.0.0.1:0")
        self.target = ("127.0.0.1", int(self.address.rpartition(":")[2]))
        asyncio.get_running_loop().add_reader(self.behind, self._accept)

    def _listen(self, path: str) -> None:
        self.behind.bind(path)
        self.behind.listen(1024)
        self.behind.setblocking(False)

    def _accept(self) -> None:
        side, name = self.behind.accept()
        side.setblocking(False)
        self.handed.append((f"unix-abstract:{name[1:].decode()}", side))

    async def visit(self, said: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        client.bind((source, 0))
        before = self.front.counters["accepted"]
        with suppress(BlockingIOError):
            client.connect(self.target)
        await until(lambda: self.front.counters["accepted"] > before)
        self.clients.append(client)
        if said:
            await asyncio.get_running_loop().sock_sendall(client, said)
        return client

    async def through(self, source: str = "127.0.0.1") -> tuple[str, socket.socket]:
        """A visitor whose hello was answered."""
        before = len(self.handed)
        await self.visit(HELLO, source)
        await until(lambda: len(self.handed) > before)
        self.answer(before)
        return self.handed[before]

    def answer(self, index: int) -> None:
        self.handed[index][1].send(b"ServerHello")

    def standing(self, state: str) -> int:
        return self.front.standing()[state]


async def closed(client: socket.socket) -> bool:
    """Wait until the other side has closed."""
    with suppress(ConnectionError):
        async with asyncio.timeout(20):
            while await asyncio.get_running_loop().sock_recv(client, 4096):
                pass
    return True


@asynccontextmanager
async def lab(config: FrontConfig | None = None) -> AsyncIterator[Lab]:
    made = Lab(config or FrontConfig())
    try:
        yield made
    finally:
        made.front.close()
        made.front.close()
        asyncio.get_running_loop().remove_reader(made.behind)
        for side in (made.behind, *(side for _, side in made.handed), *made.clients):
            side.close()


def test_a_hello_is_handed_over_as_it_came_and_bytes_pass_both_ways() -> None:
    async def scenario() -> None:
        async with lab() as it:
            client = await it.visit(HELLO[:3])
            for byte in HELLO[3:]:
                await asyncio.get_running_loop().sock_sendall(client, bytes([byte]))
            await until(lambda: bool(it.handed))
            side = it.handed[0][1]
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(side, 4096) == HELLO
            await loop.sock_sendall(side, b"answer")
            assert await loop.sock_recv(client, 4096) == b"answer"
            await loop.sock_sendall(client, b"more")
            assert await loop.sock_recv(side, 4096) == b"more"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0",
        b"\x16\x02",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x20\x02",
        b"\x15",
    ],
)
def test_what_is_no_hello_never_reaches_grpc(said: bytes) -> None:
    async def scenario() -> None:
        async with lab() as it:
            assert await closed(await it.visit(said))
            assert not it.handed
            assert sum(it.front.standing().values()) == 0

    asyncio.run(scenario())


def test_a_record_is_judged_as_soon_as_it_can_be() -> None:
    assert all(_plausible(HELLO[:size]) for size in range(1, len(HELLO)))
    assert [size for size in range(len(HELLO) + 2) if _complete((HELLO + b"x")[:size])] == [len(HELLO), len(HELLO) + 1]


def test_who_waits_in_silence_keeps_nobody_out() -> None:
    async def scenario() -> None:
        async with lab(FrontConfig(waiting=12, waiting_each=8)) as it:
            silent = [await it.visit() for _ in range(50)]
            assert it.standing("waiting") == 8
            assert await closed(silent[0])
            await it.through()
            assert it.standing("waiting") == 7
            for last in range(2, 40):
                await it.visit(source=f"127.0.0.{last}")
            assert it.standing("waiting") == 12
            await it.through("127.0.0.99")

    asyncio.run(scenario())


def test_silence_ends_and_so_does_a_handshake_that_proves_nothing() -> None:
    async def scenario() -> None:
        async with lab(FrontConfig(hello_timeout=0)) as it:
            assert await closed(await it.visit())
            assert it.front.counters["late"] == 1
        async with lab(FrontConfig(handshake_timeout=0)) as it:
            assert await closed(await it.visit(HELLO))
            assert sum(it.front.standing().values()) == 0

    asyncio.run(scenario())


def test_handshakes_begin_one_at_a_time_and_parties_take_turns() -> None:
    async def scenario() -> None:
        async with lab(FrontConfig(start_timeout=60)) as it:
            for _ in range(5):
                await it.visit(HELLO)
            await it.visit(HELLO, "127.0.0.2")
            await until(lambda: it.standing("ready") == 5 and len(it.handed) == 1)
            it.answer(0)
            await until(lambda: len(it.handed) == 2)
            it.answer(1)
            await until(lambda: len(it.handed) == 3)
            sources = {v.name: v.party for v in it.front._by_name.values()}
            assert [sources[name.partition(":")[2]] for name, _ in it.handed[1:3]].count("127.0.0.2") == 1
            assert it.standing("ready") == 3
            # One that ends instead of being answered lets the next begin as well.
            it.handed[2][1].close()
            await until(lambda: len(it.handed) == 4)

    asyncio.run(scenario())


def test_an_answer_that_does_not_come_holds_up_nobody_for_ever() -> None:
    async def scenario() -> None:
        async with lab(FrontConfig(start_timeout=0)) as it:
            for _ in range(3):
                await it.visit(HELLO)
            await until(lambda: len(it.handed) == 3)
            assert it.standing("shaking") == 3

    asyncio.run(scenario())


def test_slow_handshakes_push_out_each_other_and_no_member() -> None:
    async def scenario() -> None:
        async with lab(FrontConfig(handshakes=6, handshakes_each=4)) as it:
            caller, _ = await it.through()
            it.front.admit(caller, PEER)
            for _ in range(20):
                await it.through()
            assert it.front.standing() == {"waiting": 0, "ready": 0, "shaking": 4, "members": 1}
            honest, _ = await it.through("127.0.0.2")
            it.front.admit(honest, OTHER)
            assert it.standing("members") == 2

    asyncio.run(scenario())


def test_a_member_is_no_stranger_however_often_it_calls() -> None:
    async def scenario() -> None:
        async with lab() as it:
            caller, _ = await it.through()
            for _ in range(3):
                it.front.admit(caller, PEER)
            assert it.front.counters["known"] == 1
            assert it.front.standing() == {"waiting": 0, "ready": 0, "shaking": 0, "members": 1}
            it.front.admit("unix-abstract:nobody", PEER)
            it.front.admit("unix:", PEER)
            assert it.standing("members") == 1

    asyncio.run(scenario())


def test_a_member_has_a_few_connections_and_loses_its_oldest() -> None:
    async def scenario() -> None:
        async with lab(FrontConfig(known_each=3)) as it:
            for _ in range(5):
                caller, _ = await it.through()
                it.front.admit(caller, PEER)
            other, _ = await it.through()
            it.front.admit(other, OTHER)
            assert it.standing("members") == 4
            assert await closed(it.clients[0])
            it.front.expel(PEER)
            assert it.standing("members") == 1
            assert await closed(it.clients[4])

    asyncio.run(scenario())


def test_the_last_descriptors_are_for_addresses_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with lab() as it:
            caller, _ = await it.through("127.0.0.2")
            it.front.admit(caller, PEER)
            monkeypatch.setattr(descriptors, "limit", lambda: 64)
            assert await closed(await it.visit(HELLO))
            await it.through("127.0.0.2")

    asyncio.run(scenario())


def test_without_a_descriptor_visitors_are_turned_away_and_the_door_stays_open() -> None:
    async def scenario() -> None:
        accepted: list[socket.socket] = []
        acceptor = Acceptor("127.0.0.1:0", "x", lambda connection, _: accepted.append(connection))
        clients = [socket.socket(), socket.socket()]
        for client in clients:
            client.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            await asyncio.get_running_loop().sock_connect(clients[0], ("127.0.0.1", acceptor.port))
            assert await closed(clients[0])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert not accepted
        await asyncio.get_running_loop().sock_connect(clients[1], ("127.0.0.1", acceptor.port))
        await until(lambda: len(accepted) == 1)
        acceptor.close()
        acceptor.close()
        for side in (*clients, *accepted):
            side.close()

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_a_sentence_with_a_remedy() -> None:
    async def scenario() -> None:
        async with lab() as it:
            with pytest.raises(ConfigError, match="in use") as caught:
                it.front.listen(it.address)
            assert "[node] listen" in caught.value.remedy
            with pytest.raises(ConfigError, match="cannot listen on"):
                it.front.listen("192.0.2.1:1")

    asyncio.run(scenario())


def test_the_soft_limit_of_open_files_becomes_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        assert descriptors.raise_limit() == descriptors.limit() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
