"""From one committed head to the next: which waves are opened, when there is enough, and what is proposed."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from fl.messages import Report, Work, decode_report, encode
from fl.notices import DataDescribed, StatusChanged, SteppedDown, TookOver
from fl.spec import Stop
from fl.tasks import Finish, Finished, Merge, Merged
from protocol.effects import Penalize
from protocol.errors import Code
from protocol.ids import NodeId
from protocol.messages import EMPTY, Value
from pubsub.heads import MAX_METRICS
from pubsub.messages import Partial, WaveId
from pubsub.ports import HandedIn
from tests.fl.roles import ME, MODEL, PEERS, SECOND, Stage, partial


def reigning(round_: int = 1, report: Report | None = None, **fields: Any) -> Stage:
    """This node is root; ``round_`` is committed, so no description is needed."""
    stage = Stage(**fields).learned(bound=False)
    head = stage.head(1, round_, report=encode(report) if report is not None else b"")
    stage.roles.rooted(stage.app, head, stage.now)
    return stage


def close(stage: Stage, *parts: Partial, absent: int = 0, after: int = 0) -> None:
    """The wave that was opened last brings ``parts``."""
    stage.now += after
    handed = [HandedIn(part.contributors[0], part) for part in parts]
    stage.roles.wave_closed(stage.app, stage.forest.opened[-1][0], handed, absent, stage.now)


def opened(stage: Stage) -> list[tuple[WaveId, Work]]:
    return [(wave, order.work) for wave, order, _, _ in stage.forest.opened]


def closed(stage: Stage) -> tuple[NodeId, ...]:
    """Whom the newest wave does not ask again."""
    return stage.forest.opened[-1][2]


def commit(stage: Stage) -> None:
    stage.roles.committed(stage.app, stage.forest.proposed[-1], stage.now)


def round_over(stage: Stage, *parts: Partial, after: int = 0) -> None:
    """One whole round, up to the commit."""
    close(stage, *parts, after=after)
    stage.finish(Merged(Value(1, b"\x01")))
    stage.finish(Finished(Value(1, b"\x06"), EMPTY))
    commit(stage)


A, B, C = (partial(peer, index + 1, loss=2.0) for index, peer in enumerate(PEERS[:3]))


def test_before_the_first_round_the_data_are_described() -> None:
    stage = Stage().learned(bound=False)
    stage.roles.rooted(stage.app, stage.head(1, 0), 0)
    assert opened(stage) == [(WaveId(1, 0, 0), Work.DESCRIBE)]
    parts = [Partial(1.0, EMPTY, (peer.id,), {"data.n": 10.0}) for peer in PEERS[:2]]
    close(stage, *parts)
    assert stage.said(DataDescribed) == [DataDescribed(stage.app, {"data.n": 20.0}, 2)]
    assert opened(stage)[-1] == (WaveId(1, 1, 0), Work.TRAIN)


def test_a_round_is_merged_finished_proposed_and_the_next_one_opened() -> None:
    stage = reigning()
    assert opened(stage) == [(WaveId(1, 2, 0), Work.TRAIN)]
    close(stage, A, B)
    assert stage.tasks == [Merge(stage.app, stage.spec, (A.value, B.value), (1, 1))]
    stage.finish(Merged(Value(1, b"\x03")))
    assert stage.tasks[-1] == Finish(stage.app, stage.spec, 2, MODEL, EMPTY, Value(1, b"\x03"), 2.0)
    stage.finish(Finished(Value(1, b"\x08"), Value(1, b"s")))
    (head,) = stage.forest.proposed
    assert (head.order, head.model, head.state, head.weight) == ((1, 2, 0), Value(1, b"\x08"), Value(1, b"s"), 2.0)
    assert head.contributors == tuple(sorted(peer.id for peer in PEERS[:2]))
    assert head.metrics == {"loss": 4.0}
    commit(stage)
    assert opened(stage)[-1] == (WaveId(1, 3, 0), Work.TRAIN)


def test_absentees_get_two_more_waves_and_only_they_are_asked() -> None:
    stage = reigning()
    close(stage, A, absent=2)
    assert opened(stage)[-1][0] == WaveId(1, 2, 1)
    assert closed(stage) == A.contributors
    close(stage, B, absent=1)
    assert opened(stage)[-1][0] == WaveId(1, 2, 2)
    assert closed(stage) == tuple(sorted(A.contributors + B.contributors))
    close(stage, absent=1)
    assert len(stage.forest.opened) == 3
    assert stage.tasks == [Merge(stage.app, stage.spec, (A.value, B.value), (1, 1))]


def test_too_few_contributors_are_waited_for_and_kept() -> None:
    stage = reigning(min_workers=2)
    close(stage, A)
    assert stage.tasks == []
    assert stage.said(StatusChanged)[-1].status == "waiting"
    stage.tick()
    assert opened(stage)[-1][0] == WaveId(1, 2, 1)
    assert closed(stage) == A.contributors
    close(stage, B)
    assert stage.tasks == [Merge(stage.app, stage.spec, (A.value, B.value), (1, 1))]
    assert stage.said(StatusChanged)[-1].status == "running"


def test_who_waits_long_asks_seldom() -> None:
    stage = reigning(min_workers=9)
    pauses = []
    for _ in range(40):
        before = stage.now
        close(stage)
        stage.tick()
        pauses.append(stage.now - before)
    assert set(pauses[:5]) == {1 * SECOND}
    assert pauses[-1] == 30 * SECOND


def test_each_retry_selects_others() -> None:
    """A small share of few workers may be nobody: the same draw again would be nobody for ever."""
    stage = reigning(fraction=0.1)
    for _ in range(3):
        close(stage)
        stage.tick()
    beacons = [order.beacon for _, order, _, _ in stage.forest.opened]
    assert len(set(beacons)) == 4
    close(stage, A, absent=1)
    assert stage.forest.opened[-1][1].beacon == beacons[-1]


def test_a_description_that_too_few_gave_begins_anew() -> None:
    stage = Stage(min_workers=2).learned(bound=False)
    stage.roles.rooted(stage.app, stage.head(1, 0), 0)
    close(stage, A)
    stage.tick()
    assert opened(stage)[-1] == (WaveId(1, 0, 1), Work.DESCRIBE)
    assert closed(stage) == ()


def test_a_failed_step_begins_the_round_anew() -> None:
    stage = reigning()
    close(stage, A)
    stage.finish(Merged(A.value))
    stage.finish(None, "the strategy divided by zero")
    assert stage.said(StatusChanged)[-1].detail == "the strategy divided by zero"
    assert not stage.forest.proposed
    stage.tick()
    assert closed(stage) == ()
    close(stage, A)
    stage.finish(Merged(A.value))
    stage.finish(Finished(Value(1, b"\x06"), EMPTY))
    assert len(stage.forest.proposed) == 1


def test_refused_partials_do_not_count_towards_the_least_number() -> None:
    stage = reigning(min_workers=2)
    close(stage, A, B)
    stage.finish(Merged(Value(1, b"\x03"), rejected=(1,)))
    assert opened(stage)[-1][0] == WaveId(1, 2, 1)
    assert closed(stage) == A.contributors
    close(stage, B)
    stage.finish(Merged(Value(1, b"\x03"), rejected=(1,)))
    assert not [task for task in stage.tasks if isinstance(task, Finish)]
    assert stage.said(StatusChanged)[-1].status == "waiting"
    stage.tick()
    close(stage, A, C)
    stage.finish(Merged(Value(1, b"\x04")))
    assert isinstance(stage.tasks[-1], Finish)


def test_what_another_wave_or_reign_brings_is_ignored() -> None:
    stage = reigning()
    stage.roles.wave_closed(stage.app, WaveId(1, 1, 0), [HandedIn(PEERS[0].id, A)], 0, 0)
    assert stage.tasks == []
    close(stage, A, B)
    stage.roles.unrooted(stage.app, 2, 0)
    stage.finish(Merged(Value(1, b"\x03")))
    assert not [task for task in stage.tasks if isinstance(task, Finish)]
    assert stage.said(SteppedDown) == [SteppedDown(stage.app, 2)]


def test_a_fenced_root_stops_its_timer() -> None:
    stage = reigning(min_workers=5)
    close(stage)
    assert ("fl.next", stage.app) in stage.timers
    stage.roles.unrooted(stage.app, 2, 0)
    assert ("fl.next", stage.app) not in stage.timers


def test_a_successor_goes_on_from_the_same_head() -> None:
    stage = reigning()
    close(stage, A)
    stage.roles.unrooted(stage.app, 2, 0)
    stage.forest.groves[stage.app].epoch = 3
    stage.roles.rooted(stage.app, stage.head(3, 1), 0)
    assert opened(stage)[-1] == (WaveId(3, 2, 0), Work.TRAIN)
    assert closed(stage) == ()
    assert [notice.epoch for notice in stage.said(TookOver)] == [1, 3]


# ---- deadlines -----------------------------------------------------------------------------------------------------


def test_without_history_quorum_decides_and_then_the_slowest_of_the_last_waves() -> None:
    stage = reigning(rounds=50)
    assert stage.forest.opened[-1][3] == 0
    for took in (4, 2, 2, 2, 2, 2):
        round_over(stage, A, after=took * SECOND)
    assert stage.forest.opened[-6][3] == 8 * SECOND
    assert stage.forest.opened[-1][3] == 5 * SECOND


def test_a_wave_with_absentees_teaches_nothing() -> None:
    stage = reigning()
    close(stage, A, absent=1, after=100 * SECOND)
    assert stage.forest.opened[-1][3] == 0


def test_a_deadline_that_most_miss_grows_until_they_keep_it() -> None:
    stage = reigning(rounds=50)
    round_over(stage, A, after=SECOND // 10)
    quick = stage.forest.opened[-1][3]
    close(stage, A, absent=3, after=quick)
    assert stage.forest.opened[-1][3] > 1.5 * quick


def test_the_word_of_one_that_most_are_absent_makes_no_deadline_grow_for_ever() -> None:
    stage = reigning(rounds=50)
    round_over(stage, A, B, after=SECOND)
    deadlines = []
    for _ in range(12):
        deadlines.append(stage.forest.opened[-1][3])
        close(stage, A, B, absent=16384, after=deadlines[-1])
        close(stage, absent=16384, after=deadlines[-1])
    assert deadlines[-1] == deadlines[-6] < 30 * SECOND


def test_one_straggler_does_not_make_the_others_wait() -> None:
    stage = reigning(rounds=50)
    round_over(stage, A, B, after=SECOND)
    before = stage.forest.opened[-1][3]
    close(stage, A, absent=1, after=before)
    close(stage, absent=1, after=before)
    assert stage.forest.opened[-1][3] == before


# ---- the first round of a reign ------------------------------------------------------------------------------------


def succeeding(*, dead: int = 0) -> Stage:
    """This node has just become root; eight contributed to the last head, of whom ``dead`` are known to be dead."""
    stage = Stage(rounds=9).learned(bound=False)
    stage.forest.ring.dead = {peer.id for peer in PEERS[:dead]}
    stage.forest.groves[stage.app].epoch = 2
    members = tuple(sorted(peer.id for peer in PEERS))
    stage.roles.rooted(stage.app, msgspec.structs.replace(stage.head(2, 3), contributors=members), 0)
    return stage


def least(stage: Stage) -> int:
    gathering = stage.forest.gathered[-1]
    return 0 if gathering is None else gathering.least


def test_a_new_root_waits_for_about_as_many_as_the_last_head_names() -> None:
    assert least(succeeding()) == 8
    assert least(succeeding(dead=4)) == 4
    assert least(reigning()) == 0


def test_who_attaches_late_is_fetched_by_further_waves_though_nobody_is_missed() -> None:
    stage = succeeding()
    close(stage, A)
    assert opened(stage)[-1] == (WaveId(2, 4, 1), Work.TRAIN)
    assert least(stage) == 7
    close(stage, B)
    close(stage, C)
    assert len(opened(stage)) == 3
    assert isinstance(stage.tasks[-1], Merge)


def test_only_the_first_round_of_a_reign_gathers() -> None:
    stage = succeeding(dead=7)
    round_over(stage, A)
    assert least(stage) == 0


# ---- the end -------------------------------------------------------------------------------------------------------


def last_round(stage: Stage) -> Stage:
    round_over(stage, A)
    return stage


def test_after_the_last_round_the_final_model_is_evaluated() -> None:
    stage = last_round(reigning(2))
    assert opened(stage)[-1] == (WaveId(1, 4, 0), Work.EVALUATE)
    assert not stage.forest.proposed[-1].finished
    close(stage, Partial(1.0, EMPTY, A.contributors, {"accuracy": 0.9, "accuracy.n": 1.0}))
    head = stage.forest.proposed[-1]
    assert (head.order, head.finished, head.model) == ((1, 4, 0), True, Value(1, b"\x06"))
    assert head.metrics == {"accuracy": 0.9, "accuracy.n": 1.0}


def test_an_evaluation_by_nobody_is_asked_for_again_and_never_an_end() -> None:
    stage = last_round(reigning(2))
    for _ in range(12):
        close(stage)
        assert not stage.forest.proposed[-1].finished
        assert stage.said(StatusChanged)[-1].status == "waiting"
        assert "nobody has evaluated" in stage.said(StatusChanged)[-1].detail
        stage.tick()
        assert opened(stage)[-1][1] is Work.EVALUATE
    close(stage, Partial(1.0, EMPTY, A.contributors, {"accuracy": 0.9, "accuracy.n": 1.0}))
    assert stage.forest.proposed[-1].finished


def test_an_evaluation_by_few_is_asked_for_again_and_then_said_to_be_by_few() -> None:
    stage = reigning(2, min_workers=2)
    close(stage, A, B)
    stage.finish(Merged(Value(1, b"\x05")))
    stage.finish(Finished(Value(1, b"\x06"), EMPTY))
    commit(stage)
    close(stage, Partial(1.0, EMPTY, A.contributors, {"accuracy": 0.9, "accuracy.n": 1.0}))
    for _ in range(5):
        assert not stage.forest.proposed[-1].finished
        assert stage.said(StatusChanged)[-1] == StatusChanged(
            stage.app, "waiting", "1 of 2 workers have evaluated the last model"
        )
        stage.tick()
        assert closed(stage) == A.contributors, "who has answered is not asked again"
        close(stage)
    assert stage.forest.proposed[-1].finished
    assert stage.forest.proposed[-1].contributors == A.contributors
    commit(stage)
    assert stage.said(StatusChanged)[-1].detail.endswith("evaluated by 1, a round needs 2")


def test_an_evaluation_that_is_answered_late_is_an_evaluation() -> None:
    stage = last_round(reigning(2))
    close(stage)
    stage.tick()
    close(stage, Partial(1.0, EMPTY, A.contributors, {"accuracy": 0.9, "accuracy.n": 1.0}))
    assert stage.forest.proposed[-1].metrics == {"accuracy": 0.9, "accuracy.n": 1.0}


def test_without_evaluation_the_last_round_is_the_end() -> None:
    stage = reigning(2, evaluate=False)
    close(stage, A)
    stage.finish(Merged(A.value))
    stage.finish(Finished(Value(1, b"\x06"), EMPTY))
    assert stage.forest.proposed[-1].finished


def test_a_successor_in_the_closing_evaluates_again() -> None:
    stage = reigning(3, report=Report(closing=True))
    assert opened(stage) == [(WaveId(1, 4, 0), Work.EVALUATE)]


def test_a_finished_head_opens_nothing() -> None:
    stage = Stage().learned(bound=False)
    stage.roles.rooted(stage.app, stage.head(2, 3, finished=True), 0)
    assert stage.forest.opened == []
    assert stage.forest.concluded == [stage.app]


# ---- early stopping ------------------------------------------------------------------------------------------------


def measured(value: float, weight: float = 4.0) -> Partial:
    return Partial(1.0, Value(1, b"\x01"), (PEERS[0].id,), {"accuracy": value * weight, "accuracy.n": weight})


def reports(stage: Stage) -> list[Report]:
    return [decode_report(head.report) for head in stage.forest.proposed]


def test_it_stops_when_the_metric_no_longer_improves() -> None:
    stage = reigning(0 + 1, rounds=50, stop=Stop("accuracy", patience=2, delta=0.01))
    for value in (0.5, 0.6, 0.605, 0.7, 0.705, 0.69):
        assert opened(stage)[-1][1] is Work.TRAIN
        round_over(stage, measured(value))
    assert [report.stale_rounds for report in reports(stage)] == [0, 0, 1, 0, 1, 2]
    assert reports(stage)[-1].best == 0.7
    assert reports(stage)[-1].best_round == 4
    assert opened(stage)[-1][1] is Work.EVALUATE


def test_a_run_that_is_stopped_ends_with_its_best_model() -> None:
    stage = reigning(rounds=50, stop=Stop("accuracy", patience=2))
    for number, value in enumerate((0.5, 0.9, 0.8, 0.7), 1):
        close(stage, measured(value))
        stage.finish(Merged(Value(1, b"\x01")))
        stage.finish(Finished(Value(1, bytes([number])), EMPTY))
        commit(stage)
    assert [report.best_round for report in reports(stage)][-1] == 2, "round 3 measured what round 2 had made"
    assert opened(stage)[-1][1] is Work.EVALUATE
    close(stage, msgspec.structs.replace(measured(0.6), value=EMPTY))
    wave, order, closed_, _ = stage.forest.opened[-1]
    assert (wave.wave, order.work, closed_) == (1, Work.EVALUATE, ()), "the best one is measured, by everybody"
    assert stage.forest.earlier == Value(1, b"\x01")
    close(stage, msgspec.structs.replace(measured(0.9), value=EMPTY))
    head = stage.forest.proposed[-1]
    assert (head.finished, head.model) == (True, Value(1, b"\x01"))
    assert decode_report(head.report).made == 2


def test_a_last_model_that_is_better_than_all_before_is_what_a_run_ends_with() -> None:
    stage = reigning(rounds=50, stop=Stop("accuracy", patience=2))
    for value in (0.5, 0.9, 0.8, 0.7):
        round_over(stage, measured(value))
    close(stage, msgspec.structs.replace(measured(0.95), value=EMPTY))
    head = stage.forest.proposed[-1]
    assert (head.finished, decode_report(head.report).made) == (True, 0)


def test_a_root_that_does_not_have_the_best_model_ends_with_the_last_and_says_so() -> None:
    stage = reigning(5, report=Report(0.9, 3, 1), rounds=50, stop=Stop("accuracy", patience=2))
    round_over(stage, measured(0.8))
    close(stage, msgspec.structs.replace(measured(0.7), value=EMPTY))
    head = stage.forest.proposed[-1]
    assert (head.finished, decode_report(head.report).made) == (True, 0)


def test_a_loss_is_to_shrink() -> None:
    stage = reigning(rounds=50, stop=Stop("accuracy", patience=1, maximise=False))
    round_over(stage, measured(0.5))
    round_over(stage, measured(0.4))
    assert opened(stage)[-1][1] is Work.TRAIN
    round_over(stage, measured(0.4))
    assert opened(stage)[-1][1] is Work.EVALUATE


def test_patience_survives_a_change_of_root() -> None:
    stop = Stop("accuracy", patience=2)
    stage = reigning(5, report=Report(0.9, 3, 1), rounds=50, stop=stop)
    round_over(stage, measured(0.8))
    assert opened(stage)[-1][1] is Work.EVALUATE


def test_a_round_without_the_metric_does_not_count() -> None:
    stage = reigning(rounds=50, stop=Stop("accuracy", patience=1))
    round_over(stage, measured(0.5))
    for _ in range(3):
        round_over(stage, A)
    assert reports(stage)[-1] == reports(stage)[0]
    assert opened(stage)[-1][1] is Work.TRAIN


@pytest.mark.parametrize("weight", [0.0, -4.0])
def test_a_metric_without_weight_is_no_metric(weight: float) -> None:
    stage = reigning(rounds=50, stop=Stop("accuracy", patience=1))
    round_over(stage, measured(0.5, weight))
    assert reports(stage)[-1].best in (None, 0.5)
    assert all(report.best is None or math.isfinite(report.best) for report in reports(stage))


def test_a_report_of_later_days_starts_afresh() -> None:
    assert decode_report(b"\xc1") == Report()
    assert decode_report(b"") == Report()


def test_a_head_names_no_more_metrics_than_a_message_can() -> None:
    stage = Stage().learned(bound=False)
    stage.roles.rooted(stage.app, stage.head(1, 0), 0)
    close(stage, Partial(1.0, EMPTY, (ME.id,), {f"data.{index:03}": 1.0 for index in range(MAX_METRICS)}))
    many = {f"train.{index:03}": 1.0 for index in range(MAX_METRICS)}
    close(stage, Partial(1.0, Value(1, b"\x01"), (ME.id,), many))
    stage.finish(Finished(Value(1, b"\x06"), EMPTY))
    assert len(stage.forest.proposed[-1].metrics) == MAX_METRICS


def test_a_weight_without_its_metric_does_not_stop_a_round() -> None:
    """From a voter of an older life, say: partials that arrive with one are refused before."""
    stage = reigning(stop=Stop("loss", patience=2))
    close(stage, Partial(1.0, Value(1, b"\x01"), (PEERS[0].id,), {"loss.n": 4.0}))
    stage.finish(Merged(Value(1, b"\x01")))
    stage.finish(Finished(Value(1, b"\x06"), EMPTY))
    assert len(stage.forest.proposed) == 1


def test_a_rejected_part_is_not_committed_and_its_members_are_asked_once_more() -> None:
    stage = reigning()
    close(stage, A, B)
    stage.finish(Merged(A.value, rejected=(1,)))
    assert [(effect.peer, effect.code) for effect in stage(Penalize)] == [(PEERS[1].id, Code.MALFORMED)]
    assert opened(stage)[-1][0] == WaveId(1, 2, 1)
    close(stage, B)
    stage.finish(Merged(A.value, rejected=(1,)))
    stage.finish(Finished(Value(1, b"\x06"), EMPTY))
    (head,) = stage.forest.proposed
    assert head.contributors == A.contributors
