"""Group commit: order, batching, what it waits for, what a failing disk does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from node import commits
from node.commits import Commits
from node.supervisor import Supervisor
from protocol.errors import StorageError
from protocol.events import Event, Stored


class Disk:
    """Remembers batches; holds them while ``gate`` is closed; fails as often as told."""

    def __init__(self) -> None:
        self.batches: list[dict[str, bytes | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures = 0

    async def write(self, batch: Mapping[str, bytes | None]) -> None:
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise StorageError("the disk is full", "free some space")
        self.batches.append(dict(batch))


async def setup() -> tuple[Disk, Commits, list[Event], list[list[bytes]]]:
    disk, events, named = Disk(), list[Event](), list[list[bytes]]()

    async def persist(values: Sequence[bytes]) -> None:
        named.append(list(values))

    return disk, Commits(disk, persist, events.append, Supervisor()), events, named


def test_what_comes_during_a_commit_goes_together_into_the_next() -> None:
    async def scenario() -> None:
        disk, group, events, named = await setup()
        disk.gate.clear()
        group.store("a", b"1")
        group.store("b", b"1")
        await asyncio.sleep(0)
        for value in (b"2", b"3", None):
            group.store("a", value)
        assert not events
        disk.gate.set()
        await group.flushed()
        assert disk.batches == [{"a": b"1", "b": b"1"}, {"a": None}]
        assert events == [Stored(key) for key in "abaaa"]
        assert named == [[b"1", b"1"], []]

    asyncio.run(scenario())


def test_a_failing_disk_delays_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "_FIRST_PAUSE", 0.001)

    async def scenario() -> None:
        disk, group, events, _ = await setup()
        disk.failures = 3
        group.store("a", b"1")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert group.failure == "the disk is full"
        await group.flushed()
        assert not group.failure
        assert disk.batches == [{"a": b"1"}]
        assert events == [Stored("a")]

    asyncio.run(scenario())
