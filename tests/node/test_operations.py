"""The control API on real nodes: two daemons on loopback, in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from dht.messages import Record
from dht.records import Kind, sign_record
from fl import bundle, codec
from fl import spec as specs
from fl.data.binding import Binding
from fl.sdk import App, outline
from fl.spec import AppSpec
from node import waiting
from node.assembly import Node
from node.config import NodeConfig, NodeSection, WorkerSection
from node.contacts import save_contacts
from node.identity import enrol
from node.identity.fabric import spread_document
from node.identity.invite import decode_invitation
from node.identity.keys import Key
from node.identity.membership import Membership, found, node_key
from node.operations import Operations
from node.service import AppEvent, DaemonService, RoundEvent, StatusEvent
from node.statedir import StateDir
from protocol.errors import AggregationError, ConfigError, TransportError, UsageError
from protocol.ids import blob_id
from protocol.messages import Value
from tests.node.means import FUNCTIONS

pytestmark = pytest.mark.net

ADDRESSES = NodeSection(listen="127.0.0.1:0", join_listen="127.0.0.1:0")
NO_WORKER = WorkerSection(enabled=False)
APP_FILE = f"""{FUNCTIONS}
app = fl.App(name="means", model=model, train=train, evaluate=evaluate, data="digits", rounds=2, min_workers=2,
             options={{"step": 1.0}})
"""


@dataclass
class Running:
    """A node, and its control API."""

    node: Node
    api: DaemonService
    state: StateDir


@asynccontextmanager
async def running(config: NodeConfig) -> AsyncIterator[Running]:
    with StateDir.open(config.state_dir).locked() as state:
        node = Node(config, state)
        await node.start()
        try:
            yield Running(node, Operations(node, time.time()), state)
        finally:
            await node.stop()


def configured(directory: Path, worker: WorkerSection = NO_WORKER, part: int = 0) -> NodeConfig:
    binding = Binding(kind="digits", partition="iid", part=part, parts=2)
    return NodeConfig(state_dir=directory, node=ADDRESSES, worker=worker, data={"digits": binding})


@asynccontextmanager
async def founder(directory: Path, worker: WorkerSection = NO_WORKER) -> AsyncIterator[Running]:
    with StateDir.create(directory).locked() as state:
        found(state, "lab", 0, int(time.time()))
    async with running(configured(directory, worker)) as first:
        yield first


@asynccontextmanager
async def member(first: Running, directory: Path, worker: WorkerSection = NO_WORKER) -> AsyncIterator[Running]:
    invitation = decode_invitation((await first.api.invite(60)).token)
    now = int(time.time())
    with StateDir.create(directory).locked() as state:
        joined = await enrol.join(invitation, node_key(state), now)
        save_contacts(state, joined.seeds)
        Membership.enter(state, node_key(state), joined.endorsement, joined.document, now)
    async with running(configured(directory, worker, part=1)) as second:
        yield second


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.02)


async def ready(one: Running) -> bool:
    return (await one.api.status()).state == "ready"


def test_a_founder_is_alone_and_ready(tmp_path: Path) -> None:
    async def run() -> None:
        async with founder(tmp_path / "a") as a:
            await until(lambda: ready(a))
            status = await a.api.status()
            assert (status.fabric, status.issuer, status.leaf_member, status.links) == ("lab", True, False, 0)
            assert status.addresses[0].startswith("127.0.0.1:")
            assert await a.api.peers() == []
            assert await a.api.applications() == []
            assert await a.api.models() == []
            assert [contact.id.hex() for contact in await a.api.voters_for(b"x" * 16, 5)] == [status.id]

    asyncio.run(run())


def test_a_node_joins_and_is_seen_and_expelled(tmp_path: Path) -> None:
    async def run() -> None:
        async with founder(tmp_path / "a") as a, member(a, tmp_path / "b") as b:
            await until(lambda: ready(b))
            identifier = (await b.api.status()).id
            (peer,) = await b.api.peers()
            assert (peer.id, peer.linked) == ((await a.api.status()).id, True)
            with pytest.raises(UsageError, match="this node is no issuer, so nobody would believe it"):
                await b.api.revoke(peer.id)
            with pytest.raises(UsageError, match="this node is no issuer"):
                await b.api.invite(60)
            with pytest.raises(UsageError, match="an issuer cannot revoke an issuer"):
                await a.api.revoke(peer.id)
            with pytest.raises(UsageError, match="no node is known by zzzz"):
                await a.api.revoke("zzzz")
            assert await a.api.revoke(identifier[4:12]) == identifier
            assert a.node.daemon.links.refusal(bytes.fromhex(identifier)) == "membership revoked"

    asyncio.run(run())


def test_a_restarted_node_is_the_same_and_finds_the_fabric(tmp_path: Path) -> None:
    async def run() -> None:
        async with founder(tmp_path / "a") as a:
            async with member(a, tmp_path / "b") as b:
                await until(lambda: ready(b))
                before = await b.api.status()
                await b.api.trust("5b" * 32)
            async with running(configured(tmp_path / "b")) as b:
                await until(lambda: ready(b))
                assert (await b.api.status()).id == before.id
                assert [entry.why for entry in (await b.api.trusted()).keys] == ["fabric", "added"]
                assert len((await b.api.distrust("5b" * 32)).keys) == 1
            with pytest.raises(ConfigError, match="neither a key nor a hash"):
                await a.api.trust("5b")

    asyncio.run(run())


def signed(key: Key, spec: AppSpec) -> Record:
    spec = msgspec.structs.replace(spec, owner=key.public_key, salt=b"salt")
    return sign_record(key, Kind.APP, spec.id, 1, int(time.time()) + 3600, specs.encode(spec))


async def descriptor(a: Running) -> AppSpec:
    voters = tuple(await a.api.voters_for(b"x" * 16, 5))
    drawn = outline(App(name="digits", model=dict))
    return msgspec.structs.replace(drawn, voters=voters, home=a.node.daemon.me, initial=Value(1, b"m"))


def test_an_application_is_taken_only_from_its_owner_and_stopped_only_by_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with founder(tmp_path / "a") as a:
            await until(lambda: ready(a))
            owner, stranger = Key.load(a.state.owner_key), Key.generate()
            record = signed(owner, await descriptor(a))
            with pytest.raises(UsageError, match="not signed by its owner"):
                await a.api.submit(msgspec.structs.replace(record, signature=bytes(64)))
            with pytest.raises(UsageError, match="not the descriptor of an application"):
                await a.api.submit(msgspec.structs.replace(record, body=b"junk"))
            app = await a.api.submit(record)
            assert (app.name, app.owner) == ("digits", owner.public_key.hex())
            order = sign_record(stranger, Kind.STOP, record.subject, 1, record.expires, b"")
            with pytest.raises(UsageError, match="only its owner can stop digits"):
                await a.api.stop(order)
            with pytest.raises(UsageError, match="stops no application that this node knows"):
                await a.api.stop(sign_record(owner, Kind.STOP, b"y" * 16, 1, record.expires, b""))
            stopped = await a.api.stop(sign_record(owner, Kind.STOP, record.subject, 1, record.expires, b""))
            assert stopped.status == "stopped"
            events = [event async for event in a.api.follow("digits")]
            assert isinstance(events[-1], StatusEvent)

    asyncio.run(run())


def test_data_that_does_not_fit_is_refused_by_name_before_any_round(tmp_path: Path) -> None:
    async def run() -> None:
        (tmp_path / "ward.csv").write_text("age,outcom\n1,0\n")
        ward = Binding(kind="csv", path=str(tmp_path / "ward.csv"), target="outcome")
        with StateDir.create(tmp_path / "a").locked() as state:
            found(state, "lab", 0, int(time.time()))
        node = NodeSection(listen="127.0.0.1:0", join_listen="127.0.0.1:0", name="w3")
        config = NodeConfig(state_dir=tmp_path / "a", node=node, data={"digits": ward})
        async with running(config) as a:
            await until(lambda: ready(a))
            await a.api.submit(signed(Key.load(a.state.owner_key), await descriptor(a)))

            async def refused() -> bool:
                (app,) = await a.api.applications()
                return bool(app.refused)

            await until(refused)
            (app,) = await a.api.applications()
            assert "node w3" in app.refused
            assert "outcome" in app.refused

    asyncio.run(run())


def test_what_a_node_without_workers_and_models_cannot_do(tmp_path: Path) -> None:
    async def run() -> None:
        async with founder(tmp_path / "a") as a:
            with pytest.raises(UsageError, match="runs no applications' code"):
                await a.api.prepare(b"", [], "")
            with pytest.raises(UsageError, match="no application has a model"):
                await anext(a.api.download(b"d" * 32))
            with pytest.raises(UsageError, match="knows no application cats"):
                await anext(a.api.follow("cats"))
            with pytest.raises(UsageError, match="cannot have 65 voters"):
                await a.api.voters_for(b"x" * 16, 65)
            with pytest.raises(UsageError, match="cannot last 0 seconds"):
                await a.api.invite(0)

    asyncio.run(run())


def test_what_never_comes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.0)

    async def run() -> None:
        async with founder(tmp_path / "a") as a:
            with pytest.raises(TransportError, match="within 0 seconds"):
                await a.api.voters_for(b"x" * 16, 5)

    asyncio.run(run())


@pytest.mark.slow
def test_two_nodes_train_what_one_was_given(tmp_path: Path) -> None:
    file = tmp_path / "means.py"
    file.write_text(APP_FILE)
    code = bundle.pack(file)
    worker = WorkerSection(nice=0)

    async def run() -> None:
        async with founder(tmp_path / "a", worker) as a, member(a, tmp_path / "b", worker) as b:
            await until(lambda: ready(b))
            with pytest.raises(UsageError, match="sets nothing that means knows"):
                await a.api.prepare(code, ["steps=2"], "")
            spec = await a.api.prepare(code, ["step=2.0"], "")
            assert (spec.name, spec.options["step"], spec.bundle.inline) == ("means", 2.0, code)
            events = await trained(a, spec)
            rounds = [event for event in events if isinstance(event, RoundEvent)]
            assert [event.round for event in rounds if not event.closing] == [1, 2]
            assert all(len(event.contributors) == 2 for event in rounds)
            assert rounds[-1].closing
            assert rounds[-1].metrics["norm"] > 0
            await lineage(a, rounds)

    asyncio.run(run())


async def trained(a: Running, spec: AppSpec) -> list[AppEvent]:
    """Everything that happens to the application."""
    owner = Key.load(a.state.owner_key)
    owned = msgspec.structs.replace(spec, owner=owner.public_key, salt=b"salt")
    voters = await a.api.voters_for(owned.id, 5)
    app = await a.api.submit(signed(owner, msgspec.structs.replace(owned, voters=tuple(voters))))
    async with asyncio.timeout(60):
        return [event async for event in a.api.follow(app.id)]


async def lineage(a: Running, rounds: list[RoundEvent]) -> None:
    """The models of a finished run, and going on from them."""
    models = await a.api.models()
    assert models[-1].version == 2
    assert models[-1].metrics["norm"] == rounds[-1].metrics["norm"]
    content = b"".join([chunk async for chunk in a.api.download(bytes.fromhex(models[-1].blob))])
    assert blob_id(content).hex() == models[-1].blob
    assert codec.decode(content)["w"].shape == (64,)
    again = await a.api.prepare(bundle_of(APP_FILE), [], "means@2")
    assert (again.parent_model, again.initial.inline) == ("means@2", content)
    with pytest.raises(AggregationError, match=r"means@2 has other tensors than model\(\) of means"):
        await a.api.prepare(bundle_of(APP_FILE.replace("zeros(64", "zeros(65")), [], "means")


def bundle_of(source: str) -> bytes:
    return bundle.encode(bundle.Bundle(bundle.VERSION, "means", {"means": source}, ("numpy",)))


def test_an_owner_whom_the_document_names_is_heard_on_all_nodes(tmp_path: Path) -> None:
    async def run() -> None:
        async with founder(tmp_path / "a") as a, member(a, tmp_path / "b") as b:
            await until(lambda: ready(a))
            await until(lambda: ready(b))
            owner, other = Key.load(a.state.owner_key), Key.generate()
            record = signed(other, await descriptor(b))
            with pytest.raises(UsageError, match="nobody here knows the owner"):
                await b.api.submit(record)
            document = a.node.membership.document
            named = msgspec.structs.replace(document, app_owners=(other.public_key,), serial=2)
            foreign = msgspec.structs.replace(named, owner=other.public_key)
            with pytest.raises(UsageError, match="no document of fabric"):
                await a.api.change_document(spread_document(foreign, other, int(time.time())))
            told = await a.api.change_document(spread_document(named, owner, int(time.time())))
            assert told.named == [other.public_key.hex()]

            async def known() -> bool:
                return bool((await b.api.trusted()).named)

            await until(known)
            over = sign_record(other, Kind.APP, record.subject, 1, int(time.time()) - 1, record.body)
            with pytest.raises(UsageError, match="is over already"):
                await b.api.submit(over)
            app = await b.api.submit(record)
            assert app.owner == other.public_key.hex()

            async def here() -> bool:
                return bool(await a.api.applications())

            await until(here)
            with pytest.raises(UsageError, match="changed meanwhile"):
                await b.api.change_document(spread_document(named, owner, int(time.time())))
            gone = msgspec.structs.replace(document, serial=3)
            await a.api.change_document(spread_document(gone, owner, int(time.time())))
            assert a.node.core is not None
            assert a.node.core.ring.records.get(Kind.APP, record.subject) is None

    asyncio.run(run())
