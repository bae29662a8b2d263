"""What a change of root costs: seven cases of weather around the root, so many seeds each, and the aims that must hold.

Each case is a small network with one application whose root, or whose place on the ring, is hit in the middle of its
rounds.  What is counted is what its users see: whether all rounds finish, how many of the workers that could take part
did (``checkers.attendance``), how many roots it took, and whether anybody honest was blamed.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from protocol.streams import Stream

from .checkers import Attendances
from .checkers.attendance import Attendance
from .run import Run
from .scenario import Applications, Compute, Faults, Limits, Links, Nodes, Scenario

ROUNDS = 10
WORKERS = 20
SHARE = 0.9
"""Least share of the surviving workers in a round after a hand-over, in the median and at worst."""
EPOCHS_PER_ROUND = 0.5
"""Most roots that it may take per round."""


@dataclass(frozen=True, slots=True)
class Case:
    """One sort of weather around a root."""

    name: str
    story: str
    faults: Faults
    strikes: bool = True
    """A root is struck: only what comes after the first hand-over is counted.  Otherwise all rounds are."""
    large: bool = False
    """A model of 100 MB over links of 20 Mbit/s."""
    code: bool = False
    """Model and code are artifacts that travel, so that they can be lost."""

    def scenario(self, seed: int) -> Scenario:
        """The case as the seed draws it."""
        stream = Stream(seed, "handover", self.name)
        return Scenario(
            name=f"handover-{self.name}",
            seed=seed,
            nodes=Nodes(count=24 + stream.below(9), join_s=4.0),
            links=_links(stream, self.large),
            compute=Compute(train_s=1.5, sigma=0.3, straggler_share=0.0),
            applications=Applications(
                count=1, submit_s=1.0, rounds=3 if self.large else ROUNDS, workers=10 if self.large else WORKERS,
                fan_out=3, model_bytes=100_000_000 if self.large else 200_000 if self.code else 64,
                bundle_bytes=50_000 if self.code else 0,
            ),
            faults=self.faults,
            limits=Limits(liveness_s=6000.0 if self.large else 400.0, settle_s=30.0),
        )  # fmt: skip


def _links(stream: Stream, large: bool) -> Links:
    span = stream.choice((20.0, 60.0))
    return Links(span_ms=span, up_mbit=20.0, down_mbit=20.0, shared=True) if large else Links(span_ms=span)


_STRIKE = Faults(start_s=6.0, duration_s=20.0, return_s=6.0, freeze_s=8.0)
"""One blow at a moment of these seconds; who is hit is back before they are over."""


def _strike(**what: Any) -> Faults:
    return msgspec.structs.replace(_STRIKE, **what)


CASES: tuple[Case, ...] = (
    Case("crash", "the root's process dies; its kernel closes the links", _strike(crash_root=True)),
    Case("power", "the root's machine goes silent", _strike(power_root=True)),
    Case("freeze", "the root is stopped for a while and then goes on", _strike(freezes=1, freeze_root=True)),
    Case(
        "pair", "the two nodes nearest to the id cannot talk to each other",
        Faults(start_s=6.0, duration_s=120.0, cut_beside_id=True), strikes=False,
    ),
    Case(
        "clocks", "of the two nodes nearest to the id one is 40 days ahead, the other 380 days behind",
        Faults(start_s=6.0, duration_s=20.0, clocks_beside_id=True), strikes=False,
    ),
    Case(
        "submitter", "the submitter's machine is gone as soon as the descriptor is accepted",
        Faults(start_s=6.0, duration_s=20.0, submitter_gone=True), strikes=False, code=True,
    ),
    Case(
        "bulk", "a model of 100 MB over links of 20 Mbit/s",
        Faults(start_s=6.0, duration_s=20.0), strikes=False, large=True,
    ),
)  # fmt: skip

NAMES = tuple(case.name for case in CASES)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One seed of one case."""

    case: str
    seed: int
    finished: bool
    rounds: int
    """Committed, the closing evaluation included."""
    wanted: int
    contributors: tuple[int, ...]
    """Of each round that was committed first by the root that opened it."""
    shares: tuple[float, ...]
    """Of the surviving workers, in each round that counts."""
    handovers: int
    epochs_per_round: float
    penalties: int
    violations: tuple[str, ...]


def run_case(case: Case, seed: int) -> Outcome:
    """Run one seed of ``case``."""
    scenario = case.scenario(seed)
    running = Run(scenario, seed, strict=True)
    result = running.execute()
    rolls = next(checker for checker in running.checkers if isinstance(checker, Attendances)).rolls
    (app,) = result.apps
    return Outcome(
        case=case.name,
        seed=seed,
        finished=app.status == "finished",
        rounds=app.rounds,
        wanted=scenario.applications.rounds + 1,
        contributors=tuple(roll.contributors for roll in rolls),
        shares=tuple(round(roll.share, 4) for roll in _counted(case, rolls)),
        handovers=max(app.epoch - 1, 0),
        epochs_per_round=round(app.epoch / max(app.rounds, 1), 3),
        penalties=sum(result.penalties.values()),
        violations=tuple(sorted({violation.rule for violation in result.violations})),
    )


def failed(case: Case, seed: int, why: str) -> Outcome:
    """The outcome of a run that came to no end."""
    return Outcome(case.name, seed, False, 0, case.scenario(seed).applications.rounds + 1, (), (), 0, 0.0, 0, (why,))


def _counted(case: Case, rolls: Sequence[Attendance]) -> list[Attendance]:
    if not case.strikes:
        return list(rolls)
    first = next((place for place, roll in enumerate(rolls) if roll.new_root), len(rolls))
    return list(rolls[first:])


# ---- aims -----------------------------------------------------------------------------------------------------------


def summary(case: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of one case, and which aims they meet."""
    shares = [share for outcome in outcomes for share in outcome.shares]
    contributors = [count for outcome in outcomes for count in outcome.contributors]
    found: dict[str, Any] = {
        "case": case,
        "seeds": len(outcomes),
        "finished": sum(outcome.finished for outcome in outcomes),
        "rounds": sum(outcome.rounds for outcome in outcomes),
        "wanted": sum(outcome.wanted for outcome in outcomes),
        "contributors_median": statistics.median(contributors) if contributors else 0,
        "contributors_worst": min(contributors, default=0),
        "share_median": statistics.median(shares) if shares else 0.0,
        "share_worst": min(shares, default=0.0),
        "epochs_per_round_worst": max(outcome.epochs_per_round for outcome in outcomes),
        "penalties": sum(outcome.penalties for outcome in outcomes),
        "violations": sorted({rule for outcome in outcomes for rule in outcome.violations}),
    }
    found["aims"] = _aims(found)
    return found


def _aims(found: dict[str, Any]) -> dict[str, bool]:
    return {
        "all rounds finish": found["finished"] == found["seeds"] and found["rounds"] == found["wanted"],
        f"median share >= {SHARE}": found["share_median"] >= SHARE,
        f"worst share >= {SHARE}": found["share_worst"] >= SHARE,
        f"epochs per round <= {EPOCHS_PER_ROUND}": found["epochs_per_round_worst"] <= EPOCHS_PER_ROUND,
        "no penalties": found["penalties"] == 0,
        "no violations": not found["violations"],
    }


def line(found: dict[str, Any]) -> str:
    """A summary for people."""
    missed = [aim for aim, met in found["aims"].items() if not met]
    return (
        f"{found['case']:<10} finished {found['finished']}/{found['seeds']}"
        f"  rounds {found['rounds']}/{found['wanted']}"
        f"  contributors {found['contributors_median']:g} (worst {found['contributors_worst']})"
        f"  share {found['share_median']:.2f} (worst {found['share_worst']:.2f})"
        f"  epochs/round {found['epochs_per_round_worst']:.2f}  penalties {found['penalties']}"
        + (f"  MISSED: {', '.join(missed)}" if missed else "  all aims met")
        + (f" [{', '.join(found['violations'])}]" if found["violations"] else "")
    )
