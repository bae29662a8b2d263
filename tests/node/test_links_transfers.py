"""Transfers on real sockets: fetch, push, cut-through, resume, lies, bounds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from dht.messages import Ping
from node.artifacts import ArtifactStore
from node.blobs import MIN_CHUNK, chunk_size
from node.links import bulk, channels
from node.links.bulk import Want
from node.links.frames import PushPlease
from protocol.errors import Code, TransportError
from protocol.events import Event, TransferDone, TransferFailed
from protocol.ids import blob_id
from protocol.messages import Contact

from .fabric import Fabric, until
from .hosts import Host, hosts

pytestmark = pytest.mark.net
CONTENT = os.urandom(6 * MIN_CHUNK + 123)
BLOB = blob_id(CONTENT)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


def store_of(host: Host) -> ArtifactStore:
    assert host.artifacts is not None
    return host.artifacts


def outcome(host: Host) -> list[Event]:
    return [event for event in host.events if isinstance(event, TransferDone | TransferFailed)]


async def whole(host: Host) -> bytes:
    await until(lambda: outcome(host))
    assert outcome(host) == [TransferDone(BLOB)]
    return await store_of(host).read(BLOB)


def test_fetch_from_a_holder_and_once_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(2, directory=tmp_path) as (a, b):
            await store_of(a).put(CONTENT)
            b.transfers.start(a.id, BLOB, len(CONTENT))
            b.transfers.start(a.id, BLOB, len(CONTENT))
            assert await whole(b) == CONTENT
            b.transfers.start(a.id, BLOB, len(CONTENT))
            assert outcome(b) == [TransferDone(BLOB)] * 2
            assert a.transfers.counters["bytes_out"] == b.transfers.counters["bytes_in"] == len(CONTENT)

    run(scenario)


def test_an_empty_handed_holder_is_no_crime(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(2, directory=tmp_path) as (a, b):
            b.transfers.start(a.id, BLOB, len(CONTENT))
            await until(lambda: outcome(b))
            (failed,) = outcome(b)
            assert isinstance(failed, TransferFailed)
            assert failed.progress == 0
            assert "not_found" in failed.why
            with pytest.raises(TransportError, match="not_found"):
                await b.transfers.bring(a.id, BLOB, len(CONTENT))
            assert not b.links.penalties.counts

    run(scenario)


def test_an_artifact_passes_through_while_it_arrives_and_resumes_when_the_middle_dies(tmp_path: Path) -> None:
    """source → middle → leaf; the middle stops half-way and the leaf goes on from the source."""

    async def scenario() -> None:
        fabric = Fabric(3)
        async with hosts(3, directory=tmp_path, fabric=fabric) as (source, middle, leaf):
            writer = await store_of(source).receive(BLOB, len(CONTENT))
            await writer.write(CONTENT[: 2 * MIN_CHUNK])
            middle.transfers.start(source.id, BLOB, len(CONTENT))
            await until(lambda: store_of(middle).progress(BLOB) == 2 * MIN_CHUNK)
            leaf.transfers.start(middle.id, BLOB, len(CONTENT))
            await until(lambda: store_of(leaf).progress(BLOB) == 2 * MIN_CHUNK)
            await middle.stop()
            await until(lambda: outcome(leaf))
            (failed,) = outcome(leaf)
            assert isinstance(failed, TransferFailed)
            assert failed.progress == 2 * MIN_CHUNK
            leaf.events.clear()
            leaf.transfers.start(source.id, BLOB, len(CONTENT))
            await writer.write(CONTENT[2 * MIN_CHUNK :])
            await writer.finish()
            writer.close()
            assert await whole(leaf) == CONTENT
            assert source.transfers.counters["bytes_out"] == len(CONTENT)

    run(scenario)


def test_a_newer_source_replaces_an_older_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(3, directory=tmp_path) as (slow, good, leaf):
            writer = await store_of(slow).receive(BLOB, len(CONTENT))
            await writer.write(CONTENT[:MIN_CHUNK])
            await store_of(good).put(CONTENT)
            leaf.transfers.start(slow.id, BLOB, len(CONTENT))
            await until(lambda: store_of(leaf).progress(BLOB) == MIN_CHUNK)
            leaf.transfers.start(good.id, BLOB, len(CONTENT))
            assert await whole(leaf) == CONTENT
            assert good.transfers.counters["bytes_out"] == len(CONTENT) - MIN_CHUNK
            writer.close()

    run(scenario)


def test_a_cancelled_transfer_is_heard_of_no_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(2, directory=tmp_path) as (slow, leaf):
            writer = await store_of(slow).receive(BLOB, len(CONTENT))
            await writer.write(CONTENT[:MIN_CHUNK])
            leaf.transfers.start(slow.id, BLOB, len(CONTENT))
            await until(lambda: store_of(leaf).progress(BLOB) == MIN_CHUNK)
            leaf.transfers.cancel(BLOB)
            with pytest.raises(TransportError):
                await leaf.transfers.bring(slow.id, b"\0" * 32, 1)
            assert not outcome(leaf)
            writer.close()

    run(scenario)


def lying_fetch(content: bytes) -> dict[str, Any]:
    async def fetch(_request: bytes, context: Any) -> None:
        for start in range(0, len(content), MIN_CHUNK):
            await context.write(content[start : start + MIN_CHUNK])

    return {"Fetch": grpc.unary_stream_rpc_method_handler(fetch)}


def test_a_liar_is_counted_and_whoever_passed_the_lie_on_is_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        fabric = Fabric(3)
        async with hosts(3, directory=tmp_path, fabric=fabric, silent=[0]) as (liar, middle, leaf):
            bound = await liar.links.listen(["127.0.0.1:0"], lying_fetch(CONTENT[::-1]))
            liar.book[liar.id] = Contact(liar.id, bound)
            middle.transfers.start(liar.id, BLOB, len(CONTENT))
            leaf.transfers.start(middle.id, BLOB, len(CONTENT))
            await until(lambda: outcome(middle) and outcome(leaf))
            assert middle.links.penalties.counts == {Code.BAD_DIGEST.name: 1}
            assert not leaf.links.penalties.counts
            assert store_of(leaf).progress(BLOB) == store_of(middle).progress(BLOB) == 0

    run(scenario)


def test_a_flood_is_cut_off_at_the_announced_size(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(2, directory=tmp_path, silent=[0]) as (liar, leaf):
            bound = await liar.links.listen(["127.0.0.1:0"], lying_fetch(CONTENT * 3))
            liar.book[liar.id] = Contact(liar.id, bound)
            leaf.transfers.start(liar.id, BLOB, len(CONTENT) - MIN_CHUNK)
            await until(lambda: outcome(leaf))
            assert leaf.links.penalties.counts == {Code.OVERSIZE.name: 1}

    run(scenario)


def test_a_holder_that_cannot_be_dialled_pushes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(2, directory=tmp_path, silent=[1]) as (gateway, leaf):
            await leaf.tell(gateway, Ping(1))
            await store_of(leaf).put(CONTENT)
            gateway.transfers.start(leaf.id, BLOB, len(CONTENT))
            assert await whole(gateway) == CONTENT
            gateway.events.clear()
            gateway.transfers.start(leaf.id, b"\1" * 32, 5)
            await until(lambda: outcome(gateway))
            (failed,) = outcome(gateway)
            assert isinstance(failed, TransferFailed)
            assert "no artifact" in failed.why

    run(scenario)


def test_a_push_resumes_and_fails_with_its_link(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(2, directory=tmp_path, silent=[1]) as (gateway, leaf):
            await leaf.tell(gateway, Ping(1))
            writer = await store_of(leaf).receive(BLOB, len(CONTENT))
            await writer.write(CONTENT[:MIN_CHUNK])
            gateway.transfers.start(leaf.id, BLOB, len(CONTENT))
            await until(lambda: store_of(gateway).progress(BLOB) == MIN_CHUNK)
            leaf.transfers.drop(gateway.id)
            await until(lambda: outcome(gateway))
            (failed,) = outcome(gateway)
            assert isinstance(failed, TransferFailed)
            assert failed.progress == MIN_CHUNK
            gateway.events.clear()
            await writer.write(CONTENT[MIN_CHUNK:])
            await writer.finish()
            writer.close()
            gateway.transfers.start(leaf.id, BLOB, len(CONTENT))
            assert await whole(gateway) == CONTENT

    run(scenario)


def test_bad_requests_are_refused_and_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        fabric = Fabric(2)
        async with hosts(2, directory=tmp_path, fabric=fabric) as (a, b):
            await store_of(b).put(CONTENT)
            channel = await a.links.open_channel(b.id)
            for request, code in (
                (b"nonsense", grpc.StatusCode.INVALID_ARGUMENT),
                (bulk.encode(Want(BLOB, len(CONTENT) + 1, 0)), grpc.StatusCode.NOT_FOUND),
                (bulk.encode(Want(BLOB, len(CONTENT), len(CONTENT) + 1)), grpc.StatusCode.NOT_FOUND),
            ):
                call = channel.unary_stream(channels.FETCH)(request)
                assert await call.code() is code
            call = channel.stream_unary(channels.PUSH)()
            await call.write(bulk.encode(Want(BLOB, len(CONTENT), 0)))
            assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
            await channel.close()
            assert b.links.penalties.counts == {"MALFORMED": 1, "UNEXPECTED": 1}

    run(scenario)


def test_more_transfers_than_slots_wait_their_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(2, directory=tmp_path) as (a, b):
            contents = [bytes([i]) * (2 * MIN_CHUNK) for i in range(12)]
            for content in contents:
                b.transfers.start(a.id, await store_of(a).put(content), len(content))
            await until(lambda: len(outcome(b)) == 12)
            assert all(isinstance(event, TransferDone) for event in outcome(b))
            assert chunk_size(len(contents[0])) == MIN_CHUNK

    run(scenario)


def test_the_revoked_get_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(2, directory=tmp_path) as (holder, expelled):
            writer = await store_of(holder).receive(BLOB, len(CONTENT))
            await writer.write(CONTENT[:MIN_CHUNK])
            expelled.transfers.start(holder.id, BLOB, len(CONTENT))
            await until(lambda: store_of(expelled).progress(BLOB) == MIN_CHUNK)
            holder.links.revoke(expelled.id)
            await writer.write(CONTENT[MIN_CHUNK:])
            await writer.finish()
            writer.close()
            await until(lambda: outcome(expelled))
            expelled.events.clear()
            expelled.transfers.start(holder.id, BLOB, len(CONTENT))
            await until(lambda: outcome(expelled))
            (failed,) = outcome(expelled)
            assert isinstance(failed, TransferFailed)
            assert "permission_denied" in failed.why

    run(scenario)


def test_streams_that_one_member_does_not_read_leave_room_for_the_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        large = os.urandom(12 << 20)
        async with hosts(3, directory=tmp_path) as (holder, liar, honest):
            blob = await store_of(holder).put(large)
            channel = await liar.links.open_channel(holder.id)
            unread = [channel.unary_stream(channels.FETCH)(bulk.encode(Want(blob, len(large), 0))) for _ in range(8)]
            await until(lambda: len(holder.transfers._outgoing._running) == 2)
            honest.transfers.start(holder.id, blob, len(large))
            await until(lambda: outcome(honest))
            assert outcome(honest) == [TransferDone(blob)]
            assert len(holder.transfers._outgoing._running) == 2
            for call in unread:
                call.cancel()
            await channel.close()
            await until(lambda: not holder.transfers._calls)

    run(scenario)


def test_calls_of_one_member_are_counted_before_they_say_anything(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(2, directory=tmp_path) as (holder, liar):
            channel = await liar.links.open_channel(holder.id)
            pushes = [channel.stream_unary(channels.PUSH)() for _ in range(40)]
            await until(lambda: holder.transfers.counters["refused"] == 24)
            assert holder.transfers._calls == {liar.id: 16}
            await asyncio.gather(*(push.initial_metadata() for push in pushes[16:]))
            for push in pushes:
                push.cancel()
            await channel.close()
            await until(lambda: not holder.transfers._calls)

    run(scenario)


def test_a_push_without_a_header_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "HEADER", 0.05)

    async def scenario() -> None:
        async with hosts(2, directory=tmp_path) as (holder, liar):
            channel = await liar.links.open_channel(holder.id)
            assert await channel.stream_unary(channels.PUSH)().code() is grpc.StatusCode.CANCELLED
            assert not holder.transfers._calls
            await channel.close()

    run(scenario)


def test_requests_to_push_are_counted_like_calls(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with hosts(2, directory=tmp_path) as (holder, liar):
            for number in range(200):
                liar.links.send(holder.id, PushPlease(bytes([number]) * 32, 1 << 20, 0))
            await until(lambda: holder.links.counters["frames_in"] == 200)
            await until(lambda: not holder.transfers._calls)
            assert holder.links.counters["frames_out"] == 200

    run(scenario)
