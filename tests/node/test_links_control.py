"""Control links on real sockets: symmetry, simultaneous dials, refusals, closes and deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest

from dht.messages import Ping, Record, RecordPush
from node.identity.certificates import node_name
from node.links import channels
from node.links.frames import Goodbye
from node.links.manager import LinkConfig
from protocol import wire
from protocol.errors import Code, ConfigError, TransportError
from protocol.events import SendFailed
from protocol.ids import short
from protocol.messages import Contact

from .fabric import Fabric, Member, until
from .hosts import Host, hosts
from .link_process import Setup

pytestmark = pytest.mark.net


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def address_of(host: Host, other: Host) -> str:
    contact = host.links._lookup(other.id)
    assert contact is not None
    return contact.addresses[0]


def test_both_dial_at_once_and_no_frame_is_lost() -> None:
    async def scenario() -> None:
        async with hosts(2) as (low, high):
            for nonce in range(100):
                low.links.send(high.id, Ping(nonce))
                high.links.send(low.id, Ping(nonce))
            await until(lambda: len(low.received(high.id)) == 100 and len(high.received(low.id)) == 100)
            await until(lambda: all(len(h.links._links[o.id].streams) == 1 for h, o in ((low, high), (high, low))))
            assert low.links._links[high.id].dialled
            assert not high.links._links[low.id].dialled
            for nonce in range(100, 200):
                low.links.send(high.id, Ping(nonce))
                high.links.send(low.id, Ping(nonce))
            await until(lambda: len(low.received(high.id)) == 200 and len(high.received(low.id)) == 200)
            assert sorted(m.nonce for m in low.received(high.id) if isinstance(m, Ping)) == list(range(200))
            assert low.changes(high.id) == high.changes(low.id) == ["up"]

    asyncio.run(scenario())


def test_a_link_carries_both_ways_whoever_dialled() -> None:
    async def scenario() -> None:
        async with hosts(2, silent=[1]) as (gateway, leaf):
            await leaf.tell(gateway, Ping(1))
            await gateway.tell(leaf, Ping(2))
            assert gateway.links.counters["dials"] == 0

    asyncio.run(scenario())


def test_unreachable_and_undialable_peers_give_the_message_back() -> None:
    async def scenario() -> None:
        async with hosts(2, silent=[1]) as (node, leaf):
            node.links.send(leaf.id, Ping(1))
            await until(lambda: SendFailed(leaf.id, Ping(1)) in node.events)
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                node.links._lookup = lambda peer: Contact(peer, (f"127.0.0.1:{taken.getsockname()[1]}",))
                node.links.send(leaf.id, Ping(2))
                await until(lambda: SendFailed(leaf.id, Ping(2)) in node.events)
            assert node.changes(leaf.id) == []
            await until(lambda: not node.links._links)

    asyncio.run(scenario())


def test_a_full_queue_fails_at_once() -> None:
    async def scenario() -> None:
        async with hosts(2, LinkConfig(queue_frames=4)) as (a, b):
            for nonce in range(6):
                a.links.send(b.id, Ping(nonce))
            assert [e.message for e in a.events if isinstance(e, SendFailed)] == [Ping(4), Ping(5)]
            await until(lambda: len(b.received(a.id)) == 4)

    asyncio.run(scenario())


def test_another_node_at_the_address_is_refused() -> None:
    async def scenario() -> None:
        async with hosts(3) as (a, b, c):
            wrong = Contact(c.id, (address_of(a, b),))
            a.links._lookup = lambda _: wrong
            a.links.send(c.id, Ping(1))
            await until(lambda: SendFailed(c.id, Ping(1)) in a.events)
            assert not b.received(a.id)
            assert not a.changes(c.id)

    asyncio.run(scenario())


async def call_control(address: str, credentials: grpc.ChannelCredentials | None, name: str) -> grpc.StatusCode:
    options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    target = f"ipv4:{address}"
    channel = (
        grpc.aio.secure_channel(target, credentials, options=options)
        if credentials
        else grpc.aio.insecure_channel(target, options=options)
    )
    async with channel:
        call = channel.stream_stream(channels.CONTROL)()
        assert channels.ACCEPTED not in tuple(await call.initial_metadata() or ())
        return await call.code()


def test_plaintext_no_certificate_foreign_fabric_and_noise_are_refused() -> None:
    async def scenario() -> None:
        fabric, foreign = Fabric(2), Fabric(1)
        async with hosts(2, fabric=fabric) as (a, b):
            name, address = node_name(b.id), address_of(a, b)
            roots = fabric.members[0].credentials.roots_pem
            leaf = foreign.members[0].credentials.leaf
            for credentials in (
                None,
                grpc.ssl_channel_credentials(roots),
                grpc.ssl_channel_credentials(roots, leaf.key_pem, leaf.chain_pem),
            ):
                assert await call_control(address, credentials, name) is grpc.StatusCode.UNAVAILABLE
            host, port = address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(os.urandom(65536))
            with suppress(ConnectionError):
                assert not await reader.read(100)
            writer.close()
            assert not b.events
            await a.tell(b, Ping(1))

    asyncio.run(scenario())


async def raw_link(fabric: Fabric, a: Host, b: Host) -> Any:
    """A control stream from ``a``'s identity to ``b``, without the manager, to misbehave with."""
    member = next(member for member in fabric.members if member.id == a.id)
    return await channels.open_channel(b.id, [address_of(a, b)], lambda: member.credentials, 5.0)


def test_bad_frames_are_counted_then_the_peer_is_refused() -> None:
    async def scenario() -> None:
        fabric = Fabric(2)
        async with hosts(2, LinkConfig(max_penalties=5), fabric=fabric) as (a, b):
            channel = await raw_link(fabric, a, b)
            call = channel.stream_stream(channels.CONTROL)()
            unknown = wire.encode(Ping(1)).replace(bytes([Ping.KIND]), b"\x7f", 1)
            await call.write(unknown)
            await until(lambda: b.links.penalties.counts == {"UNKNOWN_KIND": 1})
            for _ in range(6):
                await call.write(os.urandom(32))
            await until(lambda: b.changes(a.id) == ["up", "closed"])
            await channel.close()
            assert b.links.penalties.banned(a.id)
            a.links.send(b.id, Ping(2))
            await until(lambda: SendFailed(b.id, Ping(2)) in a.events)

    asyncio.run(scenario())


def test_a_message_that_is_too_large_to_send_is_counted_and_costs_nobody_anything() -> None:
    async def scenario() -> None:
        async with hosts(2) as (a, b):
            for message in (Ping(1), Ping(2, bytes(Ping.LIMIT)), Ping(3)):
                a.links.send(b.id, message)
            await until(lambda: len(b.received(a.id)) == 2)
            assert b.received(a.id) == [Ping(1), Ping(3)]
            assert a.links.counters["unsendable"] == 1
            assert not any(isinstance(event, SendFailed) for event in a.events)
            assert not b.links.penalties.counts

    asyncio.run(scenario())


def test_a_frame_over_the_limit_is_refused_before_it_is_decoded() -> None:
    async def scenario() -> None:
        fabric = Fabric(2)
        async with hosts(2, fabric=fabric) as (a, b):
            channel = await raw_link(fabric, a, b)
            call = channel.stream_stream(channels.CONTROL, request_serializer=None)()
            await call.write(b"\0" * (wire.MAX_FRAME + 1))
            await until(lambda: b.links.penalties.counts == {Code.OVERSIZE.name: 1})
            await channel.close()
            await until(lambda: b.changes(a.id) == ["up", "closed"])

    asyncio.run(scenario())


def test_idle_links_close_politely_and_come_back() -> None:
    async def scenario() -> None:
        async with hosts(2, LinkConfig(idle_close=0.2)) as (a, b):
            await a.tell(b, Ping(1))
            await until(lambda: a.changes(b.id) == b.changes(a.id) == ["up", "idle"])
            await b.tell(a, Ping(2))

    asyncio.run(scenario())


def test_links_of_outbound_only_peers_are_left_to_them() -> None:
    async def scenario() -> None:
        async with hosts(3, LinkConfig(max_links=1), silent=[0]) as (leaf, gateway, other):
            await leaf.tell(gateway, Ping(1))
            gateway.links.connect(other.id)
            await until(lambda: gateway.changes(other.id) == ["up", "idle"])
            assert gateway.changes(leaf.id) == ["up"]

    asyncio.run(scenario())


def test_an_end_without_goodbye_is_a_death() -> None:
    async def scenario() -> None:
        fabric = Fabric(2)
        async with hosts(2, fabric=fabric) as (a, b):
            channel = await raw_link(fabric, a, b)
            call = channel.stream_stream(channels.CONTROL)()
            await until(lambda: b.changes(a.id) == ["up"])
            call.cancel()
            await until(lambda: b.changes(a.id) == ["up", "closed"])
            call = channel.stream_stream(channels.CONTROL)()
            await call.write(wire.encode(Goodbye("revoked")))
            await until(lambda: b.changes(a.id) == ["up", "closed", "up", "closed"])
            await channel.close()

    asyncio.run(scenario())


@asynccontextmanager
async def process(member: Member, host: Host) -> AsyncIterator[asyncio.subprocess.Process]:
    """``member`` in a process of its own that has dialled ``host``, and is in the host's book."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.node.link_process", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(msgspec.msgpack.encode(Setup(member.id, member.credentials, host.book[host.id])))
        child.stdin.write_eof()
        address = (await child.stdout.readline()).decode().strip()
        host.book[member.id] = Contact(member.id, (address,))
        await until(lambda: host.received(member.id))
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@pytest.mark.parametrize("own_dial", [False, True])
def test_a_killed_process_is_noticed_by_its_socket_a_stopped_one_blocks_nobody(own_dial: bool) -> None:
    async def scenario() -> None:
        fabric = Fabric(2)
        members = fabric.members if own_dial else fabric.members[::-1]
        near = Fabric(0)
        near.members = members[:1]
        async with (
            hosts(1, LinkConfig(queue_bytes=1 << 16), fabric=near) as (host,),
            process(members[1], host) as child,
        ):
            peer = members[1].id
            if own_dial:
                host.links.disconnect(peer, "idle")
                await until(lambda: host.changes(peer) == ["up", "idle"])
                host.links.send(peer, Ping(2))
                await until(lambda: host.changes(peer) == ["up", "idle", "up"])
            child.send_signal(signal.SIGSTOP)
            record = RecordPush((Record(1, b"s" * 16, 1, 1, b"", bytes(30_000)),))
            for _ in range(300):
                host.links.send(peer, record)
                await asyncio.sleep(0)
            await until(lambda: any(isinstance(event, SendFailed) for event in host.events))
            child.kill()
            await until(lambda: host.changes(peer)[-1] == "closed", patience=2.0)

    asyncio.run(scenario())


def test_what_was_sent_before_a_close_arrives() -> None:
    async def scenario() -> None:
        async with hosts(2) as (a, b):
            for nonce in range(20):
                a.links.send(b.id, Ping(nonce))
            await until(lambda: a.changes(b.id) == ["up"])
            a.links.disconnect(b.id, "idle")
            await until(lambda: b.changes(a.id) == ["up", "idle"])
            assert len(b.received(a.id)) == 20

    asyncio.run(scenario())


def test_revoked_members_are_dropped_and_refused() -> None:
    async def scenario() -> None:
        async with hosts(2) as (a, b):
            await a.tell(b, Ping(1))
            b.links.revoke(a.id)
            assert b.changes(a.id) == ["up", "revoked"]
            await until(lambda: a.changes(b.id) == ["up", "closed"])
            a.links.send(b.id, Ping(2))
            await until(lambda: SendFailed(b.id, Ping(2)) in a.events)
            assert b.links.counters["refused"] == 1

    asyncio.run(scenario())


def test_why_a_peer_refuses_a_link_stands_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with hosts(2) as (a, b):
            caplog.set_level("INFO", "mycelia.node.links")
            b.links.revoke(a.id)
            for nonce in range(5):
                a.links.send(b.id, Ping(nonce))
                await until(lambda nonce=nonce: SendFailed(b.id, Ping(nonce)) in a.events)  # type: ignore[misc]
            assert caplog.messages == [f"no link to {short(b.id)}: refused: membership revoked"]
            assert a.links.disowned == [b.id]

    asyncio.run(scenario())


def test_a_port_in_use_is_one_sentence() -> None:
    async def scenario() -> None:
        async with hosts(2) as (a, b):
            assert a.links.front is not None
            with pytest.raises(ConfigError, match="cannot listen on"):
                a.links.front.listen(address_of(a, b))

    asyncio.run(scenario())


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on loopback")
@pytest.mark.parametrize("listen", ["[::1]:0", "[::]:0"])
def test_ipv6_and_dual_stack(listen: str) -> None:
    async def scenario() -> None:
        async with hosts(2, silent=[1]) as (a, b):
            (bound,) = await b.links.listen([listen], {})
            port = channels.split_address(bound)[1]
            unreachable = "[::1]:1"
            for host in ["[::1]"] if listen == "[::1]:0" else ["[::1]", "127.0.0.1"]:
                a.book[b.id] = Contact(b.id, (unreachable, f"{host}:{port}"))
                await a.tell(b, Ping(1))
                a.links.disconnect(b.id, "idle")
                await until(lambda: not a.links.linked(b.id))

    asyncio.run(scenario())


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:99999", "::1:80", "host:-1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError):
        channels.split_address(address)


def test_a_dial_is_bounded() -> None:
    async def scenario() -> None:
        fabric = Fabric(2)
        member = fabric.members[0]
        with socket.create_server(("127.0.0.1", 0), backlog=1) as mute:
            address = f"127.0.0.1:{mute.getsockname()[1]}"
            with pytest.raises(TransportError, match="no answer within"):
                await channels.open_channel(fabric.members[1].id, [address], lambda: member.credentials, 0.2)

    asyncio.run(scenario())


def test_words_of_a_refusal_that_sound_like_a_revocation_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with hosts(2) as (a, b):
            monkeypatch.setattr(b.links, "refusal", lambda peer: "membership revoked")
            a.links.send(b.id, Ping(1))
            await until(lambda: SendFailed(b.id, Ping(1)) in a.events)
            assert b.links.counters["refused"] == 1
            assert a.links.disowned == []

    asyncio.run(scenario())
