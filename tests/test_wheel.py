"""What is installed is whole: the wheel, unpacked where there is no source tree, does all that the commands offer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from node.cli.catalogue import ROOT as COMMANDS
from node.provenance import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installer leaves it, in a directory of its own."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def mycelia(site: Path, empty: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``mycelia WORDS`` from ``site``, in the folder ``empty``."""
    environment = {**os.environ, "PYTHONPATH": str(site), "HOME": str(empty), "PYTHONWARNINGS": "default"}
    command = [sys.executable, "-m", "node", *words]
    return subprocess.run(command, cwd=empty, env=environment, check=False, capture_output=True, text=True)


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        example = archive.read("node/demo/examples/digits.py")
    assert example == (ROOT / "examples" / "digits.py").read_bytes()
    tops = {name.split("/")[0] for name in names}
    metadata = {top for top in tops if top.endswith(".dist-info")}
    assert tops - metadata == set(PACKAGES)
    assert len(metadata) == 1
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    shipped = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    data = {str(path.relative_to(ROOT)) for path in (ROOT / "simulations").glob("scenarios/*.toml")}
    assert shipped | data | {"fl/data/digits.npz"} <= set(names)


@pytest.mark.parametrize("name", [child.name for child in COMMANDS.children])
def test_every_command_explains_itself_from_the_wheel(installed: Path, tmp_path: Path, name: str) -> None:
    done = mycelia(installed, tmp_path, name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: mycelia")


@pytest.mark.net
def test_the_demo_runs_from_the_wheel_in_an_empty_folder_and_leaves_it_empty(installed: Path, tmp_path: Path) -> None:
    report, empty = tmp_path / "report.json", tmp_path / "empty"
    empty.mkdir()
    options = ["--nodes", "3", "--rounds", "2", "--no-kill", "--json", str(report)]
    done = mycelia(installed, empty, "demo", *options)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(report.read_text())
    assert (told["rounds_lost"], told["double_counted"], told["model"]) == (0, 0, None)
    assert list(empty.iterdir()) == []
