"""Virtual time: order, ties, limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.clock import SECOND, Schedule, StuckError


@given(st.lists(st.integers(0, 20), max_size=50))
def test_calls_come_in_order_of_time_and_ties_in_order_of_scheduling(times: list[int]) -> None:
    schedule, made = Schedule(), []
    for number, time in enumerate(times):
        schedule.at(time, lambda *entry: made.append(entry), time, number)
    schedule.run(20)
    assert made == sorted((time, number) for number, time in enumerate(times))
    assert schedule.now == 20


def test_what_is_past_happens_now() -> None:
    schedule = Schedule()
    schedule.run(100)
    made: list[int] = []
    schedule.at(5, lambda: made.append(schedule.now))
    schedule.run(100)
    assert made == [100]


def test_run_until_stops_when_satisfied() -> None:
    schedule, made = Schedule(), list[int]()
    for second in range(1, 10):
        schedule.at(second * SECOND, made.append, second)
    assert schedule.run_until(lambda: len(made) == 3, timeout=20 * SECOND) == 3 * SECOND


def test_run_until_says_what_is_still_to_come() -> None:
    schedule = Schedule()
    schedule.at(50 * SECOND, print)
    with pytest.raises(StuckError, match=r"50\.000000 print"):
        schedule.run_until(lambda: False, timeout=SECOND)
    empty = Schedule()
    with pytest.raises(StuckError):
        empty.run_until(lambda: False, timeout=SECOND)
