"""Daemons as processes, driven by the command alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import Cli, Result
from .test_cli_main import REPOSITORY

pytestmark = [pytest.mark.net, pytest.mark.slow]

LOCAL = ("--listen", "127.0.0.1:0", "--join-listen", "127.0.0.1:0")


@pytest.fixture
def up(cli: Cli) -> Iterator[Callable[..., Result]]:
    """``up --detach``, and an end for every daemon that was started."""
    started: list[Path] = []

    def start(state: Path) -> Result:
        started.append(state)
        return cli("up", "--detach", state=state)

    yield start
    for state in started:
        if cli("stop", state=state).code == 4 and (state / "lock").exists():
            os.kill(int((state / "lock").read_text()), signal.SIGKILL)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_fabric_of_two_from_the_command_line(cli: Cli, up: Callable[..., Result], tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    assert cli("init", "lab", *LOCAL, state=a).code == 0
    started = up(a)
    assert started.code == 0, started.err
    assert started.lines[0].startswith("daemon started, process ")

    again = cli("up", state=a)
    assert again.code == 3
    assert "is in use by another mycelia, process" in again.err
    again = cli("up", "--detach", state=a)
    assert again.code == 3
    assert f"a daemon already runs on {a}" in again.err

    token = cli("invite", state=a).out.strip()
    assert cli("join", token, *LOCAL, state=b).code == 0
    twice = cli("join", token, state=tmp_path / "c")
    assert twice.code == 5
    assert twice.err == (
        "error: this invitation was already used by another node. try: ask for one invitation per node\n"
    )
    assert up(b).code == 0
    until(lambda: bool(cli("status", "--json", state=b).json["state"] == "ready"))
    until(lambda: len(cli("peers", "--json", state=a).json) == 1)
    (peer,) = cli("peers", "--json", state=a).json
    assert peer["id"] == cli("status", "--json", state=b).json["id"]

    assert cli("leave", "--yes", state=b).code == 0
    gone = cli("up", state=b)
    assert gone.code == 3
    assert "fabric is missing" in gone.err
    assert cli("stop", state=a).code == 0
    assert cli("status", state=a).code == 8
    assert any("ended" in line for line in cli("logs", state=a).lines)


def test_what_keeps_a_detached_daemon_from_starting_is_said_here(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cli("init", "lab", "--listen", f"127.0.0.1:{port}", "--join-listen", "127.0.0.1:0")
        result = cli("up", "--detach", "--json")
    assert result.code == 3
    assert json.loads(result.err)["error"] == f"cannot listen on 127.0.0.1:{port}: port {port} is in use"


@contextmanager
def foreground(state: Path, manager: Path) -> Iterator[subprocess.Popen[bytes]]:
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "NOTIFY_SOCKET": str(manager)}
    words = [sys.executable, "-m", "node", "-C", str(state), "up"]
    with subprocess.Popen(words, env=environ, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_foreground_it_reports_and_ends_on_a_signal(cli: Cli, tmp_path: Path, number: signal.Signals) -> None:
    cli("init", "lab", *LOCAL)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        with foreground(cli.state, tmp_path / "notify") as process:
            assert manager.recv(100) == b"READY=1"
            process.send_signal(number)
            assert manager.recv(100) == b"STOPPING=1"
            assert process.wait(30) == 0
            assert process.stderr is not None
            said = process.stderr.read().decode()
    assert "up; Ctrl-C ends it." in said
    assert "INFO" in said
    assert not (cli.state / "control.sock").exists()
