"""The locks, tried for real from inside a process that they hold: as root and as nobody, with every age of Landlock."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fl.learn import landlock, sandbox
from fl.learn.errors import SandboxError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the locks are Linux's")

ROOT = Path(sandbox.__file__).parents[2]
NOBODY = 65534
KERNEL = landlock.abi(ctypes.CDLL(None)) if sys.platform == "linux" else 0


@contextmanager
def directory_of(user: int) -> Iterator[Path]:
    """Below /tmp, since others cannot enter pytest's own."""
    with tempfile.TemporaryDirectory(prefix="mycelia-test-") as made:
        root = Path(made)
        (root / "scratch").mkdir()
        (root / "library").mkdir()
        (root / "secret").write_text("key")
        (root / "library" / "text").write_text("code")
        (root / "secret").chmod(0o600)
        for path in (root, *root.rglob("*")):
            os.chown(path, user, user)
        yield root


def imported_from(*directories: Path) -> str:
    """``PYTHONPATH`` of these and of this very process."""
    return os.pathsep.join([*map(str, directories), *filter(None, [os.environ.get("PYTHONPATH")])])


def attempts(user: int, newest: int, directory: Path) -> dict[str, Any]:
    """What ``hostile.py`` reports when it runs as ``user``, beside a victim of that user that outlives it unchanged."""
    change = [] if user == os.getuid() else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    path = imported_from(ROOT, directory / "library")
    environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]}
    if subprocess.run([*change, sys.executable, "-c", "import numpy"], check=False, env=environment).returncode:
        pytest.skip(f"user {user} cannot read this interpreter")
    victim = subprocess.Popen([*change, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert victim.stdin is not None
    affinity, nice = os.sched_getaffinity(victim.pid), os.getpriority(os.PRIO_PROCESS, victim.pid)
    try:
        done = subprocess.run(
            [*change, sys.executable, "-W", "ignore", "-m", "tests.fl.learn.hostile",
             str(directory), str(victim.pid), str(newest)],
            capture_output=True, text=True, check=False, cwd=ROOT, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert victim.poll() is None
        assert os.sched_getaffinity(victim.pid) == affinity
        assert os.getpriority(os.PRIO_PROCESS, victim.pid) == nice
    finally:
        victim.stdin.close()
        victim.wait()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def users() -> list[Any]:
    other = pytest.mark.skipif(
        os.getuid() != 0 or shutil.which("setpriv") is None, reason="only root can become nobody, and only by setpriv"
    )
    return [pytest.param(os.getuid(), id="self"), pytest.param(NOBODY, id="nobody", marks=other)]


@pytest.mark.slow
@pytest.mark.net
@pytest.mark.parametrize("user", users())
@pytest.mark.parametrize("newest", [0, 1, 2, 5, 99])
def test_foreign_code_reaches_nobody_and_nothing(newest: int, user: int) -> None:
    if newest > KERNEL and newest != 99:
        pytest.skip(f"this kernel has Landlock {KERNEL}")
    with directory_of(user) as directory:
        before = {path: path.stat() for path in (directory / "secret", directory / "library" / "text")}
        found = attempts(user, newest, directory)
        after = {path: path.stat() for path in before}
        for path, status in before.items():
            for kept in ("st_mode", "st_uid", "st_size", "st_mtime_ns", "st_nlink"):
                assert getattr(after[path], kept) == getattr(status, kept)
        names = sorted(path.name for path in directory.iterdir())
        assert names == ["library", "scratch", "secret"]
    assert found["landlock"] == min(newest, KERNEL)
    outcome = found["outcome"]
    honest = {name: outcome.pop(name) for name in list(outcome) if name.startswith("honest")}
    if found["landlock"]:
        assert set(honest.values()) == {"allowed"}, honest
    else:  # reading is then all that a file system is for
        files = {name: honest.pop(name) for name in list(honest) if name.startswith("honest file")}
        assert set(honest.values()) == {"allowed"}, honest
        assert set(files.values()) == {"PermissionError"}, files
        assert outcome.pop("read: the secret") == "allowed"
        outcome = {name: error for name, error in outcome.items() if not name.startswith("read: ")}
    assert len(outcome) > 60
    assert {name: error for name, error in outcome.items() if error not in ("PermissionError", "ValueError")} == {}


@pytest.mark.slow
@pytest.mark.parametrize("user", users())
def test_nothing_is_left_of_the_power_of_root(user: int) -> None:
    with directory_of(user) as directory:
        sets = attempts(user, 99, directory)["capabilities"]
    if user:  # who may not change the bounding set has nothing that it would bound
        sets.pop("CapBnd")
    assert {name: value for name, value in sets.items() if int(value, 16)} == {}


def test_a_second_thread_would_stay_outside() -> None:
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        with pytest.raises(SandboxError, match=r"\d+ threads run already"):
            sandbox.enclose()
    finally:
        done.set()
        other.join()


def test_a_machine_that_cannot_lock_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(SandboxError, match="foreign code is not run on Linux riscv64"):
        sandbox.enclose()


def test_a_kernel_that_refuses_the_filter_runs_nothing() -> None:
    class Refusing:
        def prctl(self, *_: object) -> int:
            return -1

    with pytest.raises(SandboxError, match="the kernel refuses a seccomp filter"):
        sandbox.install(Refusing(), b"")  # type: ignore[arg-type]
    with pytest.raises(SandboxError, match="the sandbox does not hold"):
        sandbox._probe()  # here, where nothing is locked


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (0, "no Landlock in this kernel: applications can read this user's files, and change none"),
        (2, "files by Landlock 2, truncation and devices and signals by the list"),
        (5, "files by Landlock 5, signals by the list"),
        (7, "files by Landlock 7"),
    ],
)
def test_what_an_older_kernel_lacks_is_said(version: int, sentence: str) -> None:
    assert landlock.describe(version) == sentence
    assert sandbox.describe() == f"system calls by a list; {landlock.describe(KERNEL)}"


def test_what_is_private_must_not_be_readable_from_inside(tmp_path: Path) -> None:
    program = "import sys, pathlib, fl.learn.sandbox as s; s.enclose(private=[pathlib.Path(sys.argv[1])])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "state")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PYTHONPATH": imported_from(ROOT, tmp_path), "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    assert f"{tmp_path / 'state'} lies below {tmp_path}, which applications can read" in done.stderr


def test_what_lies_below_a_readable_directory_is_exposed(tmp_path: Path) -> None:
    library = tmp_path / "library"
    (library / "state").mkdir(parents=True)
    (tmp_path / "link").symlink_to(library / "state")
    for path in (library, library / "state", tmp_path / "link", library / "not" / "there" / "yet"):
        assert landlock.exposed(path, [Path("/usr"), library]) == library
    assert landlock.exposed(tmp_path, [library]) is None
    assert landlock.exposed(Path(sys.prefix) / "mycelia") is not None
    assert landlock.exposed(tmp_path) is None
    assert landlock.exposed(ROOT / "state") is None


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_of_a_python_among_everything_else_the_libraries_alone_are_readable(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "base_prefix", prefix)
    readable = landlock.python_paths()
    for path in ("bin", "share/doc", "etc", "src", "sbin", "include"):
        assert landlock.exposed(Path(prefix) / path, readable) is None
    assert landlock.exposed(Path(prefix) / "lib" / "python3.11" / "os.py", readable) == Path(prefix) / "lib"
    monkeypatch.setattr(sys, "base_prefix", "/opt/python")
    assert landlock.exposed(Path("/opt/python/share"), landlock.python_paths()) == Path("/opt/python")
