"""A command line in this process, and a fake daemon for it to talk to."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node.cli import main
from node.control import ControlServer

from ..fake_service import FakeService


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Cli:
    """``cli("status")`` runs ``mycelia -C DIR status``."""

    def __init__(self, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state = state
        self._capsys = capsys

    def __call__(self, *words: str, state: Path | None = None) -> Result:
        self._capsys.readouterr()
        code = main(["-C", str(state or self.state), *words])
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    for name in ("MYCELIA_STATE_DIR", "MYCELIA_CONFIG", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MYCELIA_OWNER_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return Cli(tmp_path / "s", capsys)


class Serving:
    """A control server on a loop of its own, since the command line runs one in the test's thread."""

    def __init__(self, service: FakeService, path: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._server = ControlServer(service, path)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def service(cli: Cli) -> Iterator[FakeService]:
    """The daemon behind ``cli``."""
    fake = FakeService()
    serving = Serving(fake, cli.state / "control.sock")
    yield fake
    serving.close()


@pytest.fixture
def daemon_process(service: FakeService) -> Iterator[FakeService]:
    """The daemon behind ``cli``, with a process that can end."""
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as process:
        service.process = process
        yield service
