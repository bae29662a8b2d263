"""Running an application: on the fabric, or on simulated nodes in this process."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import time
from pathlib import Path

import msgspec

from fl import bundle as bundles
from protocol.errors import UsageError

from ..names import pick
from ..service import AppInfo, DaemonService
from .command import Command, Session
from .exits import NobodyLeftError
from .follow import CsvLog, RoundTable, watch
from .output import short

MAX_NAME = 64


def _run(session: Session) -> None:
    args = session.args
    settings = list(args.set)
    if args.name and not (len(args.name) <= MAX_NAME and args.name.isprintable()):
        raise UsageError(f"{args.name!r} cannot name an application", f"use 1 to {MAX_NAME} printable characters")
    if args.rounds is not None:
        settings.append(f"rounds={args.rounds}")
    if args.simulate is not None:
        _simulate(session, settings)
        return
    bundle = bundles.pack(args.file, bundles.siblings(args.file))
    log = CsvLog(args.csv) if args.csv else None
    asyncio.run(_on_fabric(session, bundle, settings, log))


async def _on_fabric(session: Session, bundle: bytes, settings: list[str], log: CsvLog | None) -> None:
    from . import owner, submit  # noqa: PLC0415 - signing takes 0.1 s to import

    args, daemon = session.args, session.daemon()
    key = owner.find(session)
    session.out.progress("preparing: a worker process loads the code and makes the model ...")
    prepared = await daemon.prepare(bundle, settings, args.continue_from or "")
    if args.name:
        prepared = msgspec.structs.replace(prepared, name=args.name)
    started = time.time()
    app = await submit.submit(daemon, key, prepared)
    session.out.hint(f"{app.name} ({short(app.id)}) started: {app.rounds} rounds on data {prepared.data!r}")
    if args.detach:
        session.out.answer(app, [app.id])
        session.out.hint(f"next: {session.mycelia(f'ls {short(app.id)}')}")
        return
    try:
        await _follow(session, daemon, app, RoundTable(session.out, app.rounds, started, log, prepared.stop))
    except NobodyLeftError:
        await submit.end(daemon, key, app.id)
        session.out.hint(f"stopped {app.name} ({short(app.id)}): with --wait it goes on trying")
        raise


async def _follow(session: Session, daemon: DaemonService, app: AppInfo, table: RoundTable) -> None:
    try:
        await watch(daemon.follow(app.id), table, wait=session.args.wait)
    except asyncio.CancelledError:
        session.out.hint(f"\nIt goes on without you. End it with: {session.mycelia(f'stop {short(app.id)}')}")
        raise
    session.out.hint(f"next: {session.mycelia(f'models show {app.name}')}")


def _simulate(session: Session, settings: list[str]) -> None:
    """In this process: breakpoints work, and no daemon is needed."""
    args = session.args
    for option, given in (("--detach", args.detach), ("--continue-from", args.continue_from), ("--csv", args.csv)):
        if given:
            raise UsageError(f"{option} needs a fabric, --simulate has none", "leave one of them out")
    # By name: the simulator stands above this package.
    emulate = importlib.import_module("simulations.emulate")
    sdk, binding = importlib.import_module("fl.sdk"), importlib.import_module("fl.data.binding")
    app = sdk.load(args.file).override(settings)
    if app.data != "digits":
        raise UsageError(
            f"there is no built-in data called {app.data!r} to share among simulated nodes",
            "call app.run(data=[fl.Binding(...), ...]) in the file, one per node, and run the file itself",
        )
    shares = binding.shares("digits", args.simulate, alpha=args.alpha, seed=app.seed)
    say = (lambda line: None) if session.out.as_json else session.out.line
    result = emulate.run(app, shares, say)
    if session.out.as_json:
        session.out.json({"rounds": len(result.rounds), "metrics": result.metrics, "nodes": len(result.nodes)})


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="Python file that defines one fl.App")
    parser.add_argument("--rounds", metavar="N", type=int, help="rounds to train, instead of what the file says")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change an option of the file; may be repeated"
    )
    parser.add_argument("--name", metavar="NAME", help="call this run, and its models, otherwise than the file does")
    parser.add_argument("--continue-from", metavar="MODEL", help="start from NAME or NAME@VERSION, not from scratch")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write one row per round, with all metrics")
    parser.add_argument("-d", "--detach", action="store_true", help="return when it has started")
    parser.add_argument(
        "--wait", action="store_true", help="go on when every node fails or refuses, for nodes that may yet come"
    )
    parser.add_argument("--owner-key", metavar="FILE", type=Path, help="key that signs (the fabric owner's, if here)")
    parser.add_argument("--simulate", metavar="NODES", type=int, help="on simulated nodes in this process, no fabric")
    parser.add_argument(
        "--alpha", metavar="A", type=float, default=0.5, help="with --simulate: label skew of the shares (0.5)"
    )


RUN = Command(
    name="run",
    summary="Train an application on the fabric, and watch it.",
    text=(
        "Packs the file, with those beside it that it imports, signs it with the owner's key and hands it to the "
        "fabric. Every node that has data of its name, and trusts the owner, trains. The run goes on when you press "
        "Ctrl-C, and when this node dies. When every node fails or refuses, the run is stopped, and the command ends "
        "with exit code 10; what each of them said, and the traceback of your code, is shown.\n\n"
        "A row is a committed round. Loss and accuracy are of the model that the round started from, measured by the "
        "nodes on data that they never train on; `final` is the finished model."
    ),
    examples=(
        ("run digits.py", "train, and watch"),
        ("run digits.py --set lr=0.1 --rounds 50", "with other settings"),
        ("run digits.py --csv rounds.csv", "and keep the metrics of every round"),
        ("run digits.py --continue-from digits@20", "go on from a model"),
        ("run digits.py --simulate 16", "try it here, without a fabric"),
    ),
    then="mycelia models show NAME",
    configure=_arguments,
    run=_run,
)


def _attach(session: Session) -> None:
    args = session.args
    app = pick(session.ask(lambda daemon: daemon.applications()), args.app)
    log = CsvLog(args.csv) if args.csv else None
    asyncio.run(_follow(session, session.daemon(), app, RoundTable(session.out, app.rounds, time.time(), log)))


def _attach_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("app", metavar="APP", help="name or id of an application; see `mycelia ls`")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write one row per round, with all metrics")
    parser.add_argument("--wait", action="store_true", help="go on when every node fails or refuses")


ATTACH = Command(
    name="attach",
    summary="Watch an application that runs already.",
    text=(
        "Shows what `mycelia run` would: the rounds that this node knows, then each one as it is committed. It stops "
        "nothing, and works on any node that has a part in the application, also when the one that it was submitted "
        "to is gone."
    ),
    examples=(("attach digits", "watch it"), ("attach digits --csv rounds.csv", "and keep the metrics")),
    then="mycelia models show NAME",
    configure=_attach_arguments,
    run=_attach,
)
