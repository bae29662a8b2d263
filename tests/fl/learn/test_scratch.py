"""What a worker leaves on the disk is measured and removed, however it is made."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from fl.learn import scratch


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "LIMIT", 1 << 20)
    monkeypatch.setattr(scratch, "MAX_FILES", 100)


def write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))


@pytest.mark.usefixtures("small")
def test_bytes_and_files_are_counted_below_any_directory(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "c", 600_000)
    assert not scratch.exceeded(tmp_path, os.getpid())
    write(tmp_path / "a" / "d", 600_000)
    assert scratch.exceeded(tmp_path, os.getpid())
    (tmp_path / "a" / "d").unlink()
    for number in range(101):
        (tmp_path / "a" / str(number)).touch()
    assert scratch.exceeded(tmp_path, os.getpid())


@pytest.mark.usefixtures("small")
def test_files_without_a_name_are_counted_while_they_are_open(tmp_path: Path) -> None:
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(bytes(2 << 20))
        file.flush()
        assert scratch.exceeded(tmp_path, os.getpid())
    assert not scratch.exceeded(tmp_path, os.getpid())


@pytest.mark.usefixtures("small")
def test_what_links_lead_to_is_not_counted(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", 2 << 20)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "scratch" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert not scratch.exceeded(tmp_path / "scratch", os.getpid())


def test_what_is_hostile_to_removal_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    kept, top = tmp_path / "kept", tmp_path / "scratch"
    write(kept / "file", 10)
    top.mkdir()
    (top / "link").symlink_to(kept, target_is_directory=True)
    with contextlib.chdir(top):
        for _ in range(3000):  # deeper than recursion goes, and than a path can be long
            Path("deep-directory").mkdir()
            os.chdir("deep-directory")
    write(top / "shut" / "inner" / "file", 10)
    (top / "shut" / "inner").chmod(0)
    (top / "shut").chmod(0)
    scratch.remove(top)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert (kept / "file").read_bytes() == bytes(10)
