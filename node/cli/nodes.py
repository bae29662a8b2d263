"""A node's daemon: start, look, stop."""

from __future__ import annotations

import argparse
import json
import os
import select
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from protocol.errors import TransportError, UsageError

from .. import logs
from ..service import DaemonService, NodeStatus, PeerInfo
from .command import Command, Session
from .output import moment, short

STOP_TIMEOUT_S = 30
"""Seconds that a daemon has to hand over and end; it takes at most a few unless the disk hangs."""

REVOKED = (
    "This node's membership was revoked: no member talks to it, and what it shows is old.\n"
    "To take part again it needs a new key: mycelia -C NEW_DIRECTORY join TOKEN"
)

# ---- status and peers ------------------------------------------------------------------------------------------------


def clock_error(seconds: int) -> str:
    hours = abs(seconds) / 3600
    amount = f"{hours / 24:.0f} days" if hours >= 48 else f"{hours * 60:.0f} minutes"
    return f"{amount} {'ahead of' if seconds > 0 else 'behind'} the other nodes'"


def _status(session: Session) -> None:
    status = session.ask(lambda daemon: daemon.status())
    session.out.answer(status, session.out.fields(_fields(status)))
    if status.state == "revoked":
        session.out.hint(REVOKED)


def _fields(status: NodeStatus) -> Iterator[tuple[str, object]]:
    yield "node", f"{status.name} ({short(status.id)})"
    yield "status", status.state
    yield "fabric", status.fabric
    yield "member", "leaf: dials out only" if status.leaf_member else "issuer" if status.issuer else "full"
    yield "addresses", ", ".join(status.addresses)
    yield "links", status.links
    yield "applications", status.applications
    yield "started", moment(status.started)
    yield "certificate", f"expires {moment(status.certificate_expires)}, renews itself"
    if status.sandbox:
        yield "sandbox", status.sandbox
    yield "process", status.pid
    yield "version", status.version
    if status.clock_error_s:
        yield "clock", f"{clock_error(status.clock_error_s)}; set it, for example with NTP"
    if status.penalties:
        yield "violations by peers", status.penalties


STATUS = Command(
    name="status",
    summary="Show this node: is it up, in which fabric, how connected.",
    text="Asks the daemon of the state directory. `ready` means that it is a full member of the ring.",
    examples=(("status", "as text"), ("status --json", "for a program, for example a health check")),
    then="mycelia peers, mycelia ls",
    run=_status,
)


def _peers(session: Session) -> None:
    peers = session.ask(lambda daemon: daemon.peers())
    rows = (
        (p.name, short(p.id), "up" if p.linked else "down", _rtt(p), p.penalties or "", ", ".join(p.addresses))
        for p in peers
    )
    lines = session.out.table(("name", "node", "link", "round trip", "violations", "addresses"), rows, right=(3, 4))
    session.out.answer(peers, lines if peers else ["no peers yet"])
    if not peers:
        session.out.hint("next: mycelia invite, on the node that founded the fabric")


def _rtt(peer: PeerInfo) -> str:
    return "" if peer.rtt_ms is None else f"{peer.rtt_ms:.1f} ms"


PEERS = Command(
    name="peers",
    summary="List the nodes that this one knows.",
    text=(
        "A node knows its neighbours on the ring and those with whom it shares a tree, not the whole fabric. A link is "
        "opened when it is needed, so `down` is not a failure."
    ),
    examples=(("peers", "as a table"),),
    then="mycelia status",
    run=_peers,
)


# ---- logs ------------------------------------------------------------------------------------------------------------


def _logs(session: Session) -> None:
    args, file = session.args, session.where.log_path
    if not file.exists():
        raise UsageError(f"there is no log at {file}", f"the daemon writes it: {session.mycelia('up')}")
    for line in logs.tail(file, args.lines, lambda line: not args.app or _about(line, args.app)):
        _show(session, line)
    if args.follow:
        for line in logs.follow(file):
            _show(session, line)


def _show(session: Session, line: str) -> None:
    record = _read(line)
    if record is None or (session.args.app and record.get("app") != session.args.app):
        return
    session.out.line(line if session.out.as_json else logs.human(record))


def _read(line: str) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return record


def _about(line: str, app: str) -> bool:
    record = _read(line)
    return record is not None and record.get("app") == app


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="how many of the last lines (50)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on showing new lines, until Ctrl-C")
    parser.add_argument("--app", metavar="NAME", help="only lines about this application")


LOGS = Command(
    name="logs",
    summary="Show the daemon's log.",
    text=(
        "Reads the log file in the state directory, so it also works when the daemon is dead. The file holds one JSON "
        "object per line; `--json` shows it as it is."
    ),
    examples=(
        ("logs -f", "follow"),
        ("logs -n 1000 --app digits", "what happened to one application"),
        ("logs --json -n 10000 | jq .msg", "for programs"),
    ),
    then="mycelia status",
    configure=_logs_arguments,
    run=_logs,
)


# ---- stop ------------------------------------------------------------------------------------------------------------


def _stop(session: Session) -> None:
    if session.args.app:
        from . import submit  # noqa: PLC0415 - signing takes 0.1 s to import

        app = submit.stop(session, session.args.app)
        session.out.answer(app, [f"stopped {app.name} after round {app.round}"])
        session.out.hint(f"next: {session.mycelia(f'models show {app.name}')}")
        return
    status = end_daemon(session, lambda daemon: daemon.shutdown())
    up = moment(status.started).removesuffix(" ago")
    session.out.answer({"stopped": status.pid}, [f"stopped the daemon, process {status.pid}, up {up}"])
    session.out.hint(f"It is still a member: {session.mycelia('up')} brings it back as the same node.")


def end_daemon(session: Session, order: Callable[[DaemonService], Awaitable[None]]) -> NodeStatus:
    """Give the daemon an order after which it ends, and wait until its process is gone.  Raises TransportError."""

    async def ordered(daemon: DaemonService) -> tuple[NodeStatus, int]:
        status = await daemon.status()
        # Held from before it can end, so that the number cannot come to mean another process.
        process = os.pidfd_open(status.pid)
        await order(daemon)
        return status, process

    status, process = session.ask(ordered)
    try:
        session.out.progress("stopping ...")
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        if not waiting.poll(STOP_TIMEOUT_S * 1000):
            raise TransportError(f"the daemon, process {status.pid}, has not ended yet", "look into `mycelia logs`")
    finally:
        os.close(process)
    return status


def _stop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("app", metavar="APP", nargs="?", help="name or id of an application; see `mycelia ls`")
    parser.add_argument(
        "--owner-key", metavar="FILE", type=Path, help="key that signs the order (the fabric owner's, if it is here)"
    )


STOP = Command(
    name="stop",
    summary="Stop an application, or, without APP, this node's daemon.",
    text=(
        "An application ends at the round that it has committed, on every node; its models stay. Only its owner can "
        "stop it.\n\nA stopped daemon hands over what it guards and is still a member: `mycelia up` brings it back as "
        "the same node. To give up the membership, use `mycelia leave`."
    ),
    examples=(("stop digits", "end the application `digits`"), ("stop", "end the daemon")),
    then="mycelia models, mycelia up",
    configure=_stop_arguments,
    run=_stop,
)
