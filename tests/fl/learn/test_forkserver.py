"""The fork server on its own: started by hand, one connection, told to stop."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fl.learn import channel, forkserver

pytestmark = [pytest.mark.net, pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")]


def test_nothing_of_the_starter_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "key")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    environment = forkserver.environment()
    assert "SECRET" not in environment
    assert environment["PYTHONPATH"].split(":") == [str(Path(forkserver.__file__).parents[2]), "/somewhere"]
    assert environment["PYTHONHASHSEED"] == "0"


def test_a_server_started_by_hand_forks_a_worker_and_cleans_up(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100)
    directory.mkdir()
    path = directory / "fork.sock"
    server = subprocess.Popen(
        [sys.executable, "-m", "fl.learn.forkserver", str(path)],
        stdin=subprocess.DEVNULL,
        cwd=Path(forkserver.__file__).parents[2],
    )
    try:
        connection = socket.socket(socket.AF_UNIX)
        with connection:
            while True:
                try:
                    with forkserver.short_address(path) as address:
                        connection.connect(address)
                    break
                except (FileNotFoundError, ConnectionRefusedError):
                    assert server.poll() is None
            assert path.stat().st_mode & 0o777 == 0o600
            frames = channel.Frames(replies=True)
            while (received := frames.next()) is None:
                frames.feed(connection.recv(4096), [])
            hello, _ = received
            scratch = directory / "fork.sock.tmp" / str(hello.pid)
            assert scratch.is_dir()
            status = Path(f"/proc/{hello.pid}/status").read_text()
            assert "Threads:\t1" in status  # a lock binds only the thread that shuts it
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("lacks", ["fork", "pidfd_open", "accept"])
def test_a_machine_that_has_nothing_left_ends_no_fork_server(
    lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*_: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(forkserver, "_EXHAUSTED_S", 0.0)
    path = tmp_path / "fork.sock"
    server = forkserver.ForkServer(path, lifeline=False)
    try:
        with socket.socket(socket.AF_UNIX) as connection, monkeypatch.context() as patch:
            connection.connect(str(path))
            if lacks == "accept":
                patch.setattr(socket.socket, "_accept", exhausted)
            else:
                patch.setattr(os, lacks, exhausted)
            if lacks == "pidfd_open":  # the child is there already, and must not stay
                patch.setattr(forkserver.ForkServer, "_become_worker", lambda *_: signal.pause())
            server._accept()
            assert "no worker can be made: [Errno 11]" in capsys.readouterr().err
            if lacks != "accept":
                assert connection.recv(1) == b""
    finally:
        server.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="only root can become somebody else")
def test_another_user_gets_no_worker_even_where_modes_let_it_in(tmp_path: Path) -> None:
    asks = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(1))"
    with tempfile.TemporaryDirectory(prefix="mycelia-test-") as made:  # others cannot enter pytest's own
        path = Path(made) / "fork.sock"
        server = forkserver.ForkServer(path, lifeline=False)
        assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.with_name("fork.sock.tmp"))] == [0o600, 0o700]
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", asks, str(path)]
        try:
            Path(made).chmod(0o755)
            asked = subprocess.run(command, capture_output=True, text=True, check=False)
            assert "PermissionError" in asked.stderr
            path.chmod(0o666)
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
                server._accept()
                assert asking.communicate()[0].strip() == "b''"
            assert not server._wards
        finally:
            server.close()


class Recorded:
    """A ward that ends at once, and notes what it is told."""

    measured = False

    def __init__(self, *descriptors: int) -> None:
        self.watched = dict.fromkeys(descriptors, 0)
        self.told: list[int] = []

    def happened(self, descriptor: int, events: int) -> bool:
        self.told.append(descriptor)
        return True

    def reap(self) -> None:
        pass

    end = close = reap


def test_what_was_said_of_a_worker_that_ended_is_not_taken_for_the_next_one_with_its_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = forkserver.ForkServer(tmp_path / "fork.sock", lifeline=False)
    old, new = Recorded(1001, 1002), Recorded(1002, 1003)
    server._wards.update(dict.fromkeys(old.watched, old))  # type: ignore[arg-type]
    monkeypatch.setattr(server, "_accept", lambda: server._wards.update(dict.fromkeys(new.watched, new)))  # type: ignore[arg-type]
    server._turn([(1001, 1), (server._listener.fileno(), 1), (1002, 1)])
    assert (old.told, new.told) == ([1001], [])
    server._wards.clear()
    server.close()


def test_workers_that_come_while_others_go_are_all_served(fork_server: Path) -> None:
    """Six hang up and six come, again and again: descriptors change hands while children still hold copies of them."""

    def coming() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(str(fork_server))
        return connection

    for _ in range(20):
        here = [coming() for _ in range(6)]
        assert all(connection.recv(100) for connection in here)
        for connection in here:
            connection.close()
