"""``python -m simulations handover``: what is counted, and that every aim is in the exit status."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from simulations import handover
from simulations.cli import main
from simulations.handover import CASES, Outcome, run_case, summary

GOOD = Outcome("crash", 0, True, 11, 11, (20,) * 11, (1.0, 0.95, 1.0), 1, 0.2, 0, ())
CASE = {case.name: case for case in CASES}


def missed(**changes: Any) -> list[str]:
    return [
        aim for aim, met in summary("crash", [GOOD, dataclasses.replace(GOOD, **changes)])["aims"].items() if not met
    ]


def test_a_dead_root_is_replaced_and_its_workers_stay() -> None:
    outcome = run_case(CASE["crash"], 0)
    assert outcome.finished
    assert outcome.handovers == 1
    assert outcome.rounds == outcome.wanted == handover.ROUNDS + 1
    assert len(outcome.contributors) == outcome.rounds
    assert 0 < len(outcome.shares) < outcome.rounds
    assert not outcome.penalties


def test_two_neighbours_that_cannot_talk_do_not_depose_one_another() -> None:
    outcome = run_case(CASE["pair"], 9)
    assert outcome.finished
    assert outcome.handovers <= 1
    assert min(outcome.shares[1:]) >= handover.SHARE, "from the second round on: the first one may begin with few"


@pytest.mark.parametrize("name", handover.NAMES)
def test_the_seed_alone_draws_a_case(name: str) -> None:
    assert CASE[name].scenario(3) == CASE[name].scenario(3)
    assert CASE[name].scenario(3) != CASE[name].scenario(4)


def test_every_aim_can_be_missed() -> None:
    assert missed() == []
    assert missed(finished=False) == ["all rounds finish"]
    assert missed(rounds=10) == ["all rounds finish"]
    assert missed(shares=(0.5, 1.0)) == ["worst share >= 0.9"]
    assert missed(shares=(0.5,) * 9) == ["median share >= 0.9", "worst share >= 0.9"]
    assert missed(epochs_per_round=0.6) == ["epochs per round <= 0.5"]
    assert missed(penalties=1) == ["no penalties"]
    assert missed(violations=("one-head-per-round",)) == ["no violations"]


def test_no_round_at_all_meets_no_aim_by_accident() -> None:
    found = summary("crash", [handover.failed(CASE["crash"], 0, "raised: KeyError")])
    assert [aim for aim, met in found["aims"].items() if not met] == [
        "all rounds finish", "median share >= 0.9", "worst share >= 0.9", "no violations",
    ]  # fmt: skip


def test_the_command_writes_cases_runs_and_aims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "handover.json"
    status = main(["handover", "--only", "crash", "--seeds", "1", "--jobs", "1", "--json", str(target)])
    written = json.loads(target.read_text())
    assert status == (0 if written["met"] else 1)
    assert [found["case"] for found in written["cases"]] == ["crash"]
    assert [run["seed"] for run in written["runs"]] == [0]
    assert capsys.readouterr().out.startswith("crash ")


def test_an_unknown_case_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["handover", "--only", "nothing"]) == 2
    assert "bulk" in capsys.readouterr().err
