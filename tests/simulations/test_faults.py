"""Fault plans: drawn from the seed, inside their window, mended at its end."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from simulations.clock import SECOND
from simulations.faults import FaultPlan, kinds
from simulations.network import Cut, Pairs
from simulations.scenario import Faults
from simulations.soak import MIN_EVENTS, MIN_KINDS, MIN_NODES, draw

EVERYTHING = Faults(
    duration_s=30.0,
    crash_share=0.4,
    replace_share=0.3,
    freezes=5,
    freeze_root=True,
    crash_root=True,
    blackouts=2,
    cuts=3,
    one_way_cuts=3,
    loss=0.1,
    slow_disks=2,
    slow_compute=2,
)


@given(st.integers(0, 1 << 62))
def test_a_plan_is_a_function_of_the_seed_and_stays_in_its_window(seed: int) -> None:
    plan, again = FaultPlan(EVERYTHING, 50, seed), FaultPlan(EVERYTHING, 50, seed)
    assert [(at, fault.kind, fault.host) for at, fault in plan.entries] == [
        (at, fault.kind, fault.host) for at, fault in again.entries
    ]
    assert plan.pairs == again.pairs
    assert all(0 <= at <= 30 * SECOND + 1 for at, _ in plan.entries)
    assert all(0 <= strike <= mend <= 30 * SECOND for strike, mend, _, _ in plan.pairs)


@given(st.integers(0, 1 << 62))
def test_what_is_to_mend_mends(seed: int) -> None:
    plan = FaultPlan(EVERYTHING, 50, seed)
    counts = Counter(fault.kind for _, fault in plan.entries)
    assert counts["cut"] + counts["one-way-cut"] == counts["heal"] == 6
    assert counts["freeze"] == counts["thaw"] == 4
    assert counts["wipe"] == counts["replace"]
    assert counts["blackout"] == 100
    assert counts["crash"] + counts["power"] + counts["blackout"] >= counts["return"] >= 100
    assert counts["noise"] == counts["quiet"] == 1
    assert sorted(kind for _, _, kind, _ in plan.pairs) == ["crash", "freeze"]


@given(st.integers(0, 1 << 62))
def test_one_way_cuts_block_one_way(seed: int) -> None:
    for _, fault in FaultPlan(EVERYTHING, 50, seed).entries:
        if fault.kind == "one-way-cut":
            assert isinstance(fault.cut, Cut)
            assert fault.cut.outward != fault.cut.inward


@given(st.integers(0, 1 << 32))
def test_every_soak_seed_draws_what_was_promised(seed: int) -> None:
    scenario = draw(seed)
    assert scenario.nodes.count >= MIN_NODES
    assert scenario.applications.count == 3
    assert scenario.limits.min_events == MIN_EVENTS
    assert len(kinds(scenario.faults)) >= MIN_KINDS


MORE = Faults(
    duration_s=30.0, pair_cuts=3, unreachable_share=0.3, stops=2, power_root=True, slow_compute=1, slow_factor=50.0
)


@given(st.integers(0, 1 << 62))
def test_pairs_owners_and_stragglers_are_drawn_too(seed: int) -> None:
    plan = FaultPlan(MORE, 20, seed, applications=3)
    counts = Counter(fault.kind for _, fault in plan.entries)
    assert counts["pair-cut"] == 3
    assert counts["unreachable"] == 1
    assert counts["heal"] == 4
    assert len({fault.application for _, fault in plan.entries if fault.kind == "stop"}) == 2
    assert [fault.factor for _, fault in plan.entries if fault.kind == "slow-compute"] == [50.0]
    assert [kind for _, _, kind, _ in plan.pairs] == ["power"]
    (scattered,) = [fault.cut for _, fault in plan.entries if fault.kind == "unreachable"]
    assert isinstance(scattered, Pairs)
    assert 20 < len(scattered.pairs) < 100
    first, second = min(scattered.pairs)
    assert scattered.blocks(first, second)
    assert scattered.blocks(second, first)


@given(st.integers(0, 1 << 62))
def test_what_is_drawn_for_pairs_shifts_nothing_else(seed: int) -> None:
    with_pairs = msgspec.structs.replace(EVERYTHING, pair_cuts=3, unreachable_share=0.3)
    plain, more = FaultPlan(EVERYTHING, 50, seed).entries, FaultPlan(with_pairs, 50, seed).entries
    assert [(at, fault.kind, fault.host) for at, fault in more[: len(plain)]] == [
        (at, fault.kind, fault.host) for at, fault in plain
    ]
