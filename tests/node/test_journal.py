"""The journal: what it answers, what it makes durable, and followers who are slow."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import pytest

from dht.messages import Record
from dht.records import Kind
from fl import spec as specs
from fl.notices import RecordChanged, RingReady, RoleChanged, RoundCommitted, StatusChanged
from fl.spec import AppSpec
from node import journal
from node.journal import Journal
from node.service import AppEvent, LaggedEvent, RoleEvent, RoundEvent, StatusEvent
from protocol.errors import UsageError
from protocol.ids import blob_id
from protocol.messages import Contact, Value
from pubsub.messages import Head

A, B = b"a" * 16, b"b" * 16
VOTERS = (Contact(A, ("h:1",)), Contact(B, ("h:2",)))


def spec(name: str = "digits", salt: bytes = b"") -> AppSpec:
    bundle = Value(4, b"code")
    return AppSpec(name, b"o" * 32, salt, 0, VOTERS, 3, Value(2, b"m0"), VOTERS[0], bundle=bundle, parent_model="d@7")


def known(app: AppSpec) -> RecordChanged:
    return RecordChanged(Record(Kind.APP, app.id, 1, 2, app.owner, specs.encode(app)))


def committed(app: AppSpec, number: int, *, closing: bool = False) -> RoundCommitted:
    model = f"m{number - closing}".encode()
    head = Head(app.id, 1, number, VOTERS[0], VOTERS, Value(len(model), model), weight=10.0, finished=closing)
    sums = {"loss": 10.0 * number, "loss.n": 10.0, **({} if closing else {"train_loss": 1.0, "train_loss.n": 2.0})}
    return RoundCommitted(app.id, head, (A, B), sums)


class Fixture:
    """A journal, the clock that it sees, and the disk behind it."""

    def __init__(self, disk: Mapping[str, bytes] | None = None) -> None:
        self.disk = dict(disk or {})
        self.now = 1000.0
        self.journal = Journal(self.disk, lambda: self.now)

    def feed(self, *notices: object) -> None:
        for notice in notices:
            self.now += 1
            for key, value in self.journal.notice(notice).items():
                if value is None:
                    del self.disk[key]
                else:
                    self.disk[key] = value


APP = spec()


def test_an_application_is_known_by_its_descriptor() -> None:
    fixture = Fixture()
    fixture.feed(RingReady(), known(APP))
    (info,) = fixture.journal.infos()
    assert (info.id, info.name, info.owner, info.rounds) == (APP.id.hex(), "digits", "6f" * 32, 3)
    assert (info.status, info.role, info.round) == ("known", "none", 0)
    assert info.voters == [A.hex(), B.hex()]


def test_what_happens_to_it_shows() -> None:
    fixture = Fixture()
    fixture.feed(known(APP), StatusChanged(APP.id, "running"), RoleChanged(APP.id, "aggregator", A, 1, (B,)))
    fixture.feed(committed(APP, 1))
    (info,) = fixture.journal.infos()
    assert (info.status, info.role, info.round, info.epoch) == ("running", "aggregator", 1, 1)
    assert (info.parent, info.children, info.root) == (A.hex(), [B.hex()], A.hex())


def test_models_have_their_lineage() -> None:
    fixture = Fixture()
    fixture.feed(known(APP), *(committed(APP, number) for number in (1, 2, 3)), committed(APP, 4, closing=True))
    held = {blob_id(b"m2"), blob_id(b"m3")}
    models = list(fixture.journal.models(held.__contains__))
    assert [(model.name, model.version) for model in models] == [("digits", 2), ("digits", 3)]
    # Measured in the round after it was made.
    assert [model.metrics for model in models] == [{"loss": 3.0, "train_loss": 0.5}, {"loss": 4.0, "train_loss": 0.5}]
    assert (models[1].contributors, models[1].weight) == (2, 10.0)
    assert fixture.journal.info(APP.id).round == 3
    assert (models[1].code, models[1].parent, models[1].created) == (blob_id(b"code").hex(), "d@7", 1004.0)
    assert fixture.journal.kept(APP.id) == [blob_id(b"m3"), blob_id(b"m2")]


def test_a_node_that_was_away_still_has_the_final_model() -> None:
    fixture = Fixture()
    fixture.feed(known(APP), committed(APP, 1), committed(APP, 4, closing=True))
    models = list(fixture.journal.models(lambda _: True))
    assert [(model.version, model.metrics["loss"]) for model in models if "loss" in model.metrics] == [(3, 4.0)]
    assert [model.version for model in models] == [1, 3]
    assert fixture.journal.kept(APP.id) == [blob_id(b"m3"), blob_id(b"m1")]


def test_without_a_closing_measurement_the_last_round_is_one_of_training() -> None:
    plain = msgspec.structs.replace(APP, evaluate=False)
    fixture = Fixture()
    fixture.feed(known(plain), committed(plain, 1))
    head = msgspec.structs.replace(committed(plain, 2).head, finished=True)
    fixture.feed(RoundCommitted(plain.id, head, (A,), {}))
    assert fixture.journal.info(plain.id).round == 2
    assert [model.version for model in fixture.journal.models(lambda _: True)] == [1, 2]


def test_the_history_survives_a_restart() -> None:
    before = Fixture()
    before.feed(known(APP), *(committed(APP, number) for number in (1, 2, 10)))
    after = Fixture({**before.disk, "round/zz": b"torn"})
    assert after.journal.infos() == []
    after.feed(known(APP))
    assert after.journal.info(APP.id).round == 10
    every = list(after.journal.models(lambda _: True))
    assert [model.version for model in every] == [1, 2, 10]


def test_a_round_counts_once_and_the_beginning_not_at_all() -> None:
    fixture = Fixture()
    fixture.feed(known(APP), committed(APP, 0), committed(APP, 1), committed(APP, 1))
    assert len(fixture.disk) == 1


def test_the_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEEP_ROUNDS", 3)
    fixture = Fixture()
    fixture.feed(known(APP), *(committed(APP, number) for number in range(1, 10)))
    assert sorted(int(key.rpartition("/")[2]) for key in fixture.disk) == [7, 8, 9]


def test_applications_that_are_over_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_APPS", 2)
    first, second, third = (spec(name) for name in ("a", "b", "c"))
    fixture = Fixture()
    fixture.feed(known(first), known(second), committed(second, 1), StatusChanged(second.id, "finished"), known(third))
    assert [info.name for info in fixture.journal.infos()] == ["a", "c"]
    assert fixture.disk == {}


def test_which_application_is_meant() -> None:
    old, new = spec(salt=b"1"), spec(salt=b"2")
    fixture = Fixture()
    fixture.feed(known(old))
    assert fixture.journal.resolve("digits") == old.id
    assert fixture.journal.resolve(old.id.hex()[4:12]) == old.id
    with pytest.raises(UsageError, match="knows no application cats"):
        fixture.journal.resolve("cats")
    fixture.feed(known(new))
    with pytest.raises(UsageError, match="2 applications are called digits"):
        fixture.journal.resolve("digits")
    fixture.feed(StatusChanged(old.id, "finished"))
    assert fixture.journal.resolve("digits") == new.id


async def collect(fixture: Fixture, after: int = 0) -> list[AppEvent]:
    return [event async for event in fixture.journal.follow(APP.id, after)]


def test_a_follower_hears_what_was_and_what_comes() -> None:
    async def run() -> list[AppEvent]:
        fixture = Fixture()
        fixture.feed(known(APP), committed(APP, 1))
        events = fixture.journal.follow(APP.id, 0)
        heard = [await anext(events) for _ in range(3)]
        fixture.feed(committed(APP, 2), RoleChanged(APP.id, "root", None, 0, ()), StatusChanged(APP.id, "stopped"))
        return heard + [event async for event in events]

    heard = asyncio.run(run())
    kinds = [type(event) for event in heard]
    assert kinds == [RoleEvent, RoundEvent, StatusEvent, RoundEvent, RoleEvent, StatusEvent]
    assert isinstance(heard[3], RoundEvent)
    assert (heard[3].round, heard[3].contributors, heard[3].metrics) == (
        2,
        [A.hex(), B.hex()],
        {"loss": 2.0, "train_loss": 0.5},
    )


@pytest.mark.parametrize("straggler", [True, False])
def test_the_last_round_may_come_after_the_end(straggler: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "STRAGGLE_S", 30.0 if straggler else 0.0)

    async def run() -> list[AppEvent]:
        fixture = Fixture()
        fixture.feed(known(APP), committed(APP, 1))
        events = fixture.journal.follow(APP.id, 1)
        await anext(events), await anext(events)
        fixture.feed(StatusChanged(APP.id, "finished", "after round 2"))
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        if straggler:
            fixture.feed(committed(APP, 2, closing=True))
        return [await first, *[event async for event in events]]

    *rounds, end = asyncio.run(run())
    assert [event.round for event in rounds if isinstance(event, RoundEvent)] == ([2] if straggler else [])
    assert end == StatusEvent(app="digits", status="finished")


def test_following_what_is_over_ends_at_once() -> None:
    fixture = Fixture()
    fixture.feed(known(APP), committed(APP, 1), committed(APP, 2), StatusChanged(APP.id, "stopped", "by its owner"))
    heard = asyncio.run(collect(fixture, after=1))
    assert [event.round for event in heard if isinstance(event, RoundEvent)] == [2]
    assert heard[-1] == StatusEvent(app="digits", status="stopped", detail="by its owner")


def test_a_slow_follower_is_told_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_BACKLOG", 3)

    async def run() -> list[AppEvent]:
        fixture = Fixture()
        fixture.feed(known(APP))
        events = fixture.journal.follow(APP.id, 0)
        for _ in range(2):
            await anext(events)
        fixture.feed(*(committed(APP, number) for number in range(1, 8)), StatusChanged(APP.id, "stopped"))
        return [event async for event in events]

    heard = asyncio.run(run())
    assert heard[0] == LaggedEvent(app="digits", missed=5)
    assert [event.round for event in heard if isinstance(event, RoundEvent)] == [6, 7]
    assert isinstance(heard[-1], StatusEvent)


def test_a_follower_who_goes_leaves_nothing_behind() -> None:
    async def run() -> Journal:
        fixture = Fixture()
        fixture.feed(known(APP), committed(APP, 1))
        events = fixture.journal.follow(APP.id, 0)
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        return fixture.journal

    assert asyncio.run(run())._apps[APP.id].hub._subscribers == []


def test_who_should_hold_a_model() -> None:
    fixture = Fixture()
    fixture.feed(known(APP), committed(APP, 1))
    assert fixture.journal.sources(blob_id(b"m1")) == (2, [A, B])
    with pytest.raises(UsageError, match="no application has a model"):
        fixture.journal.sources(blob_id(b"m2"))
