"""Real handshakes over loopback: who gets through, and, for every way in which we know how to lie, who does not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from cryptography import x509

from node.identity.certificates import ONE_POSITION, Leaf, node_name, peer_of
from node.identity.credentials import (
    Configurations,
    Credentials,
    channel_credentials,
    roots_pem,
    server_credentials,
)
from node.identity.issuing import endorse, make_leaf
from node.identity.keys import Key
from protocol.errors import AuthError
from protocol.ids import NodeId
from tests.node.identity.lab import PEM, Lab, Member, forge_leaf, forgeries

pytestmark = pytest.mark.net

# The handshakes are judged by the C core's own clock.
NOW = int(time.time())
LAB = Lab(NOW)
SERVER, CLIENT = LAB.member(), LAB.member()
ROOTS = roots_pem(LAB.document.authorities)
TRICKS = sorted(forgeries(CLIENT, SERVER.node, NOW))


def shown(leaf: Leaf, roots: bytes = ROOTS) -> Credentials:
    return Credentials(leaf, roots)


HONEST_SERVER, HONEST_CLIENT = shown(SERVER.leaf(NOW)), shown(CLIENT.leaf(NOW))


class _Who(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every call with the id of the caller, or with the reason why it has none."""

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, request: bytes, context: Any) -> bytes:
        try:
            return peer_of(context.auth_context())
        except AuthError as error:
            return str(error).encode()


@contextlib.asynccontextmanager
async def serving(current: Callable[[], Credentials]) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Who(),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(current))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def call(target: str, peer: NodeId, credentials: grpc.ChannelCredentials | None) -> bytes | None:
    """Who the server takes us for; None when no connection came about."""
    options = [
        ("grpc.ssl_target_name_override", node_name(peer)),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options=options)
    else:
        channel = grpc.aio.secure_channel(target, credentials, options=options)
    async with channel:
        try:
            answer: bytes = await channel.unary_unary("/who/am_i")(b"", timeout=20)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None
    return answer


def handshake(server: Credentials, client: Credentials, expected: NodeId = SERVER.node) -> bytes | None:
    async def run() -> bytes | None:
        async with serving(lambda: server) as target:
            return await call(target, expected, channel_credentials(client))

    return asyncio.run(run())


def test_members_know_each_other() -> None:
    assert handshake(HONEST_SERVER, HONEST_CLIENT) == CLIENT.node


def test_the_server_has_to_be_the_one_that_was_dialled() -> None:
    assert handshake(HONEST_SERVER, HONEST_CLIENT, expected=CLIENT.node) is None


@pytest.mark.parametrize("trick", TRICKS)
def test_a_member_cannot_answer_in_anothers_place(trick: str) -> None:
    assert handshake(shown(forgeries(CLIENT, SERVER.node, NOW)[trick]), HONEST_CLIENT) is None


@pytest.mark.parametrize("trick", TRICKS)
def test_a_member_cannot_call_in_anothers_name(trick: str) -> None:
    assert handshake(HONEST_SERVER, shown(forgeries(CLIENT, SERVER.node, NOW)[trick])) is None


def _own_name(member: Member) -> list[x509.GeneralName]:
    return [x509.DNSName(node_name(member.node))]


@pytest.mark.parametrize("fault", ["expired", "ed25519", "foreign"])
@pytest.mark.parametrize("side", ["server", "client"])
def test_bad_leaves_are_refused_on_both_sides(fault: str, side: str) -> None:
    foreign = Lab(NOW)
    member = SERVER if side == "server" else CLIENT
    leaf = {
        "expired": forge_leaf(member, NOW, _own_name(member), life=-10),
        "ed25519": forge_leaf(member, NOW, _own_name(member), ed25519=True),
        "foreign": foreign.member().leaf(NOW),
    }[fault]
    if side == "server":
        assert handshake(shown(leaf), HONEST_CLIENT) is None
    else:
        assert handshake(HONEST_SERVER, shown(leaf)) is None


def test_a_node_endorsed_by_a_member_is_nobody() -> None:

    key = Key.generate()
    below = endorse(CLIENT.key, CLIENT.endorsement, key.public_key, 0, ONE_POSITION, NOW)
    leaf = make_leaf(key, below, NOW)
    member_pem = x509.load_der_x509_certificate(CLIENT.endorsement).public_bytes(PEM)
    longer = msgspec.structs.replace(leaf, chain_pem=leaf.chain_pem + member_pem)
    assert handshake(HONEST_SERVER, shown(longer)) is None


def test_without_a_client_certificate_or_without_tls_there_is_no_connection() -> None:
    async def run() -> None:
        async with serving(lambda: HONEST_SERVER) as target:
            assert await call(target, SERVER.node, grpc.ssl_channel_credentials(ROOTS)) is None
            assert await call(target, SERVER.node, None) is None
            assert await call(target, SERVER.node, channel_credentials(HONEST_CLIENT)) == CLIENT.node

    asyncio.run(run())


def test_the_next_handshake_sees_a_renewed_leaf_and_a_withdrawn_authority() -> None:
    other = Lab(NOW)
    stranger = other.member()
    both = roots_pem([*LAB.document.authorities, *other.document.authorities])
    current = HONEST_SERVER

    async def run() -> None:
        nonlocal current
        async with serving(lambda: current) as target:
            joined = channel_credentials(shown(stranger.leaf(NOW), both))
            assert await call(target, SERVER.node, joined) is None
            current = shown(SERVER.leaf(NOW), both)
            assert await call(target, SERVER.node, joined) == stranger.node
            current = shown(SERVER.leaf(NOW))
            assert await call(target, SERVER.node, joined) is None
            assert await call(target, SERVER.node, channel_credentials(HONEST_CLIENT)) == CLIENT.node

    asyncio.run(run())


def test_a_server_is_told_of_a_change_once_and_of_nothing_else() -> None:
    current = HONEST_SERVER
    told = Configurations(lambda: current)
    assert told.first is not None
    assert [told.changed() for _ in range(3)] == [None] * 3
    current = shown(SERVER.leaf(NOW))
    assert told.changed() is not None
    assert [told.changed() for _ in range(3)] == [None] * 3
    current = msgspec.structs.replace(current)
    assert told.changed() is None
    current = shown(current.leaf, roots_pem([*LAB.document.authorities, *Lab(NOW).document.authorities]))
    assert told.changed() is not None
    assert told.changed() is None


def test_thousands_of_strangers_do_not_end_a_server() -> None:
    # In a process of its own, because what this is about is a crash of the process.
    server = subprocess.run(
        [sys.executable, "-m", "tests.node.identity.test_credentials"], capture_output=True, timeout=120, check=False
    )
    assert server.returncode == 0, server.stderr[-2000:]
    assert server.stdout.split() == [b"served"]


async def _serve_strangers() -> None:
    def visit(port: int) -> None:
        waiting: list[socket.socket] = []
        for number in range(600):
            stranger = socket.create_connection(("127.0.0.1", port))
            stranger.sendall(b"" if number % 2 else b"no handshake " * 20)
            waiting.append(stranger)
            if len(waiting) > 50:
                waiting.pop(0).close()
        for stranger in waiting:
            stranger.close()

    async with serving(lambda: HONEST_SERVER) as target:
        port = int(target.rpartition(":")[2])
        await asyncio.gather(*(asyncio.to_thread(visit, port) for _ in range(4)))
        if await call(target, SERVER.node, channel_credentials(HONEST_CLIENT)) == CLIENT.node:
            print("served")  # noqa: T201 - how the test hears of it


if __name__ == "__main__":
    asyncio.run(_serve_strangers())
