"""The demo from start to proof."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocol.errors import MyceliaError, UsageError

from . import proof
from .bare import bare_rounds
from .chaos import Chaos
from .processes import DemoNode, Fleet, temporary_fleet
from .view import View
from .watch import Story, Watch

ROUNDS = 20
"""Rounds after which the accuracy must have come near that of central training."""
RUN_LIMIT_S = 300.0
"""Seconds after which the demo gives up waiting for the last round."""
BARE_ROUNDS = 5


def main(argv: Sequence[str]) -> None:
    """Run the demo.  Raises MyceliaError when the result is not what it must be."""
    args = _parser().parse_args(argv)
    with temporary_fleet(args.alpha, args.seed) as fleet:
        report = asyncio.run(_demo(args, fleet))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    _conclude(report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mycelia demo", description="Sixteen nodes train while they are killed.")
    parser.add_argument("--nodes", type=int, default=16, help="daemons to start (16)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="training rounds (20)")
    parser.add_argument("--alpha", type=float, default=0.3, help="Dirichlet label skew, smaller is harsher (0.3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data shares and model (0)")
    parser.add_argument("--no-kill", action="store_true", help="leave all nodes alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to FILE")
    parser.add_argument("--model", type=Path, metavar="FILE", help="keep the final model in FILE (it is not kept)")
    return parser


def app_file() -> Path:
    """The README's application, in the source tree or in the installed package."""
    here = Path(__file__).resolve().parent
    for examples in (here.parent.parent / "examples", here / "examples"):
        if (examples / "digits.py").is_file():
            return examples / "digits.py"
    raise UsageError("the example digits.py is missing from this installation", "install mycelia-fabric anew")


async def _demo(args: argparse.Namespace, fleet: Fleet) -> dict[str, Any]:
    story = Story()
    view = View(fleet, story, args.rounds)
    view.say(f"starting {args.nodes} daemons, each with its own key and certificate ...")
    started = time.monotonic()
    await fleet.start(args.nodes)
    startup = time.monotonic() - started
    view.say(f"{startup:6.1f} s  all of them know each other; submitting {app_file().name}")
    # A round may miss the dead and the frozen, but the first one must not begin before nearly all have joined.
    settings = [f"seed={args.seed}", f"min_workers={max(1, args.nodes - 3)}"]
    app = await submit(fleet.nodes[0], args.rounds, settings)
    await _run(args, fleet, story, view, app)
    settings.append(f"rounds={args.rounds}")
    return await _report(args, fleet, story, settings, startup)


async def submit(node: DemoNode, rounds: int, settings: Sequence[str]) -> str:
    """``mycelia run`` on the founder, in the background.  Answers the application's id."""
    options = [word for setting in settings for word in ("--set", setting)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "node", "-C", str(node.state), "--json", "run", str(app_file()), "--rounds", str(rounds),
        *options, "--detach", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    if process.returncode:
        raise MyceliaError("the application was not accepted", errors.decode(errors="replace").strip()[-500:])
    return str(json.loads(output)["id"])


async def _run(args: argparse.Namespace, fleet: Fleet, story: Story, view: View, app: str) -> None:
    """Watch until the application has finished, striking on the way."""
    async with Watch(fleet, app, story):
        chaos = None if args.no_kill else asyncio.create_task(Chaos(fleet, story, args.rounds).run())
        deadline = time.monotonic() + RUN_LIMIT_S
        while story.status != "finished":
            if time.monotonic() > deadline:
                raise MyceliaError(f"round {story.last_round} was the last after {RUN_LIMIT_S:.0f} s", "run it again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.25):
                    await story.fresh()
            view.update()
        if chaos is not None:
            await chaos
        view.update()


async def _final_model(fleet: Fleet, digest: bytes) -> bytes:
    """From whichever daemon has it: one that was frozen until a moment ago may not."""
    for node in reversed(fleet.nodes):
        if node.condition == "up":
            with contextlib.suppress(MyceliaError):
                return b"".join([piece async for piece in node.service.download(digest)])
    raise UsageError("no daemon has the final model", "read the logs of the daemons")


async def _report(
    args: argparse.Namespace, fleet: Fleet, story: Story, settings: Sequence[str], startup: float
) -> dict[str, Any]:
    last = story.rounds[max(number for number in story.rounds if number <= args.rounds)]
    model = await _final_model(fleet, bytes.fromhex(last.model))
    if args.model is not None:
        args.model.write_bytes(model)
    memory = fleet.anonymous_mb()
    fleet.close_daemons()
    bare = await bare_rounds(fleet, app_file(), settings, model, BARE_ROUNDS)
    checked = await proof.verified(fleet, story, app_file(), settings, model, args.rounds)
    walls = proof.round_walls(story, args.rounds)
    hand_over = next((i for i in story.incidents if i.role == "root"), None)
    return {
        "nodes": args.nodes,
        "rounds": args.rounds,
        "seed": args.seed,
        "alpha": args.alpha,
        "accuracy": round(checked["accuracy"], 4),
        "central_accuracy": round(checked["central_accuracy"], 4),
        "tested_on": checked["tested_on"],
        "replay_max_abs_diff": checked["replay_max_abs_diff"],
        "rounds_lost": len(proof.lost_rounds(story, args.rounds)),
        "double_counted": proof.double_counted(story, checked["samples"]),
        "round_ms_median": _median_ms(walls),
        "bare_round_ms_median": _median_ms(bare),
        "round_overhead_ms_median": proof.overhead_ms(walls, bare),
        "startup_s": round(startup, 2),
        "killed": [
            {
                "node": incident.node[4:12],
                "role": incident.role,
                "action": incident.action,
                "round": incident.round,
                "rejoined_s": sorted(round(s, 3) for s in incident.orphans.values() if s is not None),
                "hand_over_s": incident.hand_over and round(incident.hand_over, 3),
            }
            for incident in story.incidents
        ],
        "new_root": story.root[4:12] if hand_over is not None and story.root != hand_over.node else None,
        "model": None if args.model is None else str(args.model),
        "daemon_anon_mb": round(memory, 1),
    }


def _median_ms(seconds: Sequence[float]) -> float | None:
    return round(1000 * sorted(seconds)[len(seconds) // 2], 1) if seconds else None


def _conclude(report: dict[str, Any]) -> None:
    """Say what came out; raise when it is not right."""
    for key, value in report.items():
        if value is not None:
            print(f"{key:>26}  {value}")  # noqa: T201 - the program's answer
    failures = []
    if report["replay_max_abs_diff"] > 1e-5:
        failures.append("the replay gives other weights")
    if report["rounds_lost"] or report["double_counted"]:
        failures.append("rounds were lost or contributions counted twice")
    if report["rounds"] >= ROUNDS and report["accuracy"] < report["central_accuracy"] - 0.05:
        failures.append("accuracy is more than 5 points below central training")
    if failures:
        raise MyceliaError("; ".join(failures), "this is a bug: please report it with --json FILE")
