"""One member against the transfers of a real daemon: streams that it does not read, calls that say nothing, artifacts
that it announces.

For the last it owns an application, votes alone and is its root, so that whatever it proposes is in order but for the
size of the model: the daemon has every reason to fetch it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Any

import grpc
import msgspec

from dht.messages import RecordPush
from dht.records import Kind, sign_record
from fl import spec as specs
from node.artifacts import ArtifactStore
from node.demo.processes import DemoNode, Fleet, anonymous_bytes, temporary_fleet
from node.identity.keys import Ed25519Verifier, Key
from node.identity.membership import Membership
from node.links import bulk, channels
from node.links.frames import PushPlease
from node.links.streams import DialledStream
from protocol import wire
from protocol.errors import Code, MyceliaError
from protocol.ids import BlobId
from protocol.messages import Contact, Value
from protocol.signing import Sealer
from pubsub import sizes
from pubsub.heads import Head, Link, Warrant
from pubsub.messages import Accept
from pubsub.proofs import Proofs

from ..report import Aim
from .joining import join
from .measured import Measured

MB = 1 << 20
ARTIFACTS, SIZE = 20, 16 * MB
PUSHES = 4000
ANNOUNCED = 10 << 30
LONGEST = 20.0
"""Seconds that are waited for anything."""


class Member:
    """A certificate and connections to the daemon."""

    def __init__(self, membership: Membership, target: DemoNode, port: int) -> None:
        self.membership = membership
        self.me = Contact(membership.node, (), 1)
        self._peer, self._address = bytes.fromhex(target.id), f"127.0.0.1:{port}"

    async def channel(self) -> Any:
        return await channels.open_channel(self._peer, [self._address], self.membership.credentials, LONGEST)

    async def fetch(self, blob: BlobId) -> float:
        """Seconds for all of one artifact; ``LONGEST`` when it does not come."""
        started, channel = time.monotonic(), await self.channel()
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
            async with asyncio.timeout(LONGEST):
                size = 0
                async for chunk in channel.unary_stream(channels.FETCH)(bulk.encode(bulk.Want(blob, SIZE, 0))):
                    size += len(chunk)
                assert size == SIZE
        await channel.close()
        return min(time.monotonic() - started, LONGEST)


class Attack:
    """One daemon with artifacts, a liar, somebody honest, and the numbers."""

    def __init__(self, fleet: Fleet, target: DemoNode, blobs: list[BlobId], measured: Measured) -> None:
        self._fleet, self._target, self._blobs, self._measured = fleet, target, blobs, measured

    async def run(self) -> None:
        port = self._fleet.ports[self._target.index]
        liar, honest = [
            Member((await join(self._fleet, self._target, name))[0], self._target, port) for name in ("liar", "honest")
        ]
        self._aim("honest fetch of 16 MiB before", await honest.fetch(self._blobs[0]), 2.0, "s")
        for count in (8, 16):
            await self._unread(liar, honest, count)
        await self._headerless(liar)
        await self._announced(liar)
        alive = self._target.process is not None and self._target.process.poll() is None
        self._measured.aims.append(Aim("the daemon lives", float(alive), 1, at_least=True))
        counters = (await self._target.service.status()).counters
        self._aim("failures of its own", sum(n for name, n in counters.items() if name.startswith("failures_")), 0)

    def _aim(self, name: str, value: float, bound: float, unit: str = "") -> None:
        self._measured.aims.append(Aim(name, value, bound, unit=unit))

    async def _unread(self, liar: Member, honest: Member, count: int) -> None:
        channel = await liar.channel()
        calls = [
            channel.unary_stream(channels.FETCH)(bulk.encode(bulk.Want(self._blobs[1 + number], SIZE, 0)))
            for number in range(count)
        ]
        await asyncio.sleep(0.5)  # until those that get a place have filled their windows
        self._aim(f"honest fetch beside {count} unread streams", await honest.fetch(self._blobs[0]), 2.0, "s")
        for call in calls:
            call.cancel()
        await channel.close()

    async def _headerless(self, liar: Member) -> None:
        before, channel = anonymous_bytes(self._target.pid), await liar.channel()
        calls = [channel.stream_unary(channels.PUSH)() for _ in range(PUSHES)]
        peak, until = before, time.monotonic() + 4.0
        while time.monotonic() < until:
            peak = max(peak, anonymous_bytes(self._target.pid))
            await asyncio.sleep(0.1)
        for call in calls:
            call.cancel()
        await channel.close()
        self._aim(f"memory for {PUSHES} Push streams without a header", (peak - before) / 1e6, 32, "MB")

    # ---- artifacts that are announced ----------------------------------------------------------------------------

    async def _announced(self, liar: Member) -> None:
        """A model of 10 GiB that the descriptor allows, and one beyond what it allows."""
        channel = await liar.channel()
        stream = await DialledStream.open(channel)
        before = (await self._target.service.status()).counters
        for initial, size, fetched in ((3 << 30, ANNOUNCED, True), (MB, sizes.limit(Value(MB)) + 1, False)):
            record, accept = self._proposal(liar, Value(initial, blob=os.urandom(32)), Value(size, blob=os.urandom(32)))
            await stream.write(wire.encode(RecordPush((record,))))
            await stream.write(wire.encode(accept))
            asked = await self._is_asked(stream, accept.head.model.blob, LONGEST if fetched else 1.0)
            what = "10 GiB within its bound is asked for" if fetched else "a byte beyond its bound is not asked for"
            self._measured.aims.append(Aim(f"a model of {what}", float(asked == fetched), 1, at_least=True))
        after = (await self._target.service.status()).counters
        told = f"penalties_{Code.OVERSIZE.name.lower()}"
        self._aim("artifacts that an announcement of 10 GiB evicts", after["artifacts_evicted"], 0)
        counted = after.get(told, 0) - before.get(told, 0)
        self._measured.aims.append(Aim("penalties for what is too large", counted, 1, at_least=True))
        await stream.close()
        await channel.close()

    def _proposal(self, liar: Member, initial: Value, model: Value) -> tuple[Any, Accept]:
        me, proofs = liar.me, Proofs(Sealer(liar.membership.key, Ed25519Verifier()))
        owner = Key.load(self._target.state / "owner.key")
        spec = specs.AppSpec("large", owner.public_key, os.urandom(8), 0, (me,), 10, initial, me)
        end = int(time.time()) + 86400
        record = sign_record(owner, Kind.APP, spec.id, 1, end, specs.encode(spec))
        first = Head(spec.id, 1, 0, me, (me,), initial)
        head = msgspec.structs.replace(first, round=1, model=model)
        before, statement = first.statement(), head.statement()
        assert before is not None
        assert statement is not None
        base = Link(before, (proofs.accept(before.digest()),))
        return record, Accept(head, Warrant(proofs.propose(statement.digest()), (), base))

    @staticmethod
    async def _is_asked(stream: DialledStream, blob: BlobId, limit: float) -> bool:
        """Does the daemon want ``blob`` within ``limit`` seconds?  It cannot dial us, so it would say so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while (frame := await stream.read()) is not None:
                    with contextlib.suppress(MyceliaError):
                        message, _ = wire.decode(frame)
                        if isinstance(message, PushPlease) and message.blob == blob:
                            return True
        return False


async def _hold(target: DemoNode) -> list[BlobId]:
    """Artifacts that a daemon finds in its store when it starts."""
    store = ArtifactStore(target.state / "artifacts")
    store.open()
    blobs = [await store.put(os.urandom(SIZE)) for _ in range(ARTIFACTS)]
    for blob in blobs:
        await store.persist(blob)
    store.close()
    return blobs


async def _run(measured: Measured) -> None:
    with temporary_fleet(alpha=0.5, seed=1) as fleet:
        await fleet.start(1)
        fleet.close_daemons()
        target = fleet.nodes[0]
        blobs = await _hold(target)
        await fleet.restart(target)
        await Attack(fleet, target, blobs, measured).run()


def measure() -> Measured:
    """Attack one daemon."""
    measured = Measured()
    asyncio.run(_run(measured))
    return measured
