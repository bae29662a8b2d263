"""Soaking: one drawn configuration per seed, for as many seeds as there is time.

Every seed draws its own sizes, distances, applications and mix of faults (swarm testing, Groce et al. 2012: leaving
features out at random finds more than always using all of them).  Failing seeds go into
``tests/simulations/seeds.toml``, so the meaning of a seed must not change: new kinds of weather go into
:func:`add_more`, and if that changes what older seeds mean they are listed under the draw that they failed with.
"""

from __future__ import annotations

import msgspec

from protocol.streams import Stream

from .faults import kinds
from .scenario import Applications, Compute, Faults, Limits, Links, Nodes, Scenario

MIN_NODES = 64
APPLICATIONS = 3
MIN_EVENTS = 100_000
MIN_KINDS = 3
BLACKOUT_SHARE = 0.1
"""Of the seeds, in which all machines lose power at once, once, on top of everything else."""
CONFIDENCE_FACTOR = 3.0
"""After N seeds without a failure, the share of failing seeds is below 3/N with 95 % confidence (rule of three)."""

_KINDS = (
    "crash", "replace", "freeze", "cut", "one-way-cut", "loss", "duplicate", "reorder", "slow-disk", "slow-compute",
)  # fmt: skip


def draw(seed: int) -> Scenario:
    """The scenario of one seed: at least 64 nodes, 3 applications, 10^5 events and 3 kinds of fault, and on top of them
    what owners, clocks, routes and stragglers do."""
    return add_more(plain(seed), Stream(seed, "soak", "more"))


def plain(seed: int) -> Scenario:
    """What a seed meant before owners, clocks, routes and stragglers were drawn too."""
    stream = Stream(seed, "soak")
    nodes = MIN_NODES + stream.below(65)
    workers = 6 + stream.below(19)
    large = stream.uniform() < 0.25
    scenario = Scenario(
        name=f"soak-{seed}",
        seed=seed,
        nodes=Nodes(
            count=nodes,
            join_s=5.0 + stream.below(16),
            outbound_share=stream.choice((0.0, 0.0, 0.1, 0.25)),
        ),
        links=Links(
            sites=1 + stream.below(8),
            span_ms=stream.choice((1.0, 20.0, 60.0, 150.0)),
            jitter=stream.choice((0.05, 0.5)),
            late_share=stream.uniform(),
        ),
        compute=Compute(
            train_s=stream.choice((0.2, 1.0, 3.0)),
            sigma=stream.choice((0.1, 0.5)),
            straggler_share=stream.choice((0.0, 0.05)),
        ),
        applications=Applications(
            count=APPLICATIONS,
            rounds=10 + stream.below(21),
            workers=workers,
            min_workers=1 + stream.below(max(workers // 4, 1)),
            fan_out=2 + stream.below(5),
            voters=stream.choice((3, 5, 5)),
            quorum=stream.choice((0.5, 0.8)),
            fraction=stream.choice((1.0, 1.0, 0.6)),
            evaluate=stream.uniform() < 0.7,
            model_bytes=200_000 + stream.below(2_000_000) if large else 64,
        ),
        faults=_draw_faults(stream, nodes),
        limits=Limits(liveness_s=1500.0, settle_s=45.0, min_events=MIN_EVENTS),
    )
    assert len(kinds(scenario.faults)) >= MIN_KINDS
    return scenario


def add_more(scenario: Scenario, stream: Stream) -> Scenario:
    """``scenario`` and, each with a probability of its own, the kinds of weather that were added later."""
    applications, faults, nodes = scenario.applications, scenario.faults, scenario.nodes.count

    def now_and_then(share: float) -> bool:
        return stream.uniform() < share

    code = now_and_then(0.4)
    straggling = now_and_then(0.3)
    return msgspec.structs.replace(
        scenario,
        links=msgspec.structs.replace(scenario.links, shared=now_and_then(0.5)),
        applications=msgspec.structs.replace(
            applications,
            bundle_bytes=10_000 + stream.below(300_000) if code else 0,
            patience=2 + stream.below(4) if now_and_then(0.3) else 0,
        ),
        faults=msgspec.structs.replace(
            faults,
            submitter_gone=now_and_then(0.5),
            power_root=now_and_then(0.3),
            stops=int(now_and_then(0.3)),
            wrong_clocks=1 + stream.below(nodes // 16) if now_and_then(0.3) else 0,
            pair_cuts=1 + stream.below(nodes // 4) if now_and_then(0.3) else 0,
            cut_beside_id=now_and_then(0.2),
            unreachable_share=stream.uniform(0.05, 0.35) if now_and_then(0.15) else 0.0,
            slow_compute=max(faults.slow_compute, 1 + stream.below(nodes // 16)) if straggling else faults.slow_compute,
            slow_factor=stream.choice((30.0, 300.0)) if straggling else 10.0,
        ),
    )


def _draw_faults(stream: Stream, nodes: int) -> Faults:
    """At least three kinds, each in a strength of its own."""
    kinds = stream.sample(_KINDS, MIN_KINDS + stream.below(4))

    def maybe(kind: str, low: float, high: float) -> float:
        value = stream.uniform(low, high)
        return value if kind in kinds else 0.0

    return Faults(
        start_s=stream.uniform(0.0, 10.0),
        duration_s=stream.uniform(30.0, 90.0),
        crash_share=max(maybe("crash", 0.05, 0.3), maybe("replace", 0.05, 0.2)),
        power_share=stream.choice((0.0, 0.5, 1.0)),
        return_share=stream.choice((0.0, 0.5, 1.0)),
        return_s=stream.choice((3.0, 20.0)),
        replace_share=maybe("replace", 0.3, 0.9),
        crash_root="crash" in kinds and stream.uniform() < 0.5,
        freezes=int(maybe("freeze", 1, nodes / 8)),
        freeze_s=stream.choice((2.0, 10.0, 25.0)),
        freeze_root="freeze" in kinds and stream.uniform() < 0.5,
        cuts=int(maybe("cut", 1, 5)),
        one_way_cuts=int(maybe("one-way-cut", 1, 4)),
        cut_s=stream.choice((3.0, 10.0, 40.0)),
        cut_share=stream.uniform(0.05, 0.5),
        loss=maybe("loss", 0.001, 0.03),
        duplicate=maybe("duplicate", 0.001, 0.05),
        reorder=maybe("reorder", 0.001, 0.1),
        slow_disks=int(maybe("slow-disk", 1, nodes / 4)),
        slow_compute=int(maybe("slow-compute", 1, nodes / 4)),
        blackouts=int(stream.uniform() < BLACKOUT_SHARE),
        late_s=stream.choice((0.2, 3.0)),
    )
