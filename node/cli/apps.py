"""Applications on the fabric: which there are, and how far they have come."""

from __future__ import annotations

import argparse

from ..names import pick
from ..service import AppInfo
from .command import Command, Session
from .nodes import REVOKED
from .output import short


def _list(session: Session) -> None:
    apps = session.ask(lambda daemon: daemon.applications())
    if session.args.app:
        _detail(session, pick(apps, session.args.app))
        return
    rows = (
        (app.name, short(app.id), app.status, f"{app.round}/{app.rounds}", app.role, app.detail or app.refused)
        for app in apps
    )
    lines = session.out.table(("application", "id", "status", "round", "role here", "detail"), rows, right=(3,))
    session.out.answer(apps, lines if apps else ["no applications yet"])
    if session.ask(lambda daemon: daemon.status()).state == "revoked":
        session.out.hint(REVOKED)
    elif not apps:
        session.out.hint(f"next: {session.mycelia('run FILE')}")


def _detail(session: Session, app: AppInfo) -> None:
    pairs = [
        ("application", f"{app.name} ({short(app.id)})"),
        ("status", app.status),
        ("detail", app.detail),
        *([("refused here", app.refused)] if app.refused else []),
        ("round", f"{app.round} of {app.rounds}"),
        ("epoch", app.epoch),
        ("owner", app.owner),
        ("code", app.code),
        ("root", short(app.root) if app.root else ""),
        ("role here", app.role),
        ("parent", short(app.parent) if app.parent else ""),
        ("children", " ".join(map(short, app.children))),
        ("voters", " ".join(map(short, app.voters))),
        *(("trouble", f"{one.name or short(one.node)}: {one.sentence}") for one in app.troubles),
    ]
    session.out.answer(app, session.out.fields(pairs))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("app", metavar="APP", nargs="?", help="show one, by name or id, in full")


LS = Command(
    name="ls",
    summary="List applications: status, round, this node's role.",
    text=(
        "An application is `waiting` for enough nodes, `running`, `failing` because no node is left that could "
        "contribute, `stalled` without a majority of its voters, or has `finished`. `refused` concerns this node only: "
        "the detail says why, for example that its owner is not trusted here. Roles in its tree: the `root` "
        "coordinates, an `aggregator` adds up what its children send, a `worker` trains."
    ),
    examples=(("ls", "all that this node knows"), ("ls digits", "one, with its place in the tree")),
    then="mycelia models ls",
    configure=_arguments,
    run=_list,
)
