"""Merging what the children handed in: exact, and without those whose values cannot be used."""

from __future__ import annotations

import pytest

from fl.aggregator import Combined, combine, join
from fl.jobs import Jobs
from fl.tasks import Merge, Merged
from protocol.effects import CancelCompute, Compute, Outbox
from protocol.events import ComputeDone
from protocol.messages import EMPTY, Value
from pubsub.messages import Partial
from tests.fl.roles import ME, PEERS, partial, spec

SPEC = spec()
A, B, C = (partial(peer, index + 1, weight=index + 1.0, loss=2.0) for index, peer in enumerate(PEERS[:3]))
NOTHING = Partial(1.0, EMPTY, (PEERS[3].id,), {"data.n": 5.0})


class Bench:
    def __init__(self) -> None:
        self.out = Outbox()
        self.jobs = Jobs(self.out)
        self.results: list[Combined] = []

    def combine(self, *parts: Partial) -> list[Merge]:
        combine(SPEC, parts, ME.id, self.jobs, lambda result, now: self.results.append(result), 0)
        return [effect.task for effect in self.out.drain() if isinstance(effect, Compute)]

    def done(self, result: Merged | None, error: str = "") -> None:
        self.jobs.done(ComputeDone(1, result, error), 0)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_values_are_merged_off_the_loop_in_the_order_given(bench: Bench) -> None:
    assert bench.combine(B, A, NOTHING) == [Merge(SPEC.id, SPEC, (B.value, A.value), (1, 1))]
    assert bench.results == []
    bench.done(Merged(Value(1, b"\x03")))
    members = tuple(sorted(peer.id for peer in (PEERS[0], PEERS[1], PEERS[3])))
    assert bench.results == [Combined(Partial(4.0, Value(1, b"\x03"), members, {"data.n": 5.0, "loss": 4.0}))]


def test_ones_own_value_alone_needs_no_merge(bench: Bench) -> None:
    own = partial(ME, 9)
    assert bench.combine(own, NOTHING) == []
    total = bench.results[0].total
    assert total is not None
    assert total.value == own.value
    assert total.weight == 2.0


def test_a_childs_value_is_looked_at_even_if_there_is_nothing_to_add_to_it(bench: Bench) -> None:
    """Who passes on junk unseen answers for it."""
    assert bench.combine(A) == [Merge(SPEC.id, SPEC, (A.value,), (1,))]
    bench.done(Merged(EMPTY, rejected=(0,)))
    assert bench.results == [Combined(None, refused=(0,))]


def test_metrics_alone_need_no_merge(bench: Bench) -> None:
    assert bench.combine(NOTHING) == []
    assert bench.results == [Combined(NOTHING)]


def test_nothing_makes_nothing(bench: Bench) -> None:
    assert bench.combine() == []
    assert bench.results == [Combined(None)]


def test_who_is_refused_takes_everything_that_it_stood_for_along(bench: Bench) -> None:
    bench.combine(A, NOTHING, B, C)
    bench.done(Merged(Value(1, b"\x04"), rejected=(1,)))
    assert bench.results == [Combined(join([A, NOTHING, C], Value(1, b"\x04")), refused=(2,))]


def test_a_merge_that_refuses_all_leaves_what_has_no_value(bench: Bench) -> None:
    bench.combine(A, NOTHING, B)
    bench.done(Merged(EMPTY, rejected=(0, 1)))
    assert bench.results == [Combined(NOTHING, refused=(0, 2))]
    other = Bench()
    other.combine(A, B)
    other.done(Merged(EMPTY, rejected=(0, 1)))
    assert other.results == [Combined(None, refused=(0, 1))]


def test_a_failed_merge_loses_the_subtree_and_blames_nobody(bench: Bench) -> None:
    bench.combine(A, B)
    bench.done(None, "no memory")
    assert bench.results == [Combined(None, lost=(0, 1))]


def test_a_cancelled_job_is_never_heard_of(bench: Bench) -> None:
    heard: list[object] = []
    job = bench.jobs.run(Merge(SPEC.id, SPEC, (), ()), lambda result, error, now: heard.append(result))
    bench.jobs.cancel(job)
    bench.jobs.cancel(job)
    bench.jobs.done(ComputeDone(job, Merged(EMPTY)), 0)
    assert heard == []
    assert len(bench.jobs) == 0
    assert [type(effect) for effect in bench.out.drain()] == [Compute, CancelCompute]


def test_a_result_that_nobody_waits_for_is_ignored(bench: Bench) -> None:
    bench.jobs.done(ComputeDone(99, Merged(EMPTY)), 0)
    assert bench.results == []
