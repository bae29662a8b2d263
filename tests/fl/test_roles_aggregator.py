"""Merging what the children handed in: exact, and without those whose values cannot be used."""

from __future__ import annotations

import pytest

from fl.aggregator import combine, join
from fl.jobs import Jobs
from fl.tasks import Merge, Merged
from protocol.effects import CancelCompute, Compute, Outbox
from protocol.events import ComputeDone
from protocol.messages import EMPTY, Value
from pubsub.messages import Partial
from tests.fl.roles import PEERS, partial

APP = b"application-id-1"
A, B, C = (partial(peer, index + 1, weight=index + 1.0, loss=2.0) for index, peer in enumerate(PEERS[:3]))
NOTHING = Partial(1.0, EMPTY, (PEERS[3].id,), {"data.n": 5.0})


class Bench:
    def __init__(self) -> None:
        self.out = Outbox()
        self.jobs = Jobs(self.out)
        self.results: list[tuple[Partial | None, tuple[int, ...]]] = []

    def combine(self, *parts: Partial) -> list[Merge]:
        combine(APP, parts, self.jobs, lambda total, refused, now: self.results.append((total, refused)), 0)
        return [effect.task for effect in self.out.drain() if isinstance(effect, Compute)]

    def done(self, result: Merged | None, error: str = "") -> None:
        self.jobs.done(ComputeDone(1, result, error), 0)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_values_are_merged_off_the_loop_in_the_order_given(bench: Bench) -> None:
    assert bench.combine(B, A, NOTHING) == [Merge(APP, (B.value, A.value))]
    assert bench.results == []
    bench.done(Merged(Value(1, b"\x03")))
    members = tuple(sorted(peer.id for peer in (PEERS[0], PEERS[1], PEERS[3])))
    assert bench.results == [(Partial(4.0, Value(1, b"\x03"), members, {"data.n": 5.0, "loss": 4.0}), ())]


def test_one_value_needs_no_merge(bench: Bench) -> None:
    assert bench.combine(A, NOTHING) == []
    total, _ = bench.results[0]
    assert total is not None
    assert total.value == A.value
    assert total.weight == 2.0


def test_metrics_alone_need_no_merge(bench: Bench) -> None:
    assert bench.combine(NOTHING) == []
    assert bench.results == [(NOTHING, ())]


def test_nothing_makes_nothing(bench: Bench) -> None:
    assert bench.combine() == []
    assert bench.results == [(None, ())]


def test_who_is_refused_takes_everything_that_it_stood_for_along(bench: Bench) -> None:
    bench.combine(A, NOTHING, B, C)
    bench.done(Merged(Value(1, b"\x04"), rejected=(1,)))
    assert bench.results == [(join([A, NOTHING, C], Value(1, b"\x04")), (2,))]


def test_a_merge_that_refuses_all_leaves_what_has_no_value(bench: Bench) -> None:
    bench.combine(A, NOTHING, B)
    bench.done(Merged(EMPTY, rejected=(0, 1)))
    assert bench.results == [(NOTHING, (0, 2))]
    other = Bench()
    other.combine(A, B)
    other.done(Merged(EMPTY, rejected=(0, 1)))
    assert other.results == [(None, (0, 1))]


def test_a_failed_merge_loses_the_subtree_and_nothing_else(bench: Bench) -> None:
    bench.combine(A, B)
    bench.done(None, "no memory")
    assert bench.results == [(None, (0, 1))]


def test_a_cancelled_job_is_never_heard_of(bench: Bench) -> None:
    heard: list[object] = []
    job = bench.jobs.run(Merge(APP, ()), lambda result, error, now: heard.append(result))
    bench.jobs.cancel(job)
    bench.jobs.cancel(job)
    bench.jobs.done(ComputeDone(job, Merged(EMPTY)), 0)
    assert heard == []
    assert len(bench.jobs) == 0
    assert [type(effect) for effect in bench.out.drain()] == [Compute, CancelCompute]


def test_a_result_that_nobody_waits_for_is_ignored(bench: Bench) -> None:
    bench.jobs.done(ComputeDone(99, Merged(EMPTY)), 0)
    assert bench.results == []
