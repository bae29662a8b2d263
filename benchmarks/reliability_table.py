"""The tables of ``docs/reliability.md``: ``python -m benchmarks.reliability_table FILE... [--write PAGE]``.

Each file is what one command wrote with ``--json``: ``python -m simulations run | soak | mutants``, ``mycelia demo``,
``python -m benchmarks.churn``.  Which of them it was is seen from the keys.  Without ``--write`` the tables are
printed; with it they replace what stands between the markers of the page.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- begin: generated tables -->", "<!-- end: generated tables -->"

Result = dict[str, Any]
Row = tuple[str, str, str, str]


def _scenario(found: Result) -> Row:
    command = f"python -m simulations run simulations/scenarios/{found['scenario']}.toml --seed {found['seed']}"
    apps = found["apps"]
    what = f"{found['nodes']} nodes, {len(apps)} applications, {found['events']} events; {_faults([found])}"
    return command, what, _ends(apps), f"{_violations([found])}; digest `{found['digest'][:16]}`"


def _soak(found: Result) -> Row:
    runs = found["runs"]
    command = f"python -m simulations soak --seeds {found['seeds']} --first {runs[0]['seed']}"
    apps = [app for run in runs for app in run.get("apps", ())]
    nodes = [run["nodes"] for run in runs if "nodes" in run]
    what = f"{found['seeds']} networks of {min(nodes)} to {max(nodes)} nodes, {found['events']} events; {_faults(runs)}"
    bound = f"; share of failing seeds ≤ {found['bound']:.4f} (95 %)" if not found["failed"] else ""
    return command, what, _ends(apps), f"{_violations(runs)}{bound}"


def _mutants(found: Result) -> Row:
    hunts = found["mutants"]
    slowest = max(hunts, key=lambda hunt: hunt["seeds"])
    what = f"{len(hunts)} protocol bugs, one at a time, on networks in heavy weather"
    caught = sum(hunt["caught"] for hunt in hunts)
    detail = f"the slowest, `{slowest['name']}`, took {slowest['seeds']} seeds"
    if "false_alarms" in found:
        detail += f"; {len(found['false_alarms'])} false alarms when those runs are made without a bug"
    return "python -m simulations mutants", what, f"{caught} of {len(hunts)} caught", detail


def _handover(found: Result) -> Row:
    cases = found["cases"]
    what = f"{cases[0]['seeds']} seeds each of " + ", ".join(case["case"] for case in cases)
    rounds = f"{sum(case['rounds'] for case in cases)} of {sum(case['wanted'] for case in cases)} rounds"
    worst = min(cases, key=lambda case: case["share_worst"])
    share = f"worst round with {worst['share_worst']:.0%} of those who could be in it (`{worst['case']}`)"
    aims = [met for case in cases for met in case["aims"].values()]
    return "python -m simulations handover", what, f"{rounds}; {share}", f"{sum(aims)} of {len(aims)} aims met"


def _demo(found: Result) -> Row:
    options = "".join(f" --{key} {found[key]}" for key in ("nodes", "rounds", "alpha", "seed"))
    command = f"mycelia demo{options}" + ("" if found["killed"] else " --no-kill")
    blows = [f"{blow['role']} {blow['action']} after round {blow['round']}" for blow in found["killed"]]
    what = f"{found['nodes']} daemons: {', '.join(blows) or 'nothing'}"
    lost = f"{found['rounds_lost']} rounds lost, {found['double_counted']} contributions counted twice"
    times = sorted(seconds for blow in found["killed"] for seconds in blow["rejoined_s"])
    detail = f"replay differs by at most {found['replay_max_abs_diff']:.1e}"
    return command, what, lost, detail + (f"; {len(times)} orphans re-joined, slowest {times[-1]} s" if times else "")


def _churn(found: Result) -> Row:
    aims = found["aims"]
    missed = "".join(f"; missed: {aim['name']}" for aim in aims if not aim["met"])
    counts = [aim for aim in aims if "lost" in aim["name"] or "twice" in aim["name"]]
    what = "an aggregator and the root killed, the root frozen, a link silenced; then all killed in round 7"
    lost = "; ".join(f"{aim['name']} {aim['value']:g}" for aim in counts)
    detail = f"{sum(aim['met'] for aim in aims)} of {len(aims)} aims met{missed}"
    return "python -m benchmarks.churn", f"{found['facts']['nodes']} daemons: {what}", lost, detail


KINDS = {
    "cases": _handover,
    "scenario": _scenario,
    "runs": _soak,
    "mutants": _mutants,
    "replay_max_abs_diff": _demo,
    "benchmark": _churn,
}
"""Key that only this kind of result has → its row."""


def _ends(apps: Sequence[Result]) -> str:
    counts = Counter(app["status"] for app in apps)
    rounds = sum(app["rounds"] for app in apps)
    return f"{', '.join(f'{count} {status}' for status, count in sorted(counts.items()))}; {rounds} rounds committed"


def _faults(runs: Iterable[Result]) -> str:
    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(run["faults"])
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())) or "no faults"


def _violations(runs: Iterable[Result]) -> str:
    return f"{sum(run.get('violations_total', len(run['violations'])) for run in runs)} violations"


def row(found: Result) -> Row:
    """The row of one result.  Raises StopIteration when it is of no known kind."""
    return next(make for key, make in KINDS.items() if key in found)(found)


def tables(results: Sequence[Result]) -> str:
    """All rows, and the mutants one by one."""
    lines = ["| command | injected | outcome | checks |", "|---|---|---|---|"]
    lines += ["| `{}` | {} | {} | {} |".format(*row(found)) for found in results]
    for found in results:
        if "mutants" in found:
            lines += ["", "| planted bug | caught by the check | after seeds |", "|---|---|---:|"]
            lines += [f"| `{hunt['name']}` | {hunt['rule'] or 'none'} | {hunt['seeds']} |" for hunt in found["mutants"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability_table", description="Tables from JSON.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the tables of this page")
    args = parser.parse_args()
    text = tables([json.loads(file.read_text()) for file in args.files])
    if args.write is None:
        print(text, end="")
        return
    before, rest = args.write.read_text().split(BEGIN)
    after = rest.split(END)[1]
    args.write.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


if __name__ == "__main__":
    main()
