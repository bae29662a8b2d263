"""What a planted bug is, and how long it takes to find."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from protocol.streams import Stream

from ..run import Result, run
from ..scenario import Applications, Compute, Faults, Limits, Links, Nodes, Scenario

Plant = Callable[[], AbstractContextManager[None]]
Weather = Callable[[int], Scenario]
"""Seed → the network in which a bug is looked for."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug that somebody could have written."""

    name: str
    story: str
    """What is wrong, in one sentence."""
    plant: Plant
    """While entered, all cores have the bug."""
    weather: Weather
    quick: tuple[int, ...] = ()
    """Seeds that have shown it before: tried first, since a bug may need many."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """How the checkers fared against one mutant."""

    name: str
    caught: bool
    seeds: int
    """Runs until it was caught, or all that were tried."""
    rule: str
    """The first property that failed; of a bug that raised, what."""
    weather: str = ""
    """Name of the weather in which it was caught."""
    seed: int = 0
    """The seed that caught it: without the bug it is survived."""
    unclear: Sequence[int] = ()
    """Seeds that failed, and fail without the bug as well."""

    def __str__(self) -> str:
        if self.caught:
            return f"{self.name}: caught by {self.rule} after {self.seeds} seed{'s' * (self.seeds > 1)}"
        return f"{self.name}: SURVIVED {self.seeds} seeds" + f", {self.rule}" * bool(self.rule)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@contextmanager
def patched(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """``owner.name`` is ``replacement`` while entered."""
    original = vars(owner)[name]
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def together(*patches: AbstractContextManager[None]) -> Iterator[None]:
    """All ``patches`` at once: one bug that takes more than one method."""
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def hunt(mutant: Mutant, seeds: int) -> Hunt:
    """Run seed after seed with the bug planted, until a checker reports something that it does not report without.

    A seed that fails either way says nothing about the bug: it is a false alarm, or a bug that nobody planted.
    """
    order = list(dict.fromkeys([*mutant.quick, *range(seeds)]))[:seeds]
    weather = mutant.weather.__name__
    unclear: list[int] = []
    for tried, seed in enumerate(order, 1):
        with mutant.plant():
            result = _tried(mutant, seed)
        if result.ok:
            continue
        if _tried(mutant, seed).ok:
            return Hunt(mutant.name, True, tried, result.violations[0].rule, weather, seed, tuple(unclear))
        unclear.append(seed)
    return Hunt(mutant.name, False, len(order), "", weather, unclear=tuple(unclear))


def _tried(mutant: Mutant, seed: int) -> Result:
    scenario = mutant.weather(seed)
    return run(scenario, stop_early=True, strict=strictly(scenario))


def strictly(scenario: Scenario) -> bool:
    """Whether all properties are asked for: a liar may lose what honest nodes below it have handed to it."""
    return not scenario.faults.liars


def storm(seed: int) -> Scenario:
    """A small network in heavy weather: what a bug of the protocol cannot hide in for long."""
    stream = Stream(seed, "storm")
    return Scenario(
        name=f"storm-{seed}",
        seed=seed,
        nodes=Nodes(count=16 + stream.below(17), join_s=3.0),
        links=Links(span_ms=stream.choice((20.0, 60.0)), late_share=stream.uniform()),
        compute=Compute(train_s=stream.choice((0.3, 1.5)), sigma=0.6),
        applications=Applications(
            count=2, submit_s=1.0, rounds=12, workers=10, fan_out=2, voters=stream.choice((3, 5)), quorum=0.8
        ),
        faults=Faults(
            start_s=1.0,
            duration_s=45.0,
            crash_share=stream.uniform(0.1, 0.5),
            power_share=stream.uniform(),
            return_share=0.8,
            return_s=stream.choice((1.5, 6.0)),
            crash_root=True,
            freezes=stream.below(5),
            freeze_s=6.0,
            freeze_root=stream.uniform() < 0.5,
            cuts=stream.below(4),
            one_way_cuts=stream.below(3),
            cut_s=8.0,
            cut_share=0.5,
            loss=stream.choice((0.0, 0.01, 0.03)),
            duplicate=stream.choice((0.0, 0.05)),
            reorder=stream.choice((0.0, 0.05)),
            slow_disks=stream.below(6),
            late_s=stream.choice((0.2, 3.0)),
        ),
        limits=Limits(liveness_s=900.0, settle_s=45.0),
    )


def skew(seed: int) -> Scenario:
    """A small network in which nobody dies and clocks are wrong: both of those nearest to an id, and some others."""
    calm, stream = storm(seed), Stream(seed, "skew weather")
    faults = msgspec.structs.replace(
        calm.faults, clocks_beside_id=True, wrong_clocks=stream.below(3), submitter_gone=False, stops=stream.below(2),
        deaf_beside_id=stream.uniform() < 0.5,
        crash_share=0.0, crash_root=False, freezes=0, freeze_root=False, cuts=0, one_way_cuts=0,
    )  # fmt: skip
    # All start together and submit at once: that is when the wrong ones may have only each other to go by.
    nodes = msgspec.structs.replace(calm.nodes, join_s=1.0)
    applications = msgspec.structs.replace(calm.applications, submit_s=0.0)
    return msgspec.structs.replace(calm, name=f"skew-{seed}", nodes=nodes, applications=applications, faults=faults)


def drizzle(seed: int) -> Scenario:
    """A small calm network in which nodes die and some are slow: whoever is missing then was left out."""
    stream = Stream(seed, "drizzle")
    dies, root = stream.uniform() < 0.7, stream.uniform()
    return Scenario(
        name=f"drizzle-{seed}",
        seed=seed,
        nodes=Nodes(count=28 + stream.below(21), join_s=4.0),
        links=Links(span_ms=stream.choice((20.0, 60.0))),
        compute=Compute(train_s=stream.choice((0.5, 1.5)), sigma=0.4, straggler_share=0.0),
        applications=Applications(
            count=2, submit_s=1.0, rounds=25, workers=20, fan_out=2, voters=5, quorum=stream.choice((0.5, 0.8)),
            model_bytes=stream.choice((64, 100_000)), bundle_bytes=stream.choice((0, 20_000)),
        ),
        faults=Faults(
            start_s=1.0,
            duration_s=40.0,
            crash_share=stream.uniform(0.05, 0.25) if dies else 0.0,
            power_share=stream.uniform(),
            return_share=stream.choice((0.0, 0.7)),
            return_s=6.0,
            crash_root=root < 0.3,
            power_root=0.3 <= root < 0.5,
            submitter_gone=stream.uniform() < 0.5,
            stops=int(stream.uniform() < 0.5),
            slow_compute=stream.below(3),
            slow_factor=200.0,
        ),
        limits=Limits(liveness_s=600.0, settle_s=45.0),
    )  # fmt: skip


def revolving(seed: int) -> Scenario:
    """A calm network with long waves, in which nodes die and are back before the wave is over."""
    stream = Stream(seed, "revolving")
    return Scenario(
        name=f"revolving-{seed}",
        seed=seed,
        nodes=Nodes(count=24 + stream.below(9), join_s=4.0),
        links=Links(span_ms=stream.choice((20.0, 60.0))),
        compute=Compute(train_s=stream.choice((2.0, 4.0)), sigma=0.6, straggler_share=0.0),
        applications=Applications(count=2, submit_s=1.0, rounds=8, workers=20, fan_out=3, voters=5, quorum=0.8),
        faults=Faults(
            start_s=1.0,
            duration_s=60.0,
            crash_share=0.8,
            power_share=0.0,
            return_share=1.0,
            return_s=stream.choice((0.2, 1.0)),
            slow_compute=4,
            slow_factor=8.0,
        ),
        limits=Limits(liveness_s=600.0, settle_s=45.0),
    )


def desertion(seed: int) -> Scenario:
    """Many short runs, each with the data of one node, which is away for a while."""
    stream = Stream(seed, "desertion")
    return Scenario(
        name=f"desertion-{seed}",
        seed=seed,
        nodes=Nodes(count=12, join_s=3.0),
        links=Links(span_ms=20.0),
        compute=Compute(train_s=6.0, sigma=0.6),
        applications=Applications(
            count=8, submit_s=1.0, rounds=stream.choice((1, 2, 3)), workers=1, fan_out=2, voters=5
        ),
        faults=Faults(
            start_s=1.0, duration_s=40.0, crash_share=1.0, power_share=0.0, return_share=1.0, return_s=4.0
        ),
        limits=Limits(liveness_s=600.0, settle_s=30.0),
    )  # fmt: skip


def lies(seed: int) -> Scenario:
    """A small calm network in which one in seven nodes lies in every way that it knows."""
    stream = Stream(seed, "lies")
    return Scenario(
        name=f"lies-{seed}",
        seed=seed,
        nodes=Nodes(count=28, join_s=4.0),
        links=Links(span_ms=stream.choice((20.0, 60.0))),
        compute=Compute(train_s=0.5, straggler_share=0.0),
        applications=Applications(count=2, submit_s=1.0, rounds=15, workers=20, fan_out=2, voters=5),
        faults=Faults(start_s=1.0, duration_s=40.0, liars=0.15),
        limits=Limits(liveness_s=300.0, settle_s=30.0),
    )


def siege(seed: int) -> Scenario:
    """The same, while nodes die and are back at once, and roots die: liars ask for promises all the time."""
    stream, calm = Stream(seed, "siege"), lies(seed)
    faults = msgspec.structs.replace(
        calm.faults, crash_share=0.6, power_share=0.0, return_share=1.0, return_s=stream.choice((0.2, 1.0)),
        crash_root=True,
    )  # fmt: skip
    return msgspec.structs.replace(calm, name=f"siege-{seed}", faults=faults)
