"""The driver with a toy core: order of steps, timers, durability, restart, failures, two daemons on loopback."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dht.messages import Ping
from fl.notices import Leave, RingReady, SetClock, Start
from fl.tasks import Merge
from node import daemon as daemon_module
from node.artifacts import ArtifactStore
from node.daemon import DaemonConfig, MakeCore, NodeDaemon, now
from node.kvstore import KVStore
from protocol.effects import (
    CancelTimer,
    Compute,
    Disconnect,
    Effect,
    Emit,
    Penalize,
    Pin,
    Send,
    SetTimer,
    StartTransfer,
    Store,
)
from protocol.errors import Code, ConfigError, UsageError
from protocol.events import (
    Command,
    ComputeDone,
    Event,
    PeerDown,
    PeerUp,
    Received,
    Stored,
    TimerFired,
    TransferDone,
)
from protocol.ids import NodeId, blob_id
from protocol.messages import Contact

from .fabric import Fabric, Member, until

Reaction = Callable[[Event, int], Sequence[Effect]]


class Toy:
    """Writes down its events; answers commands whose request is a list of effects with these effects."""

    def __init__(self, me: Contact, restored: Mapping[str, bytes], wall_offset: int) -> None:
        self.me, self.restored, self.wall_offset = me, dict(restored), wall_offset
        self.events: list[Event] = []
        self.book: dict[NodeId, Contact] = {}
        self.reactions: dict[type[Event], Reaction] = {}
        self.inside = False

    def handle(self, event: Event, at: int) -> Sequence[Effect]:
        assert not self.inside, "a step began inside another"
        self.inside = True
        try:
            self.events.append(event)
            if isinstance(event, Command) and isinstance(event.request, list):
                return event.request
            react = self.reactions.get(type(event))
            return react(event, at) if react else ()
        finally:
            self.inside = False

    def contact(self, peer: NodeId) -> Contact | None:
        return self.book.get(peer)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


def made(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def build(path: Path, member: Member, make: MakeCore = Toy, **config: Any) -> NodeDaemon:
    return NodeDaemon(
        member.id,
        DaemonConfig(**config),
        credentials=lambda: member.credentials,
        make_core=make,
        state=KVStore(made(path) / "core.db"),
        artifacts=ArtifactStore(path / "artifacts"),
    )


def broken(_event: Event, _at: int) -> Sequence[Effect]:
    raise RuntimeError("a bug of ours")


def toy(daemon: NodeDaemon) -> Toy:
    core = daemon.core
    assert isinstance(core, Toy)
    return core


@asynccontextmanager
async def daemon_in(path: Path, member: Member | None = None, **config: Any) -> AsyncIterator[NodeDaemon]:
    daemon = build(path, member or Fabric(1).members[0], **config)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()
        assert not daemon.supervisor.failures


def test_a_wall_clock_that_is_set_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with daemon_in(tmp_path) as daemon:
            core = toy(daemon)
            truth = time.time_ns
            monkeypatch.setattr(daemon_module, "_CLOCK_PERIOD", 0)
            monkeypatch.setattr(time, "time_ns", lambda: truth() + 40 * 86400 * 10**9)
            daemon.command([])
            await until(lambda: any(isinstance(event.request, SetClock) for event in core.of(Command)))
            (told,) = [event.request for event in core.of(Command) if isinstance(event.request, SetClock)]
            assert abs(told.offset - core.wall_offset - 40 * 86400 * 10**9) < 10**9
            monkeypatch.undo()

    run(scenario)


def test_it_begins_with_start_and_ends_with_leave(tmp_path: Path) -> None:
    async def scenario() -> None:
        seeds = (Contact(b"s" * 16, ("127.0.0.1:1",)),)
        async with daemon_in(tmp_path, seeds=seeds, incarnation=7) as daemon:
            core = toy(daemon)
            assert core.me == daemon.me == Contact(core.me.id, (), 7)
        assert core.events == [Command(Start(seeds)), Command(Leave())]
        with pytest.raises(UsageError):
            _ = daemon.core
        await daemon.stop()

    run(scenario)


def test_timers_fire_in_order_are_replaced_and_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with daemon_in(tmp_path) as daemon:
            core, base = toy(daemon), now()
            ms = 1_000_000
            daemon.command(
                [
                    SetTimer(("b",), base + 20 * ms),
                    SetTimer(("a",), base + 10 * ms),
                    SetTimer(("never",), base + 5 * ms),
                    SetTimer(("b",), base + 30 * ms),
                    CancelTimer(("never",)),
                ]
            )
            await until(lambda: len(core.of(TimerFired)) == 2)
            assert core.of(TimerFired) == [TimerFired(("a",), base + 10 * ms), TimerFired(("b",), base + 30 * ms)]
            assert now() >= base + 30 * ms
            assert daemon.metrics()["timers"] == 0

    run(scenario)


def test_a_timer_that_is_due_does_not_fire_after_its_cancellation(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with daemon_in(tmp_path) as daemon:
            daemon.command([SetTimer(("late",), now() - 1)])
            daemon.command([CancelTimer(("late",))])
            daemon.command([SetTimer(("last",), now())])
            await until(lambda: toy(daemon).of(TimerFired))
            assert [event.timer for event in toy(daemon).of(TimerFired)] == [("last",)]

    run(scenario)


def test_stored_keys_come_back_in_order_and_survive_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        member = Fabric(1).members[0]
        async with daemon_in(tmp_path, member) as daemon:
            daemon.command([Store("a", b"1"), Store("b", b"2"), Store("gone", b"3")])
            daemon.command([Store("a", b"4"), Store("gone", None)])
            await until(lambda: len(toy(daemon).of(Stored)) == 5)
            assert [event.key for event in toy(daemon).of(Stored)] == ["a", "b", "gone", "a", "gone"]
        async with daemon_in(tmp_path, member) as daemon:
            assert toy(daemon).restored == {"a": b"4", "b": b"2"}

    run(scenario)


def test_a_stored_key_means_that_the_artifact_it_names_is_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        member, content = Fabric(1).members[0], b"model" * 100_000
        async with daemon_in(tmp_path, member) as daemon:
            blob = await daemon.artifacts.put(content)
            other = await daemon.artifacts.put(content + b"!")
            daemon.command([Pin(blob), Store("head", b"..." + blob)])
            await until(lambda: toy(daemon).of(Stored))
        async with daemon_in(tmp_path, member) as daemon:
            assert daemon.artifacts.has(blob)
            assert not daemon.artifacts.has(other)

    run(scenario)


def test_small_and_large_merges(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import load, save

    from fl.aggregate import layout_of
    from protocol.messages import EMPTY, Value
    from tests.fl.roles import spec

    async def scenario() -> None:
        async with daemon_in(tmp_path) as daemon:
            small, large = (save({"w": np.ones(n, np.float32)}) for n in (10, 400_000))
            value = Value(len(large), blob=await daemon.artifacts.put(large))
            little, much = (Value(len(small), small),) * 2, (value,) * 3
            daemon.command([Compute(1, Merge(b"a" * 16, spec(layout=layout_of(small)), little, (1, 1)))])
            daemon.command([Compute(2, Merge(b"a" * 16, spec(layout=layout_of(large)), much, (1, 1, 1)))])
            daemon.command([Compute(3, Merge(b"a" * 16, spec(initial=EMPTY), little, (1, 1)))])
            await until(lambda: len(toy(daemon).of(ComputeDone)) == 3)
            done = {event.job: event for event in toy(daemon).of(ComputeDone)}
            assert load(done[1].result.value.inline)["w"].tolist() == [2.0] * 10
            merged = load(await daemon.artifacts.read(done[2].result.value.blob))
            assert np.array_equal(merged["w"], np.full(400_000, 3, np.float32))
            assert done[3].result is None
            assert "does not say which tensors" in done[3].error

    run(scenario)


def test_notices_reach_subscribers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with daemon_in(tmp_path) as daemon:
            with daemon.subscribe() as notices:
                daemon.command([Emit(RingReady())])
                assert await anext(notices) == RingReady()

    run(scenario)


def test_a_failing_step_is_seen_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        path = tmp_path
        daemon = build(path, Fabric(1).members[0])
        await daemon.start()
        toy(daemon).reactions[Stored] = broken
        with caplog.at_level(logging.CRITICAL):
            daemon.command([Store("a", b"1")])
            await until(lambda: daemon.supervisor.failures == {"step": 1})
            daemon.command([Store("b", b"1"), Compute(1, None)])
            await until(lambda: daemon.supervisor.failures == {"step": 2})
        assert daemon.metrics()["failures_step"] == 2
        await until(lambda: [e.error for e in toy(daemon).of(ComputeDone)] == ["nobody computes nonetype"])
        await daemon.stop()

    run(scenario)


@pytest.mark.net
def test_two_daemons_talk_transfer_and_notice_each_others_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, second = Fabric(2).members
        listen = ("127.0.0.1:0",)
        async with daemon_in(tmp_path / "a", first, listen=listen) as a:
            async with daemon_in(tmp_path / "b", second, listen=listen) as b:
                toy(a).book[second.id] = b.me
                toy(b).book[first.id] = a.me
                toy(b).reactions[Received] = lambda event, at: [Send(first.id, Ping(2))]
                a.command([Send(second.id, Ping(1))])
                await until(lambda: Received(second.id, Ping(2)) in toy(a).events)
                assert toy(b).events[-2:] == [PeerUp(first.id), Received(first.id, Ping(1))]
                content = b"model" * 100_000
                blob = await a.artifacts.put(content)
                b.command([StartTransfer(first.id, blob, len(content))])
                await until(lambda: toy(b).of(TransferDone))
                assert await b.artifacts.read(blob_id(content)) == content
                b.command([Penalize(first.id, Code.UNEXPECTED)])
                b.command([Disconnect(first.id)])
                await until(lambda: PeerDown(second.id, "idle") in toy(a).events)
                a.command([Send(second.id, Ping(3))])
                await until(lambda: toy(a).events.count(Received(second.id, Ping(2))) == 2)
                assert b.metrics()["penalties_unexpected"] == 1
            await until(lambda: PeerDown(second.id, "closed") in toy(a).events)

    run(scenario)


@pytest.mark.net
def test_a_port_in_use_leaves_nothing_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, second = Fabric(2).members
        async with daemon_in(tmp_path / "a", first, listen=("127.0.0.1:0",)) as a:
            b = build(tmp_path / "b", second, listen=a.me.addresses)
            with pytest.raises(ConfigError, match="cannot listen"):
                await b.start()
            async with daemon_in(tmp_path / "b", second):
                pass

    run(scenario)
