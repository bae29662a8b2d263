"""The journal: what it answers, what it makes durable, and followers who are slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import pytest

from dht.messages import Record
from dht.records import Kind
from fl import spec as specs
from fl.messages import Report, encode
from fl.notices import Concluded, RecordChanged, RingReady, RoleChanged, RoundCommitted, StatusChanged
from fl.spec import AppSpec
from node import history, journal
from node.journal import Journal
from node.names import find_model
from node.service import AppEvent, LaggedEvent, RoleEvent, RoundEvent, StatusEvent
from protocol.errors import UsageError
from protocol.ids import blob_id
from protocol.messages import Contact, Value
from pubsub.heads import Head

A, B = b"a" * 16, b"b" * 16
VOTERS = (Contact(A, ("h:1",)), Contact(B, ("h:2",)))


def spec(name: str = "digits", salt: bytes = b"") -> AppSpec:
    bundle = Value(4, b"code")
    return AppSpec(name, b"o" * 32, salt, 0, VOTERS, 3, Value(2, b"m0"), VOTERS[0], bundle=bundle, parent_model="d@7")


def known(app: AppSpec) -> RecordChanged:
    return RecordChanged(Record(Kind.APP, app.id, 1, 2, app.owner, specs.encode(app)))


def committed(app: AppSpec, number: int, *, closing: bool = False, by: tuple[bytes, ...] = (A, B)) -> RoundCommitted:
    model = f"m{number - closing}".encode()
    head = Head(app.id, 1, number, VOTERS[0], VOTERS, Value(len(model), model), weight=10.0, finished=closing)
    sums = {"loss": 10.0 * number, "loss.n": 10.0, **({} if closing else {"train_loss": 1.0, "train_loss.n": 2.0})}
    return RoundCommitted(app.id, msgspec.structs.replace(head, contributors=by), by, sums)


class Fixture:
    """A journal, the clock that it sees, and the disk behind it."""

    def __init__(
        self, disk: Mapping[str, bytes] | None = None, trusted: Callable[[bytes], bool] = lambda owner: True
    ) -> None:
        self.disk = dict(disk or {})
        self.now = 1000.0
        self.journal = Journal(self.disk, lambda: self.now, me=A, trusted=trusted)

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
    models = [model for model in fixture.journal.models(held.__contains__) if model.held]
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
    models = fixture.journal.models(lambda _: True)
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
    assert [info.name for info in after.journal.infos()] == ["digits"], "also before the descriptor is heard again"
    assert after.journal.info(APP.id).round == 10
    every = after.journal.models(lambda _: True)
    assert [model.version for model in every] == [1, 2, 10]


def test_a_round_counts_once_and_the_beginning_not_at_all() -> None:
    fixture = Fixture()
    fixture.feed(known(APP), committed(APP, 0), committed(APP, 1), committed(APP, 1))
    assert [key for key in fixture.disk if key.startswith("round/")] == [f"round/{APP.id.hex()}/00000001"]


def test_the_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEEP_ROUNDS", 3)
    monkeypatch.setattr(history, "KEEP_ROUNDS", 3)
    fixture = Fixture()
    fixture.feed(known(APP), *(committed(APP, number) for number in range(1, 10)))
    rounds = [key for key in fixture.disk if key.startswith("round/")]
    assert sorted(int(key.rpartition("/")[2]) for key in rounds) == [7, 8, 9]


def stranger(number: int) -> AppSpec:
    """An application of an owner whom nobody here knows, with a name that somebody here uses."""
    return msgspec.structs.replace(spec(), owner=number.to_bytes(32, "big"))


def test_a_flood_of_descriptors_deletes_no_round_that_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_APPS", 8)
    fixture = Fixture(trusted=lambda owner: owner == APP.owner)
    runs = [spec(salt=bytes([number])) for number in range(3)]
    for run in runs:
        fixture.feed(known(run), committed(run, 1), StatusChanged(run.id, "finished"))
    before = dict(fixture.disk)
    fixture.feed(*(known(stranger(number)) for number in range(600)))
    assert fixture.disk == before
    assert {run.id.hex() for run in runs} <= {info.id for info in fixture.journal.infos()}
    assert len(fixture.journal.infos()) == 8
    # Not even with rounds that this node coordinated for it.
    fixture.feed(*(notice for n in range(600) for notice in (known(stranger(n)), committed(stranger(n), 1, by=(B,)))))
    assert {key: fixture.disk[key] for key in before} == before
    assert len({key.split("/")[1] for key in fixture.disk}) <= 8


def test_a_run_in_which_this_node_took_part_is_kept_whoever_owns_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_APPS", 4)
    fixture = Fixture(trusted=lambda owner: False)
    fixture.feed(known(APP), committed(APP, 1), StatusChanged(APP.id, "finished"))
    fixture.feed(*(notice for n in range(20) for notice in (known(stranger(n)), committed(stranger(n), 1, by=(B,)))))
    assert APP.id.hex() in {info.id for info in fixture.journal.infos()}


def test_one_owner_has_so_much_room_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_PER_OWNER", 3)
    fixture = Fixture()
    other = stranger(7)
    fixture.feed(known(other), committed(other, 1))
    runs = [spec(salt=bytes([number])) for number in range(5)]
    for run in runs:
        fixture.feed(known(run), committed(run, 1), StatusChanged(run.id, "finished"))
    kept = [other, *runs[2:]]
    assert [info.id for info in fixture.journal.infos()] == [run.id.hex() for run in kept]
    assert sorted({key.split("/")[1] for key in fixture.disk}) == sorted(run.id.hex() for run in kept)


def test_versions_count_on_through_the_runs_of_a_name() -> None:
    first, second = spec(salt=b"1"), msgspec.structs.replace(spec(salt=b"2"), base=3)
    fixture = Fixture()
    fixture.feed(known(first), *(committed(first, n) for n in (1, 2, 3)), committed(first, 4, closing=True))
    fixture.feed(known(second), committed(second, 1), committed(second, 2))
    models = fixture.journal.models(lambda _: True)
    assert [(model.version, model.round, model.final) for model in models] == [
        (1, 1, False), (2, 2, False), (3, 3, True), (4, 1, False), (5, 2, False),
    ]  # fmt: skip
    assert find_model(models, "digits").version == 5
    assert find_model(models, "digits@3").app == first.id.hex()


def test_a_strangers_newer_model_of_the_same_name_is_never_picked() -> None:
    fixture = Fixture(trusted=lambda owner: owner == APP.owner)
    other = msgspec.structs.replace(stranger(0xABCDEF0123 << 216), base=100)
    fixture.feed(known(APP), committed(APP, 1), known(other), committed(other, 1))
    models = fixture.journal.models(lambda _: True)
    assert find_model(models, "digits").app == APP.id.hex()
    assert find_model(models, f"{other.owner.hex()[:8]}/digits").app == other.id.hex()
    with pytest.raises(UsageError, match="knows no version 101 of digits"):
        find_model(models, "digits@101")
    with pytest.raises(UsageError, match="of an owner who is not trusted here") as caught:
        find_model([model for model in models if not model.trusted], "digits")
    assert caught.value.remedy == "name the owner: abcdef01/digits"


def test_a_name_that_two_trusted_owners_use_has_to_say_whose() -> None:
    fixture = Fixture()
    other = stranger(0xABCDEF0123 << 216)
    fixture.feed(known(APP), committed(APP, 1), known(other), committed(other, 1))
    with pytest.raises(UsageError, match="2 owners have a model called digits") as caught:
        find_model(fixture.journal.models(lambda _: True), "digits")
    assert "6f6f6f6f/digits" in caught.value.remedy
    with pytest.raises(UsageError, match="2 owners have an application called digits"):
        fixture.journal.resolve("digits")


def test_two_runs_with_one_version_are_told_apart_by_the_run() -> None:
    first, second = spec(salt=b"1"), spec(salt=b"2")
    fixture = Fixture()
    fixture.feed(known(first), committed(first, 1), known(second))
    head = committed(second, 1).head
    changed = msgspec.structs.replace(head, model=Value(2, b"xx"))
    fixture.feed(RoundCommitted(second.id, changed, (A,), {}))
    models = fixture.journal.models(lambda _: True)
    with pytest.raises(UsageError, match="2 runs have made version 1 of digits") as caught:
        find_model(models, "digits@1")
    assert f"{second.id.hex()[4:12]}@1" in caught.value.remedy
    assert find_model(models, f"{second.id.hex()[4:12]}@1").app == second.id.hex()


def test_the_end_that_others_told_shows_how_far_it_came() -> None:
    fixture = Fixture()
    end = msgspec.structs.replace(committed(APP, 4, closing=True).head.outline(), voters=VOTERS[:1])
    fixture.feed(known(APP), committed(APP, 1), Concluded(APP.id, end))
    info = fixture.journal.info(APP.id)
    assert (info.status, info.round, info.complete) == ("finished", 3, False)
    assert fixture.journal.guardians(APP.id) == VOTERS[:1]
    fixture.feed(committed(APP, 4, closing=True))
    assert fixture.journal.info(APP.id).complete


def test_the_model_of_a_run_that_was_stopped_early_is_the_best_one() -> None:
    fixture = Fixture()
    fixture.feed(known(APP), *(committed(APP, n) for n in (1, 2, 3)))
    report = encode(Report(best=0.9, best_round=1, stale_rounds=2, closing=True, made=1))
    head = msgspec.structs.replace(committed(APP, 4, closing=True).head, model=Value(2, b"m1"), report=report)
    fixture.feed(RoundCommitted(APP.id, head, (A, B), {"loss": 1.0, "loss.n": 10.0}))
    models = fixture.journal.models(lambda _: True)
    assert [(model.version, model.final) for model in models] == [(1, True), (2, False), (3, False)]
    assert models[0].metrics["loss"] == 0.1


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

    assert asyncio.run(run())._app(APP.id).hub._subscribers == []


def test_who_should_hold_a_model() -> None:
    fixture = Fixture()
    fixture.feed(known(APP), committed(APP, 1))
    assert fixture.journal.sources(blob_id(b"m1")) == (2, [A, B])
    with pytest.raises(UsageError, match="no application has a model"):
        fixture.journal.sources(blob_id(b"m2"))
