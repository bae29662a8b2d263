"""Starting the daemon: in the foreground, as service managers want it, or detached."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

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
    with errors.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "node", *_same_node(session), "--json", "up", "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
        )
    _await_start(session, child, errors)
    answer = {"pid": child.pid, "log": str(config.log_path)}
    session.out.answer(answer, [f"daemon started, process {child.pid}", f"log: {config.log_path}"])
    session.out.hint(f"next: {session.mycelia('status')}")


def _same_node(session: Session) -> list[str]:
    """Options that name this state directory and this configuration, wherever the child runs."""
    named = ["--config", str(Path(session.args.config).absolute())] if session.args.config else []
    return ["-C", str(session.state_dir), *named]


def _await_start(session: Session, child: subprocess.Popen[bytes], errors: Path) -> None:
    """Return when the daemon answers.  Raises the daemon's own error when it ends instead, TransportError."""
    deadline = time.monotonic() + START_TIMEOUT_S
    session.out.progress("starting ...")
    while not asyncio.run(is_running(session.config.socket_path)):
        if child.poll() is not None:
            raise _own_words(child.returncode, errors)
        if time.monotonic() > deadline:
            os.kill(child.pid, 15)
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
