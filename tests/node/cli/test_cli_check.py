"""check: every step that can fail, in one sentence, with the traceback of the user's code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.node.means import FUNCTIONS

from .conftest import Cli

GOOD = f"""{FUNCTIONS}
app = fl.App(name="means", model=model, train=train, evaluate=evaluate, data="digits", options={{"step": 1.0}})
"""


@pytest.fixture
def bound(cli: Cli) -> Cli:
    """A state directory that offers the digits; no daemon, no fabric."""
    cli.state.mkdir()
    (cli.state / "config.toml").write_text('[data.digits]\nkind = "digits"\npartition = "iid"\nparts = 10\n')
    return cli


def app(tmp_path: Path, text: str) -> str:
    (tmp_path / "means.py").write_text(text)
    return "means.py"


@pytest.mark.slow
def test_what_works_is_told_step_by_step(bound: Cli, tmp_path: Path) -> None:
    result = bound("check", app(tmp_path, GOOD), "--set", "step=0.5")
    assert result.code == 0, result.err
    assert [line.partition(":")[0] for line in result.lines] == [
        "ok      the code can be packed",
        "ok      the file defines an application",
        "ok      model() makes a model",
        "ok      train() works on this node's data",
        "ok      evaluate() works",
    ]
    assert "means.py" in result.lines[0]
    assert "needs numpy" in result.lines[0]
    assert "means, 20 rounds of fedavg on data 'digits'" in result.lines[1]
    assert "norm" in result.lines[4]
    assert result.err.endswith(f"next: mycelia -C {bound.state} run means.py\n")


@pytest.mark.slow
def test_what_user_code_raises_comes_with_its_traceback(bound: Cli, tmp_path: Path) -> None:
    result = bound("check", app(tmp_path, GOOD.replace("+= np.float32", "+= np.floot")), "--json")
    assert result.code == 2
    steps = result.json
    assert [step["ok"] for step in steps] == [True, True, True, False]
    assert "AttributeError" in steps[3]["detail"]
    shown = bound("check", "means.py")
    assert shown.lines[3] == "failed  train() works on this node's data"
    assert 'means.py", line 9, in train' in shown.err
    assert shown.err.splitlines()[-1].startswith("error: ")


@pytest.mark.slow
def test_data_that_is_not_bound_is_named(cli: Cli, tmp_path: Path) -> None:
    result = cli("check", app(tmp_path, GOOD))
    assert result.code == 3
    assert "has no data called 'digits'. try: bind it in [data.digits]" in result.err


def test_a_file_that_cannot_be_packed_starts_nothing(bound: Cli, tmp_path: Path) -> None:
    result = bound("check", app(tmp_path, "def f(:\n"))
    assert (result.code, result.out) == (2, "failed  the code can be packed\n")
    assert "means.py, line 1: invalid syntax" in result.err
