"""``python -m simulations``: run a scenario, soak, or check the checkers against planted bugs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from protocol.errors import MyceliaError, UsageError

from . import handover, mutants, reference
from .elsewhere import ask, each
from .run import Result, run
from .scenario import load
from .soak import CONFIDENCE_FACTOR, draw, plain

VIOLATED = 1
"""Exit status when a check failed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, do, report.  Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.call(options)
    except MyceliaError as error:
        sys.stderr.write(f"error: {error}\n" + (f"  {error.remedy}\n" if error.remedy else ""))
        return error.exit_code
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulations",
        description="Whole networks of real node cores under virtual time, with faults and checkers.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("run", help="run one scenario and check it")
    one.add_argument("file", type=Path, help="a scenario, such as simulations/scenarios/smoke-32.toml")
    one.add_argument("--seed", type=int, help="default: the scenario's own")
    one.add_argument("--wire", action="store_true", help="send every message through the codec (small scenarios)")
    one.set_defaults(call=_run)

    soak = commands.add_parser("soak", help="run many drawn scenarios and state the 95 %% bound")
    soak.add_argument("--seeds", type=int, default=10, help="how many (default: 10)")
    soak.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    soak.add_argument("--strict", action="store_true", help="all weather, and all that is not promised yet")
    soak.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    soak.set_defaults(call=_soak)

    mutant = commands.add_parser("mutants", help="plant known protocol bugs and require that each is caught")
    mutant.add_argument("--seeds", type=int, default=100, help="seeds after which a mutant has survived (default: 100)")
    mutant.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    mutant.add_argument("--only", default="", metavar="NAME", help="one mutant alone")
    mutant.add_argument("--control", choices=mutants.WEATHERS, help="instead, one run of this weather without a bug")
    mutant.add_argument("--first", type=int, default=0, help="the seed of that run (default: 0)")
    mutant.set_defaults(call=_mutants)

    over = commands.add_parser("handover", help="strike the root, and require that its rounds stay full")
    over.add_argument("--seeds", type=int, default=20, help="seeds of each case (default: 20)")
    over.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    over.add_argument("--only", default="", metavar="CASE", help="one case alone: " + ", ".join(handover.NAMES))
    over.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    over.set_defaults(call=_handover)

    for command in (one, soak, mutant, over):
        command.add_argument("--json", metavar="FILE", help="write the results there; - for standard output")

    keys = commands.add_parser("reference", help="print the reference of scenario files")
    keys.set_defaults(call=_reference)
    return parser


def _reference(options: argparse.Namespace) -> int:
    sys.stdout.write(reference.markdown())
    return 0


# ---- run ------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    result = run(load(options.file), options.seed, check_wire=options.wire)
    _say(options, _describe(result))
    _write(options.json, result.to_dict())
    return 0 if result.ok else VIOLATED


def _describe(result: Result) -> str:
    megabytes, transferred = result.message_bytes / 1e6, result.transfer_bytes / 1e6
    speed = f"{result.wall_s:.1f} s, {result.us_per_message:.1f} us per message"
    lines = [
        f"{result.scenario}  seed={result.seed}  digest={result.digest}",
        f"{result.nodes} nodes, {result.running} running at the end; {result.events} events",
        f"{result.messages} messages, {megabytes:.1f} MB; transfers, {transferred:.1f} MB",
        f"{result.virtual_s:.0f} s of virtual time in {speed}",
        "faults: " + (", ".join(f"{kind} {count}" for kind, count in result.faults.items()) or "none"),
        *(["lies: " + ", ".join(f"{lie} {count}" for lie, count in result.lies.items())] if result.lies else []),
        "penalties: " + (", ".join(f"{code} {count}" for code, count in result.penalties.items()) or "none"),
    ]
    lines += [
        f"  {app.app}  {app.status:<10} round {app.rounds:>3}  epoch {app.epoch:>2}  contributors {app.contributors}"
        for app in result.apps
    ]
    lines.append(f"violations: {result.violations_total}")
    lines += [f"  {violation}" for violation in result.violations]
    return "\n".join(lines)


# ---- soak -----------------------------------------------------------------------------------------------------------


def _soak(options: argparse.Namespace) -> int:
    if options.seeds < 1 or options.jobs < 1:
        raise UsageError("--seeds and --jobs must be at least 1")
    started = time.perf_counter()
    seeds = range(options.first, options.first + options.seeds)
    done: list[dict[str, Any]] = []
    for outcome in _soaked(seeds, options.jobs, options.strict):
        done.append(outcome)
        _say(options, _soak_line(outcome))
    failed = [outcome for outcome in done if not outcome["ok"]]
    bound = CONFIDENCE_FACTOR / len(done)
    _say(options, f"{len(done)} seeds, {len(failed)} failed, {time.perf_counter() - started:.0f} s")
    if failed:
        _say(options, "failing seeds: " + " ".join(str(outcome["seed"]) for outcome in failed))
    else:
        _say(options, f"95 % bound on the share of failing seeds: {bound:.4f}")
    events = sum(outcome["events"] for outcome in done)
    _write(options.json, {"seeds": len(done), "failed": len(failed), "bound": bound, "events": events, "runs": done})
    return VIOLATED if failed else 0


def _soaked(seeds: range, jobs: int, strict: bool) -> Iterator[dict[str, Any]]:
    """Results in the order of the seeds."""
    if jobs == 1:
        yield from (run((draw if strict else plain)(seed), strict=strict).to_dict() for seed in seeds)
        return
    more = ("--strict",) if strict else ()
    yield from each(lambda seed: _soak_elsewhere(seed, *more), seeds, jobs)


def _soak_elsewhere(seed: int, *more: str) -> dict[str, Any]:
    """One seed in a process of its own, so that a core that raises takes down nothing but its seed."""
    found, error = ask("soak", "--first", str(seed), "--seeds", "1", *more)
    if found is None:
        violation = {"rule": "raised", "at_s": 0.0, "text": error}
        return {"seed": seed, "ok": False, "events": 0, "faults": {}, "violations": [violation], "wall_s": 0.0}
    outcome: dict[str, Any] = found["runs"][0]
    return outcome


def _soak_line(outcome: dict[str, Any]) -> str:
    kinds = " ".join(outcome["faults"])
    line = f"seed {outcome['seed']}: {'ok' if outcome['ok'] else 'FAILED'}, {outcome['events']} events ({kinds})"
    for violation in outcome["violations"][:5]:
        line += f"\n    {violation['at_s']:.3f} s  {violation['rule']}: {violation['text']}"
    return line


# ---- mutants --------------------------------------------------------------------------------------------------------


def _mutants(options: argparse.Namespace) -> int:
    if options.control:
        return _controlled(options)
    names = [options.only] if options.only else list(mutants.ALL)
    if options.only and options.only not in mutants.ALL:
        raise UsageError(f"there is no mutant {options.only}", "one of " + ", ".join(mutants.ALL))
    hunts = []
    for hunt in _hunted(names, options.seeds, options.jobs):
        hunts.append(hunt)
        _say(options, str(hunt))
    survivors = [hunt.name for hunt in hunts if not hunt.caught]
    _say(options, f"{len(hunts)} mutants, {len(survivors)} survived" + "".join(f" {name}" for name in survivors))
    false_alarms = _false_alarms(options, hunts)
    content = {"mutants": [hunt.to_dict() for hunt in hunts], "survivors": survivors, "false_alarms": false_alarms}
    _write(options.json, content)
    return VIOLATED if survivors or false_alarms else 0


def _hunted(names: list[str], seeds: int, jobs: int) -> Iterator[mutants.Hunt]:
    """Results in the order of the names."""
    if jobs == 1:
        yield from (mutants.hunt(mutants.ALL[name], seeds) for name in names)
        return
    yield from each(lambda name: _hunt_elsewhere(name, seeds), names, jobs)


def _hunt_elsewhere(name: str, seeds: int) -> mutants.Hunt:
    """One mutant in a process of its own.  One that raises is not caught: as a rule it no longer fits the code that it
    is planted in, and shows nothing."""
    found, error = ask("mutants", "--only", name, "--seeds", str(seeds))
    if found is None:
        return mutants.Hunt(name, False, 1, f"raised: {error}")
    return mutants.Hunt(**found["mutants"][0])


def _false_alarms(options: argparse.Namespace, hunts: list[mutants.Hunt]) -> list[str]:
    """Where the checkers cry wolf: whatever fails with a bug has to be survived without it."""
    wrong = [f"{weather} {seed}" for weather, seed in sorted({(h.weather, seed) for h in hunts for seed in h.unclear})]
    text = f"control: {len(wrong)} seeds fail without a bug as well"
    _say(options, text + "".join(f", {name}" for name in wrong))
    return wrong


def _controlled(options: argparse.Namespace) -> int:
    """One run without a bug."""
    scenario = mutants.WEATHERS[options.control](options.first)
    result = run(scenario, strict=mutants.strictly(scenario))
    _say(options, _describe(result))
    _write(options.json, result.to_dict())
    return 0 if result.ok else VIOLATED


# ---- handover -------------------------------------------------------------------------------------------------------

SEEDS_PER_PROCESS = 5


def _handover(options: argparse.Namespace) -> int:
    if options.only and options.only not in handover.NAMES:
        raise UsageError(f"there is no case {options.only}", "one of " + ", ".join(handover.NAMES))
    if options.seeds < 1 or options.jobs < 1:
        raise UsageError("--seeds and --jobs must be at least 1")
    cases = [case for case in handover.CASES if options.only in ("", case.name)]
    runs: dict[str, list[handover.Outcome]] = {case.name: [] for case in cases}
    summaries = []
    for case, outcomes in _struck(cases, range(options.first, options.first + options.seeds), options.jobs):
        runs[case.name] += outcomes
        if len(runs[case.name]) == options.seeds:
            summaries.append(handover.summary(case.name, runs[case.name]))
            _say(options, handover.line(summaries[-1]))
    met = all(all(found["aims"].values()) for found in summaries)
    _say(options, "all aims met" if met else "aims were missed")
    everything = [dataclasses.asdict(outcome) for outcomes in runs.values() for outcome in outcomes]
    _write(options.json, {"cases": summaries, "met": met, "runs": everything})
    return 0 if met else VIOLATED


def _struck(
    cases: Sequence[handover.Case], seeds: range, jobs: int
) -> Iterator[tuple[handover.Case, list[handover.Outcome]]]:
    """Results case by case, a few seeds at a time."""
    if jobs == 1:
        yield from ((case, [handover.run_case(case, seed)]) for case in cases for seed in seeds)
        return
    parts = [
        (case, seeds[at : at + SEEDS_PER_PROCESS]) for case in cases for at in range(0, len(seeds), SEEDS_PER_PROCESS)
    ]
    yield from zip((case for case, _ in parts), each(_strike_elsewhere, parts, jobs), strict=True)


def _strike_elsewhere(part: tuple[handover.Case, range]) -> list[handover.Outcome]:
    """Some seeds of one case in a process of their own."""
    case, seeds = part
    found, error = ask("handover", "--only", case.name, "--first", str(seeds[0]), "--seeds", str(len(seeds)))
    if found is None:
        return [handover.failed(case, seed, f"raised: {error}") for seed in seeds]
    return [handover.Outcome(**outcome) for outcome in found["runs"]]


# ---- output ---------------------------------------------------------------------------------------------------------


def _say(options: argparse.Namespace, text: str) -> None:
    """Progress for people, out of the way of JSON on standard output."""
    stream = sys.stderr if options.json == "-" else sys.stdout
    stream.write(text + "\n")
    stream.flush()


def _write(target: str | None, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1) + "\n"
    if target == "-":
        sys.stdout.write(text)
    elif target:
        try:
            Path(target).write_text(text)
        except OSError as error:
            raise UsageError(f"cannot write {target}: {error.strerror}") from None
