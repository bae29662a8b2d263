"""Early stopping compares what can be compared."""

from __future__ import annotations

import hashlib

from fl import stopping
from fl.messages import SKETCH, Report, encode
from fl.spec import Stop

RULE = Stop("accuracy", patience=3)


def members(count: int, start: int = 0) -> list[bytes]:
    return [b"\0\0" + hashlib.sha256(b"%d" % index).digest()[:14] for index in range(start, start + count)]


def run(rule: Stop, *rounds: tuple[float, list[bytes]]) -> list[Report]:
    report, found = Report(), []
    for number, (value, who) in enumerate(rounds):
        report = stopping.judged(report, rule, number, value, stopping.population(who, 1.0))
        found.append(report)
    return found


ALL = members(6)
WITHOUT_THE_HARDEST = ALL[:5]


def test_values_of_one_population_are_compared() -> None:
    reports = run(RULE, *((value, ALL) for value in (0.5, 0.6, 0.55, 0.6, 0.59)))
    assert [report.stale_rounds for report in reports] == [0, 0, 1, 2, 3]
    assert (reports[-1].best, reports[-1].best_round) == (0.6, 1)


def test_a_hardest_site_that_is_away_for_a_while_ends_nothing() -> None:
    """The mean rises while it is away, and that height is never reached again."""
    away = [(value, WITHOUT_THE_HARDEST) for value in (0.95, 0.96)]
    back = [(value, ALL) for value in (0.82, 0.84, 0.86, 0.88)]
    reports = run(RULE, (0.78, ALL), (0.8, ALL), *away, *back)
    assert max(report.stale_rounds for report in reports) == 0
    assert (reports[-1].best, reports[-1].best_round) == (0.88, 7)


def test_who_stays_away_for_the_whole_window_is_history() -> None:
    reports = run(RULE, (0.8, ALL), *((value, WITHOUT_THE_HARDEST) for value in (0.9, 0.95, 0.94, 0.93, 0.92)))
    assert reports[2].best == 0.8
    assert (reports[3].best, reports[3].best_round, reports[3].stale_rounds) == (0.95, 2, 1)
    assert reports[-1].stale_rounds == 3


def test_a_population_that_changes_in_every_round_stops_nothing() -> None:
    reports = run(RULE, *((0.5, members(6, start)) for start in range(20)))
    assert all(report.stale_rounds == 0 for report in reports)


def test_one_of_thousands_may_come_and_go() -> None:
    crowd = members(2000)
    one, other = stopping.population(crowd, 1.0), stopping.population(crowd[:-5], 1.0)
    assert stopping.comparable(one, other)
    assert not stopping.comparable(one, stopping.population(crowd[200:], 1.0))
    assert not stopping.comparable(stopping.population(ALL, 1.0), stopping.population(WITHOUT_THE_HARDEST, 1.0))


def test_samples_are_compared_with_samples() -> None:
    assert stopping.comparable(stopping.population(members(5), 0.5), stopping.population(members(5, 10), 0.5))


def test_the_largest_report_fits_the_head() -> None:
    who = stopping.population(members(5000), 1.0)
    assert len(who) == 8 * SKETCH
    reports = run(RULE, (0.5, members(5000)), (0.6, members(5000, 9000)))
    assert reports[-1].rival is not None
    assert len(encode(reports[-1])) <= 8192
