"""Members who lie about records and places: made-up owners, displaced revocations, chosen ids, false answers.

The records go through one real core with real signatures and a real database, since what is left on disk counts; the
searches through a ring of cores on the engine, a tenth of which answer every search with their accomplices.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from dht.lookup import Lookup
from dht.messages import FindReplicas, Record, RecordPush, Replicas
from dht.records import Kind, sign_record
from fl import spec as specs
from fl.notices import FindVoters, Publish, ReplicasFound, Start
from node.core import CoreConfig, NodeCore
from node.identity.issuing import make_authority, nonce_for
from node.identity.keys import Ed25519Verifier, Key
from node.identity.membership import Authority
from node.kvstore import KVStore
from protocol import effects as fx
from protocol import events as ev
from protocol.ids import closeness, ring_id
from protocol.messages import Contact, Routed, Value
from simulations.clock import SECOND
from simulations.mutants.planting import patched
from simulations.scenario import Applications, Nodes, Scenario
from simulations.world import World

from ..report import Aim
from .measured import Measured

DAY = 86400
FLOOD = 4096
NODES = 64
LIARS = 6
SEARCHES = 40
GRIND = 20_000
BODY = 16 * 1024
"""Bytes of a large made-up descriptor."""


class Victim:
    """A core with a database, fed by hand."""

    def __init__(self, state: KVStore, owner: bytes, issuer: bytes) -> None:
        self.key = Key.generate()
        self.me = Contact(ring_id(0, self.key.public_key), ("127.0.0.1:1",), 1)
        self.relay = Contact(ring_id(0, b"relay"), ("127.0.0.1:2",), 1)
        self._state, self._wall = state, int(time.time())
        restored = state.load()
        self.stored = sum(key.startswith("record/") for key in restored)
        """Records on disk at the start."""
        self.penalties: Counter[str] = Counter()
        self.core = NodeCore(
            self.me, CoreConfig(), signer=self.key, verifier=Ed25519Verifier(), seed=1, wall_offset=self._wall * SECOND,
            restored=restored, owns=owner.__eq__, authorise=lambda record: record.signer == issuer,
        )  # fmt: skip

    async def feed(self, event: ev.Event) -> None:
        batch: dict[str, bytes | None] = {}
        for effect in self.core.handle(event, SECOND):
            if isinstance(effect, fx.Store):
                batch[effect.key] = effect.value
            elif isinstance(effect, fx.Penalize):
                self.penalties[effect.code.name] += 1
        if batch:
            await self._state.write(batch)

    async def relayed(self, records: Iterable[Record]) -> None:
        for record in records:
            await self.feed(ev.Received(self.relay.id, RecordPush((record,))))

    def holds(self, record: Record) -> bool:
        return record in list(self.core.ring.records)


def _descriptor(owner: Key, number: int, expires: int, size: int = 1) -> Record:
    here = Contact(ring_id(0, b"home"), ("127.0.0.1:3",), 1)
    value = Value(size, bytes(size))
    spec = specs.AppSpec("made up", owner.public_key, number.to_bytes(8, "big"), 0, (here,), 1, value, here)
    return sign_record(owner, Kind.APP, spec.id, 1, expires, specs.encode(spec))


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))


async def _flood(directory: Path, measured: Measured) -> None:
    owner, issuer, stranger = Key.generate(), Key.generate(), Key.generate()
    path, end = directory / "core.db", int(time.time()) + 399 * DAY
    state = KVStore(path)
    victim = Victim(state, owner.public_key, issuer.public_key)
    await victim.feed(ev.Command(Start((victim.relay,))))
    revocation = sign_record(issuer, Kind.REVOCATION, b"r" * 16, 1, end - 9 * DAY, b"")
    await victim.relayed([revocation])
    before = _size(path)
    await victim.relayed(_descriptor(stranger, number, end, BODY) for number in range(FLOOD))
    after = _size(path)
    forged = msgspec.structs.replace(_descriptor(owner, 1, end), signature=bytes(64))
    await victim.relayed([forged])
    own = _descriptor(owner, 7, int(time.time()) + 90 * DAY)
    await victim.feed(ev.Command(Publish(own)))
    runs = victim.holds(own)
    await victim.relayed(_descriptor(owner, number, end, 2048) for number in range(100, 100 + FLOOD))
    displaced = not victim.holds(revocation)
    held = len(victim.core.ring.records)
    await state.close()
    state = KVStore(path)
    again = Victim(state, owner.public_key, issuer.public_key)
    await again.feed(ev.Command(Start((again.relay,))))
    remembered = again.holds(revocation)
    await state.close()
    measured.aims += [
        Aim("disk taken by made-up owners", after - before, 0, unit="B"),
        Aim("the owner still runs", runs, 1, at_least=True),
        Aim("revocations displaced", displaced, 0),
        Aim("revocation known after a restart", remembered, 1, at_least=True),
        Aim("records on disk that are not held", again.stored - held, 0),
        Aim("penalties for what a relay cannot check", victim.penalties.total() - victim.penalties["BAD_SIGNATURE"], 0),
        Aim("bad signatures that cost the relay", victim.penalties["BAD_SIGNATURE"], 1, at_least=True),
    ]
    measured.facts |= {
        "descriptors sent, bytes": (FLOOD, FLOOD * BODY),
        "core.db before, after, bytes": (before, after),
        "penalties": dict(victim.penalties),
    }


def _grinding(measured: Measured) -> None:
    """How much closer to a chosen key a node comes by making many keys: without the authority, not at all."""
    issuer = Key.generate()
    authority = Authority(issuer, make_authority(issuer, "hostile", int(time.time())))
    target = bytes(2) + hashlib.sha256(b"target").digest()[:14]
    keys = [number.to_bytes(32, "big") for number in range(GRIND)]
    guessed = min(keys, key=lambda key: closeness(target, ring_id(0, key)))
    place = authority.node(guessed, 0)
    rank = sum(closeness(target, ring_id(0, key, b"n")) < closeness(target, place) for key in keys[:1000])
    places = {ring_id(0, guessed, nonce_for(issuer, guessed)) for _ in range(100)}
    measured.aims += [
        Aim("places that one key gets", len(places), 1),
        Aim("nodes of 1000 nearer than the best of 20,000 keys", rank, 10, at_least=True),
    ]


def _eclipse(measured: Measured) -> None:
    """A tenth of the nodes answers every search with accomplices."""
    scenario = Scenario(name="eclipse", nodes=Nodes(count=NODES, join_s=10.0), applications=Applications(count=0))
    world = World(scenario, 1)
    world.populate()
    engine = world.engine
    engine.schedule.run(60 * SECOND)
    liars = {host.id: host.contact for host in world.members[1 : 1 + LIARS]}
    honest = Lookup.on_request

    def on_request(self: Lookup, routed: Routed, now: int) -> None:
        request, me = routed.message, self._view.me.id
        if me in liars and routed.origin.id != me and isinstance(request, FindReplicas):
            self._view.learn(routed.origin)
            self._view.out.send(routed.origin.id, Replicas(request.token, tuple(liars.values())))
        else:
            honest(self, routed, now)

    found: list[tuple[Contact, ...]] = []
    # Nobody submits anything here: the searches are ours.
    engine.taps.pop(ReplicasFound)
    engine.tap(ReplicasFound, lambda now, host, effect: found.append(effect.notice.contacts))
    keys = [bytes(2) + hashlib.sha256(b"key %d" % number).digest()[:14] for number in range(SEARCHES)]
    asker: Any = world.members[0]
    captured = 0
    with patched(Lookup, "on_request", on_request):
        for number, key in enumerate(keys):
            engine.command(asker, FindVoters(number, key, 5))
            engine.schedule.run(engine.now + 20 * SECOND)
            captured += bool(found) and 2 * sum(contact.id in liars for contact in found[-1]) > len(found[-1]) > 0
    measured.aims += [
        Aim("searches that ended", len(found), SEARCHES, at_least=True),
        Aim("voter sets with a majority of liars", captured, 1),
        Aim("searches that found five", sum(len(one) == 5 for one in found), 0.9 * SEARCHES, at_least=True),
    ]
    measured.facts |= {"nodes, liars, searches": (NODES, LIARS, SEARCHES)}


def measure() -> Measured:
    measured = Measured()
    with tempfile.TemporaryDirectory(prefix="mycelia-hostile-") as directory:
        asyncio.run(_flood(Path(directory), measured))
    _grinding(measured)
    _eclipse(measured)
    return measured
