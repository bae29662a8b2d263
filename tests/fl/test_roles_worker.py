"""A worker keeps what it made until it is committed, and makes nothing twice."""

from __future__ import annotations

import math

import pytest

from fl.messages import Order, Work, encode
from fl.notices import WorkFailed
from fl.tasks import Contribution, Describe, Evaluate, Train
from fl.worker import seed_of, selected
from protocol.effects import CancelCompute
from protocol.events import TransferDone, TransferFailed
from protocol.messages import EMPTY, Value
from pubsub.messages import Partial
from tests.fl.roles import ME, MODEL, PEERS, Stage

TRAIN, EVALUATE, DESCRIBE = (encode(Order(work)) for work in (Work.TRAIN, Work.EVALUATE, Work.DESCRIBE))
MADE = Contribution(Value(1, b"\x07"), 2.0, {"loss": 1.0, "loss.n": 2.0})
KEPT = Partial(2.0, Value(1, b"\x07"), (ME.id,), {"loss": 1.0, "loss.n": 2.0})


@pytest.fixture
def stage() -> Stage:
    return Stage().learned()


def answers(stage: Stage) -> list[Partial | None]:
    return [part for _, part in stage.forest.contributed]


def test_it_trains_when_a_wave_asks_for_it_and_hands_in_the_result(stage: Stage) -> None:
    wave = stage.wave(TRAIN)
    stage.roles.wave_opened(stage.app, wave, 0)
    assert stage.tasks == [Train(stage.app, stage.spec, 1, MODEL, seed_of(stage.spec.seed, 1, ME.id), True)]
    assert answers(stage) == []
    stage.finish(MADE)
    assert stage.forest.contributed == [(wave.id, KEPT)]


def test_what_becomes_ready_after_its_wave_goes_into_the_next(stage: Stage) -> None:
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN), 0)
    later = stage.wave(TRAIN, number=1)
    stage.roles.wave_opened(stage.app, later, 0)
    assert len(stage.tasks) == 1
    stage.finish(MADE)
    assert stage.forest.contributed == [(later.id, KEPT)]


def test_a_new_root_gets_what_was_kept_without_retraining(stage: Stage) -> None:
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN), 0)
    stage.finish(MADE)
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN, epoch=2), 0)
    assert len(stage.tasks) == 1
    assert answers(stage) == [KEPT, KEPT]


def test_another_model_is_trained_on_anew(stage: Stage) -> None:
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN), 0)
    stage.finish(MADE)
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN, epoch=2, model=Value(1, b"\x09")), 0)
    assert len(stage.tasks) == 2


def test_a_commit_ends_what_was_kept_and_what_still_runs(stage: Stage) -> None:
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN), 0)
    stage.roles.committed(stage.app, stage.head(round_=0), 0)
    assert len(stage(CancelCompute)) == 0
    stage.roles.committed(stage.app, stage.head(round_=1), 0)
    assert len(stage(CancelCompute)) == 1
    stage.finish(MADE)
    assert answers(stage) == []


@pytest.mark.parametrize(("order", "kind"), [(TRAIN, Train), (EVALUATE, Evaluate), (DESCRIBE, Describe)])
def test_each_order_is_a_task(stage: Stage, order: bytes, kind: type) -> None:
    stage.roles.wave_opened(stage.app, stage.wave(order), 0)
    assert [type(task) for task in stage.tasks] == [kind]


def test_who_sits_out_says_so_at_once(stage: Stage) -> None:
    for wave in (
        stage.wave(TRAIN, may=False),
        stage.wave(TRAIN, number=1, closed=(ME.id,)),
        stage.wave(b"an order of later days", number=2),
    ):
        stage.roles.wave_opened(stage.app, wave, 0)
    assert answers(stage) == [None] * 3
    assert stage.tasks == []


def test_a_node_without_a_part_in_the_work_answers_nothing() -> None:
    stage = Stage().learned(bound=False)
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN), 0)
    stage.roles.wave_opened(b"?" * 16, stage.wave(TRAIN), 0)
    assert answers(stage) == [None, None]


def test_a_failed_training_is_said_and_costs_only_this_part(stage: Stage) -> None:
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN), 0)
    stage.finish(None, "out of memory")
    assert stage.said(WorkFailed) == [WorkFailed(stage.app, "out of memory")]
    assert answers(stage) == [None]
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN, number=1), 0)
    assert len(stage.tasks) == 2


@pytest.mark.parametrize(
    "made",
    [
        Contribution(EMPTY, math.nan, {}),
        Contribution(EMPTY, -1.0, {}),
        Contribution(EMPTY, 1.0, {"loss": math.inf}),
        Contribution(EMPTY, 1.0, {"x" * 65: 1.0}),
        Contribution(EMPTY, 1.0, {str(index): 1.0 for index in range(65)}),
    ],
)
def test_a_result_that_peers_would_refuse_is_not_sent(stage: Stage, made: Contribution) -> None:
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN), 0)
    stage.finish(made)
    assert answers(stage) == [None]
    assert len(stage.said(WorkFailed)) == 1


# ---- selection -----------------------------------------------------------------------------------------------------


def test_selection_is_the_stated_share_and_everybody_can_check_it() -> None:
    members = [b"%016d" % index for index in range(4000)]
    chosen = [member for member in members if selected(b"round 1", member, 0.25)]
    assert 850 < len(chosen) < 1150
    assert chosen == [member for member in members if selected(b"round 1", member, 0.25)]
    assert chosen != [member for member in members if selected(b"round 2", member, 0.25)]
    assert all(selected(b"", member, 1.0) for member in members)


def test_who_is_not_selected_does_not_train() -> None:
    stage = Stage(fraction=0.5).learned()
    beacons = [bytes([index]) for index in range(40)]
    for number, beacon in enumerate(beacons):
        stage.roles.wave_opened(stage.app, stage.wave(encode(Order(Work.TRAIN, beacon)), round_=1 + number), 0)
    chosen = sum(selected(beacon, ME.id, 0.5) for beacon in beacons)
    assert 0 < chosen < 40
    assert answers(stage) == [None] * (40 - chosen)
    assert len([task for task in stage(object) if type(task).__name__ == "Compute"]) == chosen


def test_everybody_describes_and_evaluates_whatever_the_fraction() -> None:
    stage = Stage(fraction=1e-9).learned()
    for order in (DESCRIBE, EVALUATE):
        stage.roles.wave_opened(stage.app, stage.wave(order), 0)
    assert stage.forest.contributed == []


def test_seeds_differ_by_round_and_member_and_fit_any_generator() -> None:
    seeds = {seed_of(seed, round_, member.id) for seed in (-(2**63), 0, 7) for round_ in (1, 2**40) for member in PEERS}
    assert len(seeds) == 3 * 2 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)


# ---- large models --------------------------------------------------------------------------------------------------

BIG = Value(100_000, b"", b"B" * 32)


def test_a_large_model_is_fetched_from_whoever_opened_the_wave(stage: Stage) -> None:
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN, model=BIG), 0)
    assert [(one.peer, one.blob) for one in stage.transfers] == [(PEERS[1].id, BIG.blob)]
    assert stage.tasks == []
    stage.forest.holdings.handle(TransferDone(BIG.blob), 0)
    assert len(stage.tasks) == 1


def test_when_the_parent_dies_on_the_way_the_next_one_gives_the_model(stage: Stage) -> None:
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN, model=BIG), 0)
    for _ in range(8):
        stage.forest.holdings.handle(TransferFailed(BIG.blob, 0), 0)
    assert len(stage.forest.holdings) == 0
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN, model=BIG, source=PEERS[4]), 0)
    assert stage.transfers[-1].peer == PEERS[4].id
    stage.forest.holdings.handle(TransferDone(BIG.blob), 0)
    assert len(stage.tasks) == 1


def test_a_wave_opened_again_while_the_model_travels_trains_once(stage: Stage) -> None:
    for source in (PEERS[1], PEERS[4], PEERS[1]):
        stage.roles.wave_opened(stage.app, stage.wave(TRAIN, model=BIG, source=source), 0)
    stage.forest.holdings.handle(TransferDone(BIG.blob), 0)
    assert len(stage.tasks) == 1
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN, model=BIG), 0)
    assert len(stage.tasks) == 1


def test_a_model_that_arrives_after_the_round_starts_nothing(stage: Stage) -> None:
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN, model=BIG), 0)
    stage.roles.committed(stage.app, stage.head(round_=1), 0)
    stage.forest.holdings.handle(TransferDone(BIG.blob), 0)
    assert stage.tasks == []


def test_large_code_is_fetched_before_the_work_from_the_parent_or_from_home() -> None:
    code = Value(200_000, b"", b"C" * 32)
    stage = Stage(bundle=code).learned()
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN, source=ME), 0)
    assert stage.tasks == []
    for _ in range(1):
        stage.forest.holdings.handle(TransferFailed(code.blob, 0), 0)
    assert stage.transfers[-1].peer == stage.spec.home.id
    stage.forest.holdings.handle(TransferDone(code.blob), 0)
    assert len(stage.tasks) == 1


def test_a_large_contribution_is_pinned_until_it_is_history(stage: Stage) -> None:
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN), 0)
    stage.finish(Contribution(BIG, 1.0, {}))
    assert stage.pinned == {BIG.blob: 1}
    stage.roles.committed(stage.app, stage.head(round_=1), 0)
    assert stage.pinned == {BIG.blob: 0}
