"""Whole runs: real cores, checked, repeatable; the seeds that once failed; the planted bugs."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import msgspec
import pytest

from pubsub.waves import Waves
from simulations import mutants
from simulations.liars import KINDS, OUTBID
from simulations.mutants import skew, storm
from simulations.run import Result, run
from simulations.scenario import Limits, Scenario, load
from simulations.soak import draw, plain
from tests.simulations.hashing import printed

ROOT = Path(__file__).parents[2]
SCENARIOS = ROOT / "simulations" / "scenarios"
SEEDS = tomllib.loads((Path(__file__).parent / "seeds.toml").read_text())["failed"]


def said(result: Result) -> str:
    return "\n".join(map(str, result.violations))


def test_a_healthy_fabric_finishes_everything_over_the_wire() -> None:
    result = run(load(SCENARIOS / "smoke-32.toml"), check_wire=True)
    assert result.ok, said(result)
    assert [app.status for app in result.apps] == ["finished"] * 3
    assert [app.rounds for app in result.apps] == [6] * 3
    assert result.running == 32
    assert not result.penalties


def test_a_sleeping_root_is_replaced_and_then_refused() -> None:
    result = run(load(SCENARIOS / "freeze-root.toml"))
    assert result.ok, said(result)
    assert max(app.epoch for app in result.apps) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["partition-64", "bulk-64", "slow-disks-24", "thin-24"])
def test_scenarios_hold(name: str) -> None:
    result = run(load(SCENARIOS / f"{name}.toml"))
    assert result.ok, said(result)


@pytest.mark.parametrize("entry", SEEDS, ids=lambda entry: f"{entry['draw']}-{entry['seed']}")
def test_seeds_that_once_failed(entry: dict[str, object]) -> None:
    seed = entry["seed"]
    assert isinstance(seed, int)
    result = run(
        {"soak": draw, "plain": plain, "storm": storm, "skew": skew}[str(entry["draw"])](seed),
        strict=bool(entry.get("strict")),
    )
    assert result.ok, said(result)


def stormy_digest(seed: int) -> str:
    return run(storm(seed)).digest


def test_one_seed_one_digest_whatever_the_hash_seed() -> None:
    program = "from tests.simulations.test_run import stormy_digest; print(stormy_digest(3))"
    found = printed(program)
    assert found == {stormy_digest(3) + "\n"}
    assert stormy_digest(4) + "\n" not in found


@pytest.mark.parametrize("seed", [1, 2])
def test_honest_applications_finish_among_liars_and_only_liars_are_punished(seed: int) -> None:
    """That each is punished for each of its lies that can be proven is for the checker to say."""
    result = run(load(SCENARIOS / "liars-50.toml"), seed)
    assert result.ok, said(result)
    assert [app.status for app in result.apps] == ["finished"] * 3
    assert result.lies.keys() | {OUTBID} == set(KINDS), "every lie was told for which there was an occasion"
    assert result.penalties


def test_an_application_whose_voters_are_gone_is_stalled_and_not_forked() -> None:
    scenario = msgspec.structs.replace(
        load(SCENARIOS / "smoke-32.toml"), faults=msgspec.structs.replace(Scenario().faults, **DOOM)
    )
    result = run(scenario)
    assert result.ok, said(result)
    assert "stalled" in {app.status for app in result.apps}


DOOM = {"start_s": 1.0, "duration_s": 1.0, "crash_share": 0.8, "return_share": 0.0}


def test_the_storm_is_survived_without_a_planted_bug() -> None:
    result = run(storm(0))
    assert result.ok, said(result)


@pytest.mark.parametrize("name", ["lost-promise", "no-majority", "double-merge", "resend-after-send", "no-fan-out-cap"])
def test_planted_bugs_are_caught(name: str) -> None:
    outcome = mutants.hunt(mutants.ALL[name], seeds=20)
    assert outcome.caught, str(outcome)


def test_a_seed_that_fails_without_a_bug_as_well_is_no_evidence() -> None:
    """Everything fails in this weather, since nobody gets the time to finish."""

    def hopeless(seed: int) -> Scenario:
        return msgspec.structs.replace(storm(seed), limits=Limits(liveness_s=1.0, settle_s=1.0))

    mutant = dataclasses.replace(mutants.ALL["no-grace"], weather=hopeless, quick=())
    outcome = mutants.hunt(mutant, seeds=1)
    assert not outcome.caught
    assert list(outcome.unclear) == [0]


def test_a_planted_bug_is_gone_afterwards() -> None:
    before = dict(vars(Waves))
    with mutants.ALL["double-merge"].plant():
        assert vars(Waves) != before
    assert vars(Waves) == before


def test_every_mutant_tells_its_story() -> None:
    assert len(mutants.ALL) >= 12
    assert all(mutant.story.endswith(".") for mutant in mutants.ALL.values())
