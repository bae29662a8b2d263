"""Foreign packages under our names are found before anything of theirs runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from node import provenance
from protocol.errors import ConfigError


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``pubsub`` that shadows ours and must never be run."""
    package = tmp_path / "pubsub"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "pubsub"]:
        monkeypatch.delitem(sys.modules, name)
    return package


def test_our_own_packages_pass() -> None:
    assert provenance.intruder() is None
    provenance.check()


def test_a_foreign_package_is_named(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert provenance.intruder() == ("pubsub", str(foreign.resolve()))
    with pytest.raises(SystemExit) as stop:
        provenance.check()
    assert stop.value.code == provenance.EXIT_CODE == ConfigError.exit_code
    said = capsys.readouterr().err
    assert f"'pubsub' comes from {foreign.resolve()}" in said
    assert "virtual environment of its own" in said


def test_a_missing_package_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        provenance.check((*provenance.PACKAGES, "no_such_package"))
    assert "'no_such_package' is missing" in capsys.readouterr().err
