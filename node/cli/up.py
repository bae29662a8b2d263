"""Starting the daemon: in the foreground, as service managers want it, or detached."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from protocol.errors import ConfigError, MyceliaError, TransportError

from ..control import is_running
from . import exits
from .command import Command, Session

START_TIMEOUT_S = 60.0
"""Seconds that a detached daemon has until its control socket must answer.  It takes about one; a full disk or a
machine under load takes longer, a daemon that hangs for ever."""
_POLL_S = 0.05


def _up(session: Session) -> None:
    if session.args.detach:
        _detach(session)
        return
    from . import serve  # noqa: PLC0415 - the daemon's imports take half a second that no other command need pay

    serve.run(session)


def _detach(session: Session) -> None:
    config = session.config
    if asyncio.run(is_running(config.socket_path)):
        raise ConfigError(f"a daemon already runs on {config.state_dir}", "see it with `mycelia status`")
    errors = config.log_path.with_name("start.err")
    errors.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    child = _spawn([sys.executable, "-m", "node", *_same_node(session), "--json", "up", "--quiet"], errors)
    _await_start(session, child, errors)
    session.out.answer(
        {"pid": child, "log": str(config.log_path)},
        [f"daemon started, process {child}", f"log: {config.log_path}"],
    )
    session.out.hint(f"next: {session.mycelia('status')}")


def _spawn(words: list[str], errors: Path) -> int:
    """Start ``words`` in a session of its own, with nothing of this terminal but ``errors`` to write to."""
    home = str(Path(__file__).resolve().parents[2])
    # The child runs this very code, from wherever it was found.
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    streams: list[Any] = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in (0, 1)]
    streams.append((os.POSIX_SPAWN_OPEN, 2, str(errors), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    environ = {**os.environ, "PYTHONPATH": path}
    return os.posix_spawn(words[0], words, environ, file_actions=streams, setsid=True)


def _same_node(session: Session) -> list[str]:
    """Options that name this state directory and this configuration, wherever the child runs."""
    named = ["--config", str(Path(session.args.config).absolute())] if session.args.config else []
    return ["-C", str(session.state_dir), *named]


def _await_start(session: Session, child: int, errors: Path) -> None:
    """Return when the daemon answers.  Raises the daemon's own error when it ends instead, TransportError."""
    deadline = time.monotonic() + START_TIMEOUT_S
    session.out.progress("starting ...")
    while not asyncio.run(is_running(session.config.socket_path)):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            raise _own_words(os.waitstatus_to_exitcode(status), errors)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGTERM)
            raise TransportError("the daemon did not answer in time and was ended", "look into `mycelia logs`")
        time.sleep(_POLL_S)
    session.out.progress("")


def _own_words(code: int, errors: Path) -> MyceliaError:
    """Why the daemon ended: the error that it would have shown on a terminal."""
    said = errors.read_text(errors="replace").strip().splitlines()
    try:
        failure = json.loads(said[-1])
        return exits.by_code(code)(failure["error"], failure["remedy"])
    except (IndexError, ValueError, TypeError, KeyError):
        return MyceliaError(f"the daemon ended with code {code} before it was ready", f"look into {errors}")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--detach", action="store_true", help="return when the daemon runs, and leave it running")
    parser.add_argument("--quiet", action="store_true", help="log to the file only, not to the terminal")


UP = Command(
    name="up",
    summary="Run this node's daemon.",
    text=(
        "Enters the fabric as the member that `mycelia init` or `mycelia join` made of this state directory, and "
        "resumes what it was doing. Stays in the foreground until Ctrl-C or SIGTERM, then hands over and ends; under "
        "systemd it reports when it is ready."
    ),
    examples=(("up", "in the foreground"), ("up --detach", "in the background"), ("-C b up -d", "another node")),
    then="mycelia status, mycelia invite, mycelia run FILE",
    configure=_arguments,
    run=_up,
)
