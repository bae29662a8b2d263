"""``python -m simulations``: what it prints, what it writes, how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations import cli, reference
from simulations.cli import main

SMALL = """
name = "small"
[nodes]
count = 12
join_s = 2.0
[applications]
count = 1
rounds = 2
workers = 4
[faults]
duration_s = 0.0
[limits]
settle_s = 2.0
"""


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return str(path)


def test_run_reports_and_writes_json(scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "result.json"
    assert main(["run", scenario, "--seed", "7", "--wire", "--json", str(target)]) == 0
    out = capsys.readouterr().out
    written = json.loads(target.read_text())
    assert f"small  seed=7  digest={written['digest']}" in out
    assert "violations: 0" in out
    assert written["ok"]
    assert written["apps"][0]["status"] == "finished"


def test_json_on_standard_output_stands_alone(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", scenario, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["scenario"] == "small"


def test_a_violated_check_is_exit_status_1(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(scenario)
    path.write_text(SMALL.replace("settle_s = 2.0", "liveness_s = 0.1\nsettle_s = 0.0\n[compute]\ntrain_s = 60.0"))
    assert main(["run", scenario]) == 1
    assert "finishes" in capsys.readouterr().out


def test_a_wrong_file_is_exit_status_3_and_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "absent.toml")]) == 3
    assert capsys.readouterr().err.startswith("error: cannot read ")


def test_an_unknown_mutant_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mutants", "--only", "nothing"]) == 2
    assert "lost-promise" in capsys.readouterr().err


def test_a_planted_bug_that_raises_is_not_caught(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "ask", lambda *words: (None, "TypeError: begin() takes 4 arguments"))
    assert main(["mutants", "--seeds", "1", "--jobs", "2"]) != 0
    said = capsys.readouterr().out
    assert "no-amnesia: SURVIVED 1 seeds, raised: TypeError" in said
    assert "caught" not in said


def test_mutants_prints_what_caught_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mutants", "--only", "accepted-before-stored", "--seeds", "3"]) == 0
    assert "caught by durable-before-said" in capsys.readouterr().out


def test_reference_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference"]) == 0
    assert capsys.readouterr().out == reference.markdown()
