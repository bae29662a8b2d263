"""Whole runs with and without a planted bug: what the checkers of attendance, keeping, guardians and blame notice."""

from __future__ import annotations

import pytest

from simulations import mutants
from simulations.mutants import drizzle, skew, storm
from simulations.run import Result, Run, run
from simulations.scenario import Applications, Compute, Faults, Nodes, Scenario

CALM = Scenario(
    nodes=Nodes(count=20, join_s=3.0),
    compute=Compute(train_s=0.5, straggler_share=0.0),
    applications=Applications(count=1, rounds=6, workers=14, fan_out=2),
    faults=Faults(duration_s=0.0),
)


def rules(result: Result) -> set[str]:
    return {violation.rule for violation in result.violations}


def planted(name: str, seed: int) -> set[str]:
    mutant = mutants.ALL[name]
    with mutant.plant():
        return rules(run(mutant.weather(seed), strict=True))


def test_without_weather_every_worker_is_in_every_round() -> None:
    running = Run(CALM, 1, strict=True)
    result = running.execute()
    assert not result.violations
    attendances = running.checkers[2]
    rolls = getattr(attendances, "rolls")  # noqa: B009 - the checkers are a list of their protocol
    assert [roll.round for roll in rolls] == [1, 2, 3, 4, 5, 6, 7]
    assert all(roll.contributors == len(roll.expected) == 14 for roll in rolls)
    assert not any(roll.new_root for roll in rolls)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("sleeper-blamed", "nobody-blamed"),
        ("epochs-skipped", "no-epoch-skipped"),
        ("suspicion-never-ends", "suspicion-ends"),
        ("server-state-lost", "sum-is-exact"),
        ("contributors-truncated", "sum-is-exact"),
    ],
)
def test_in_a_storm_the_right_check_finds_the_bug(name: str, rule: str) -> None:
    assert any(rule in planted(name, seed) for seed in range(6))
    assert not any(rule in rules(run(storm(seed), strict=True)) for seed in range(3))


@pytest.mark.parametrize(
    ("name", "rule", "seed"),
    [
        ("skew-is-believed", "finishes", 0),
        ("rim-is-blamed", "nobody-blamed", 0),
        ("unfit-is-dropped", "finishes", 0),
        ("nobody-stands-in", "finishes", 2),
    ],
)
def test_where_clocks_are_wrong_the_right_check_finds_the_bug(name: str, rule: str, seed: int) -> None:
    assert rule in planted(name, seed)
    assert not run(skew(seed), strict=True).violations


@pytest.mark.parametrize(
    ("name", "rule", "seed"),
    [
        ("accepted-without-model", "voter-holds-model", 4),
        ("code-kept-at-home-alone", "code-has-holders", 0),
        ("leaf-set-never-repaired", "leaf-set-full", 3),
        ("dead-voters-stay", "dead-voter-replaced", 16),
        ("stop-kept-to-the-tree", "news-reach-all", 7),
        ("no-grace", "nobody-left-out", 3),
        ("one-wave-only", "nobody-left-out", 16),
    ],
)
def test_in_a_drizzle_the_right_check_finds_the_bug(name: str, rule: str, seed: int) -> None:
    """``seed`` is one that does; when the protocol changes, another one may."""
    assert any(
        rule in planted(name, tried) and rule not in rules(run(drizzle(tried), strict=True))
        for tried in (seed, *range(20))
    )
