"""The artifact store on a real directory: cut-through, resume, verification, pins, quota, durability."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.artifacts import ArtifactConfig, ArtifactStore
from node.blobs import MAX_CHUNK, MIN_CHUNK, DigestError, Reader, WorthlessError, Writer, chunk_size
from protocol.errors import LimitError, StorageError, UsageError
from protocol.ids import blob_id


@asynccontextmanager
async def store(path: Path, **settings: int) -> AsyncIterator[ArtifactStore]:
    artifacts = ArtifactStore(path, ArtifactConfig(reserve=0, **settings))
    artifacts.open()
    try:
        yield artifacts
    finally:
        artifacts.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def content_of(size: int, seed: int = 0) -> bytes:
    return (seed.to_bytes(1, "big") + os.urandom(63)) * (size // 64) + b"x" * (size % 64)


async def fill(writer: Writer, content: bytes, chunk: int, upto: int | None = None) -> None:
    while writer.progress < (len(content) if upto is None else upto):
        await writer.write(content[writer.progress : writer.progress + chunk])


async def drain(reader: Reader) -> bytes:
    try:
        return b"".join([chunk async for chunk in aiter_chunks(reader)])
    finally:
        reader.close()


async def aiter_chunks(reader: Reader) -> AsyncIterator[bytes]:
    while chunk := await reader.read():
        yield chunk


@given(st.integers(1, 1 << 40))
def test_chunks_are_about_a_sixty_fourth_within_bounds(size: int) -> None:
    assert MIN_CHUNK <= chunk_size(size) <= MAX_CHUNK


def test_what_is_put_can_be_read_mapped_and_found_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        content = content_of(3 * MAX_CHUNK + 17)
        async with store(tmp_path) as artifacts:
            blob = await artifacts.put(content)
            assert blob == blob_id(content) == await artifacts.put(content)
            assert artifacts.has(blob)
            assert artifacts.size(blob) == len(content)
            assert await artifacts.read(blob) == content
            assert mode(artifacts.path(blob)) == 0o600
            with artifacts.mapped(blob) as view:
                assert view == content
            with pytest.raises(UsageError):
                artifacts.reader(blob, len(content) + 1)
            await artifacts.persist(blob)
        async with store(tmp_path) as artifacts:
            assert await artifacts.read(blob) == content

    run(scenario)


def test_readers_follow_the_writer_and_get_the_end_only_when_it_is_verified(tmp_path: Path) -> None:
    async def scenario() -> None:
        content = content_of(5 * MIN_CHUNK + 5)
        blob = blob_id(content)
        async with store(tmp_path) as artifacts:
            writer = await artifacts.receive(blob, len(content))
            early, late = artifacts.reader(blob), artifacts.reader(blob, 2 * MIN_CHUNK)
            reading = [asyncio.ensure_future(drain(reader)) for reader in (early, late)]
            await fill(writer, content, MIN_CHUNK)
            await writer.settle()
            await asyncio.sleep(0)
            async with asyncio.timeout(5):
                while early.offset < 5 * MIN_CHUNK or late.offset < 5 * MIN_CHUNK:
                    await asyncio.sleep(0.001)
            assert not any(task.done() for task in reading)
            await writer.finish()
            assert await asyncio.gather(*reading) == [content, content[2 * MIN_CHUNK :]]
            writer.close()

    run(scenario)


@pytest.mark.parametrize("chunk", [1000, MIN_CHUNK, MIN_CHUNK + 1])
def test_chunks_of_any_size_may_arrive(tmp_path: Path, chunk: int) -> None:
    async def scenario() -> None:
        content = content_of(3 * MIN_CHUNK + 77)
        async with store(tmp_path) as artifacts:
            writer = await artifacts.receive(blob_id(content), len(content))
            reading = asyncio.ensure_future(drain(artifacts.reader(blob_id(content))))
            await fill(writer, content, chunk)
            await writer.finish()
            writer.close()
            assert await reading == content

    run(scenario)


def test_a_lie_leaves_nothing_behind_and_tells_its_readers(tmp_path: Path) -> None:
    async def scenario() -> None:
        content = content_of(2 * MIN_CHUNK)
        blob = blob_id(b"something else")
        async with store(tmp_path) as artifacts:
            writer = await artifacts.receive(blob, len(content))
            reading = asyncio.ensure_future(drain(artifacts.reader(blob)))
            await fill(writer, content, MIN_CHUNK)
            with pytest.raises(DigestError):
                await writer.finish()
            writer.close()
            with pytest.raises(WorthlessError):
                await reading
            assert not artifacts.has(blob)
            assert artifacts.progress(blob) == 0

    run(scenario)
    assert not list(tmp_path.iterdir())


def test_more_than_announced_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with store(tmp_path) as artifacts:
            writer = await artifacts.receive(b"\1" * 32, 10)
            with pytest.raises(LimitError):
                await writer.write(b"x" * 11)
            writer.close()
            with pytest.raises(UsageError):
                await artifacts.receive(b"short", 10)

    run(scenario)


@pytest.mark.parametrize("restart", [False, True])
def test_a_partial_resumes_where_it_was(tmp_path: Path, restart: bool) -> None:
    content = content_of(6 * MIN_CHUNK + 9)
    blob = blob_id(content)

    async def scenario() -> None:
        async with store(tmp_path) as artifacts:
            writer = await artifacts.receive(blob, len(content))
            await fill(writer, content, MIN_CHUNK, 4 * MIN_CHUNK)
            with pytest.raises(UsageError):
                await artifacts.receive(blob, len(content))
            writer.close()
            if not restart:
                await writer.settle()
                await finish(artifacts)
        if restart:
            async with store(tmp_path) as artifacts:
                await finish(artifacts)

    async def finish(artifacts: ArtifactStore) -> None:
        writer = await artifacts.receive(blob, len(content))
        assert writer.progress == 4 * MIN_CHUNK
        await fill(writer, content, MIN_CHUNK)
        await writer.finish()
        writer.close()
        assert await artifacts.read(blob) == content

    run(scenario)


def test_only_what_was_persisted_is_trusted_after_a_crash(tmp_path: Path) -> None:
    async def scenario() -> None:
        kept, loose = content_of(MIN_CHUNK, 1), content_of(MIN_CHUNK, 2)
        async with store(tmp_path) as artifacts:
            blobs = [await artifacts.put(kept), await artifacts.put(loose)]
            await artifacts.persist_named([b"..." + blobs[0] + b"..."])
            assert mode(artifacts.path(blobs[0])) == 0o400
        async with store(tmp_path) as artifacts:
            assert [artifacts.has(blob) for blob in blobs] == [True, False]
            writer = await artifacts.receive(blobs[1], len(loose))
            assert writer.progress == len(loose)
            await writer.finish()
            writer.close()
            assert artifacts.has(blobs[1])

    run(scenario)


def test_the_least_recently_used_makes_room_but_never_what_is_pinned_or_in_use(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with store(tmp_path, quota=4 * MIN_CHUNK) as artifacts:
            pinned = await artifacts.put(content_of(MIN_CHUNK, 1))
            artifacts.pin(pinned)
            read = await artifacts.put(content_of(MIN_CHUNK, 2))
            reader = artifacts.reader(read)
            old = await artifacts.put(content_of(MIN_CHUNK, 3))
            newer = await artifacts.put(content_of(MIN_CHUNK, 4))
            await artifacts.put(content_of(MIN_CHUNK, 5))
            assert [artifacts.has(blob) for blob in (pinned, read, old, newer)] == [True, True, False, True]
            with pytest.raises(StorageError, match="quota"):
                await artifacts.put(content_of(3 * MIN_CHUNK, 6))
            assert artifacts.has(newer)
            reader.close()
            artifacts.pin(pinned, keep=False)
            await artifacts.put(content_of(4 * MIN_CHUNK, 7))
            assert artifacts.metrics()["artifact_bytes"] == 4 * MIN_CHUNK

    run(scenario)


def test_what_is_announced_displaces_nothing_until_it_comes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with store(tmp_path, quota=20 * MIN_CHUNK) as artifacts:
            held = [await artifacts.put(content_of(MIN_CHUNK, seed)) for seed in range(19)]
            announced = content_of(18 * MIN_CHUNK, 99)
            writer = await artifacts.receive(blob_id(announced), len(announced))
            assert all(artifacts.has(blob) for blob in held)
            assert artifacts.metrics()["artifact_bytes"] == 19 * MIN_CHUNK
            for offset in range(0, 3 * MIN_CHUNK, MIN_CHUNK):
                await writer.write(announced[offset : offset + MIN_CHUNK])
            assert sum(artifacts.has(blob) for blob in held) == 17
            writer.close()
            await writer.settle()
            with pytest.raises(StorageError, match="quota"):
                await artifacts.receive(b"x" * 32, 21 * MIN_CHUNK)
            assert artifacts.evicted == 2

    run(scenario)


def test_of_what_never_came_nothing_is_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with store(tmp_path, quota=4 * MIN_CHUNK) as artifacts:
            for number in range(10):
                (await artifacts.receive(bytes([number]) * 32, 4 * MIN_CHUNK)).close()
            assert artifacts.metrics()["artifacts_partial"] == 0

    run(scenario)
    assert not list(tmp_path.rglob("*.part"))


def test_artifacts_are_bounded_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.artifacts.MAX_ARTIFACTS", 4)

    async def scenario() -> None:
        async with store(tmp_path) as artifacts:
            blobs = [await artifacts.put(bytes([number])) for number in range(6)]
            assert [artifacts.has(blob) for blob in blobs] == [False] * 2 + [True] * 4

    run(scenario)


def test_a_disk_that_fills_up_is_refused_before_it_is_full(tmp_path: Path) -> None:
    async def scenario() -> None:
        artifacts = ArtifactStore(tmp_path, ArtifactConfig(reserve=1 << 60))
        artifacts.open()
        with pytest.raises(StorageError, match="disk has"):
            await artifacts.put(content_of(MIN_CHUNK))
        artifacts.close()

    run(scenario)


def test_foreign_and_damaged_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("not ours")
    (tmp_path / ("ab" * 32)).touch()
    (tmp_path / ("cd" * 32 + ".part")).write_bytes(b"x" * 100)

    async def scenario() -> None:
        async with store(tmp_path) as artifacts:
            assert artifacts.metrics()["artifacts"] == 0
            writer = await artifacts.receive(bytes.fromhex("cd" * 32), 50)
            assert writer.progress == 0
            writer.close()
            assert (tmp_path / "README").exists()

    run(scenario)
