"""Integer learning: exact sums whatever the order, the same contribution whenever it is asked for again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl import tasks
from fl.spec import AppSpec
from protocol.messages import INLINE_LIMIT, Contact, Value
from simulations.artifacts import Artifacts
from simulations.compute import ComputeConfig, IntegerCompute, contribution
from simulations.host import Host

ME = Contact(bytes(16), ("sim:0",))
APP = bytes(16)


def spec() -> AppSpec:
    return AppSpec("a", b"o", b"s", 0, (ME,), 3, Value(64, bytes(64)), ME, seed=9)


def lab(seed: int = 1) -> tuple[IntegerCompute, Host]:
    return IntegerCompute(ComputeConfig(), Artifacts(), seed), Host(0, ME)


@given(st.lists(st.integers(-(1 << 200), 1 << 200), min_size=1, max_size=8), st.randoms())
def test_merging_is_exact_in_any_order(numbers: Sequence[int], random: object) -> None:
    compute, host = lab()
    shuffled = list(numbers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    inputs = tuple(compute.value(host, number, 64) for number in shuffled)
    outcome = compute.run(host, tasks.Merge(APP, spec(), inputs, (1,) * len(inputs)))
    assert compute.integer(outcome.result.value) == sum(numbers)


@pytest.mark.parametrize("size", [64, 1_000_000])
def test_small_values_ride_along_and_large_ones_are_named(size: int) -> None:
    compute, host = lab()
    value = compute.value(host, -12345, size)
    assert value.well_formed
    assert value.size == size
    assert bool(value.blob) == (size > INLINE_LIMIT)
    assert compute.integer(value) == -12345


def test_a_contribution_depends_on_application_round_node_and_model() -> None:
    base = contribution(spec(), 1, b"n" * 16, 0)
    assert base == contribution(spec(), 1, b"n" * 16, 0)
    assert base != contribution(spec(), 2, b"n" * 16, 0)
    assert base != contribution(spec(), 1, b"m" * 16, 0)
    assert base != contribution(spec(), 1, b"n" * 16, 1)
    assert base[0] % base[1] == 0


def test_finish_adds_the_total_and_counts_the_step() -> None:
    compute, host = lab()
    model, total, state = (compute.value(host, number, 64) for number in (100, -30, 4))
    task = tasks.Finish(APP, spec(), 5, model, state, total, 2.0)
    result = compute.run(host, task).result
    assert (compute.integer(result.model), compute.integer(result.state)) == (70, 5)
    assert result.model.size == task.spec.initial.size


def test_what_is_not_in_the_store_is_an_error_not_an_exception() -> None:
    compute, host = lab()
    outcome = compute.run(host, tasks.Train(APP, spec(), 1, Value(100_000, b"", bytes(32)), 1, False))
    assert outcome.result is None
    assert "is not in the store" in outcome.error


def test_durations_vary_by_node_and_job_and_are_the_same_again() -> None:
    def durations(seed: int) -> list[int]:
        compute, _ = lab(seed)
        hosts = [Host(index, ME) for index in range(3)]
        return [compute.run(host, tasks.Describe(APP, spec())).took_ns for host in hosts for _ in range(2)]

    assert durations(1) == durations(1)
    assert len(set(durations(1))) == 6
    assert durations(1) != durations(2)
