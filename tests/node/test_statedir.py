"""The state directory: atomic, private, and plain about what is wrong with the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import statedir
from node.statedir import FORMAT, MAX_SMALL_FILE, StateDir, read_file, storage_error, write_file
from protocol.errors import ConfigError, MyceliaError, StorageError


class Killed(BaseException):
    """Ends the program on the spot: nothing that catches errors sees it."""


# Every call at which a write can be cut off, in order.
STEPS = ("unlink", "open", "write", "fsync", "replace", "sync_directory")


def failing(monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException) -> None:
    """Make ``step`` fail the next time that it is taken."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise failure

    def open_failing_file(handle: int, mode: str) -> Any:
        file = _fdopen(handle, mode)

        class Failing:
            def __enter__(self) -> Self:
                return self

            def __exit__(self, *details: object) -> None:
                file.close()

            write = fail

        return Failing()

    if step == "write":
        monkeypatch.setattr(os, "fdopen", open_failing_file)
    elif step == "unlink":
        monkeypatch.setattr(Path, "unlink", fail)
    elif step == "sync_directory":
        monkeypatch.setattr(statedir, "sync_directory", fail)
    else:
        monkeypatch.setattr(os, step, fail)


_fdopen = os.fdopen


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_point_leaves_the_old_file_or_the_new_one(tmp_path: Path, step: str) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, step, Killed())
        with pytest.raises(Killed):
            write_file(path, b"new")
    assert path.read_bytes() == (b"new" if step == "sync_directory" else b"old")
    write_file(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_is_said_plainly_and_leaves_nothing_behind(tmp_path: Path, step: str) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, step, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(StorageError, match="disk is full") as caught:
            write_file(path, b"new")
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    assert path.read_bytes() == (b"new" if step == "sync_directory" else b"old")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_order_is_data_then_name_then_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            steps.append(name)
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", noting("fsync", os.fsync))
    monkeypatch.setattr(os, "replace", noting("replace", os.replace))
    write_file(tmp_path / "file", b"content")
    assert steps == ["fsync", "replace", "fsync"]


@given(st.binary(max_size=2000))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip"
    write_file(path, content)
    assert read_file(path, secret=True) == content


def test_files_are_private_whatever_the_umask_and_links_are_not_followed(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "file", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"not ours")
    (tmp_path / ".file.tmp").symlink_to(elsewhere)
    before = os.umask(0)
    try:
        write_file(path, b"content")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert elsewhere.read_bytes() == b"not ours"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, StorageError),
        (errno.EDQUOT, StorageError),
        (errno.EROFS, StorageError),
        (errno.EIO, StorageError),
        (errno.EACCES, ConfigError),
    ],
)
def test_every_error_of_the_disk_has_a_remedy(code: int, kind: type[MyceliaError]) -> None:
    error = storage_error(Path("/x"), OSError(code, os.strerror(code)))
    assert isinstance(error, kind)
    assert error.remedy


def test_an_oversized_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(MAX_SMALL_FILE + 1))
    with pytest.raises(ConfigError, match="corrupt"):
        read_file(tmp_path / "file")


def test_a_new_directory_is_private_and_has_its_layout(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "state"
    state = StateDir.create(root)
    assert root.stat().st_mode & 0o777 == 0o700
    assert state.artifacts.is_dir()
    assert state.logs.is_dir()
    assert not state.is_member
    StateDir.create(root)
    assert StateDir.open(root).root == root


def test_a_directory_with_a_configuration_in_it_is_taken_and_tightened(tmp_path: Path) -> None:
    root = tmp_path / "state"
    root.mkdir(mode=0o755)
    (root / "config.toml").write_text("[node]\n")
    StateDir.create(root)
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_creation_that_was_cut_off_can_be_repeated(tmp_path: Path) -> None:
    root = tmp_path / "state"
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, "replace", Killed())
        with pytest.raises(Killed):
            StateDir.create(root)
    StateDir.create(root)


def test_somebody_elses_directory_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir(mode=0o755)
    (root / "cat.jpg").touch()
    with pytest.raises(ConfigError, match=r"cat\.jpg") as caught:
        StateDir.create(root)
    assert caught.value.remedy
    assert root.stat().st_mode & 0o777 == 0o755


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StateDir.create(tmp_path / "state")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="another user"):
        StateDir.open(tmp_path / "state")


@pytest.mark.parametrize(("stamp", "words"), [(b"99\n", "format 99"), (b"xyz", "corrupt"), (b"", "corrupt")])
def test_an_unknown_format_is_not_guessed_at(tmp_path: Path, stamp: bytes, words: str) -> None:
    state = StateDir.create(tmp_path / "state")
    (state.root / "VERSION").write_bytes(stamp)
    with pytest.raises(ConfigError, match=words) as caught:
        StateDir.open(state.root)
    assert caught.value.remedy
    assert FORMAT == 1


def test_no_directory_at_all_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing") as caught:
        StateDir.open(tmp_path / "nowhere")
    assert "init" in caught.value.remedy


def test_a_path_that_cannot_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MyceliaError) as caught:
        StateDir.create(tmp_path / "file" / "state")
    assert caught.value.remedy


def test_a_second_daemon_is_told_who_has_the_directory(tmp_path: Path) -> None:
    state = StateDir.create(tmp_path / "state")
    with (
        state.locked(),
        pytest.raises(ConfigError, match=f"in use by another mycelia, process {os.getpid()}") as caught,
    ):
        StateDir.open(state.root).locked()
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    StateDir.open(state.root).locked().close()


def test_a_daemon_that_was_killed_leaves_no_lock_behind(tmp_path: Path) -> None:
    state = StateDir.create(tmp_path / "state")
    program = (
        "import pathlib, sys; from node.statedir import StateDir\n"
        "state = StateDir.open(pathlib.Path(sys.argv[1])).locked()\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    root = Path(statedir.__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", program, str(state.root)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(ConfigError, match=f"process {holder.pid}$"):
            StateDir.open(state.root).locked()
        holder.kill()
    state.locked().close()


def test_incarnations_only_grow_even_when_the_clock_does_not(tmp_path: Path) -> None:
    state = StateDir.create(tmp_path / "state")
    given = [StateDir.open(state.root).next_incarnation(clock) for clock in (1000, 1000, 500, 2000, 0)]
    assert given == [1000, 1001, 1002, 2000, 2001]


def test_a_lost_incarnation_is_made_good_by_the_clock(tmp_path: Path) -> None:
    state = StateDir.create(tmp_path / "state")
    first = state.next_incarnation(1000)
    (state.root / "incarnation").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="incarnation is corrupt") as caught:
        state.next_incarnation(1010)
    assert "delete" in caught.value.remedy
    (state.root / "incarnation").unlink()
    assert state.next_incarnation(1010) > first


def test_an_incarnation_is_durable_before_it_is_used(tmp_path: Path) -> None:
    state = StateDir.create(tmp_path / "state")
    first = state.next_incarnation(1000)
    for step in STEPS:
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            failing(patch, step, Killed())
            state.next_incarnation(1000)
    assert state.next_incarnation(1000) > first
