"""Nodes that lie: that they do, in every way, with nothing but what they know; and who is asked to answer for it."""

from __future__ import annotations

import msgspec
import pytest

from protocol.effects import Penalize
from protocol.errors import Code
from simulations.checkers import Blame, Report
from simulations.checkers.blame import OFTEN
from simulations.clock import SECOND
from simulations.liars import FORGERIES, KINDS, LIES, PROVABLE, Liar, name_of
from simulations.scenario import Applications, Compute, Faults, Nodes, Scenario
from simulations.world import World

SMALL = Scenario(
    nodes=Nodes(count=24, join_s=3.0),
    compute=Compute(train_s=0.5, straggler_share=0.0),
    applications=Applications(count=2, rounds=40, workers=16, fan_out=2),
    faults=Faults(liars=0.25, duration_s=60.0),
)


def world(seconds: float, seed: int = 1) -> World:
    """Every message goes through the codec: a lie is well-formed, or it would be no trouble."""
    found = World(SMALL, seed, check_wire=True)
    found.populate()
    found.engine.schedule.run(int(seconds * SECOND))
    return found


@pytest.fixture(scope="module")
def lied() -> World:
    return world(60.0)


def liars(found: World) -> list[Liar]:
    cores = [host.core for host in found.members if host.id in found.liars]
    assert all(isinstance(core, Liar) for core in cores)
    return [core for core in cores if isinstance(core, Liar)]


def test_a_share_of_the_nodes_lies_in_every_way(lied: World) -> None:
    cores = liars(lied)
    assert len(cores) == 6
    told = {lie for core in cores for lie in core.told}
    assert told >= {name_of(lie) for lie in LIES}
    assert told & {name_of(forge) for forge in FORGERIES}


def test_nobody_else_is_changed(lied: World) -> None:
    honest = [host.core for host in lied.members if host.id not in lied.liars]
    assert not any(isinstance(core, Liar) for core in honest)


def test_lies_are_drawn_from_the_seed() -> None:
    assert world(15.0).engine.digest == world(15.0).engine.digest
    assert world(15.0).engine.digest != world(15.0, seed=2).engine.digest


def test_honest_cores_keep_their_invariants(lied: World) -> None:
    for host in lied.running():
        if host.id not in lied.liars:
            lied.core(host).check_invariants()


class Bench:
    """The checker of blame, and who is blamed by whom."""

    def __init__(self) -> None:
        self.world = world(1.0)
        self.report = Report(frozenset())
        self.checker = Blame(self.world, self.report)
        self.liars = [host for host in self.world.members if host.id in self.world.liars]
        self.honest = [host for host in self.world.members if host.id not in self.world.liars]

    def blames(self, host: int, peer: bytes, *, honest: bool = True, why: str = "") -> None:
        source = (self.honest if honest else self.liars)[host]
        for tap in self.world.engine.taps[Penalize]:
            tap(0, source, Penalize(peer, Code.OVERLAP, why))

    def tells(self, lie: str, times: int) -> None:
        """All liars tell ``lie`` to the first honest node."""
        for host in self.liars:
            core = host.core or self.world._core(host)
            assert isinstance(core, Liar)
            host.core = core
            core.told[lie] = {self.honest[0].id: times}

    @property
    def rules(self) -> list[str]:
        return [violation.rule for violation in self.report.violations]


def test_an_honest_node_that_is_blamed_is_a_violation() -> None:
    bench = Bench()
    bench.blames(0, bench.liars[0].id)
    bench.blames(0, bench.honest[1].id, honest=False)
    assert bench.rules == []
    bench.blames(0, bench.honest[1].id)
    bench.blames(2, bench.honest[1].id)
    assert bench.rules == ["nobody-blamed"]


def test_a_liar_that_nobody_punishes_is_a_violation() -> None:
    bench = Bench()
    bench.tells("stale", 100)
    for host in bench.liars[1:]:
        bench.blames(0, host.id)
    bench.checker.finish(0)
    assert bench.rules == ["liars-punished"]
    bench.blames(0, bench.liars[0].id)
    bench.checker.finish(0)
    assert bench.rules == ["liars-punished"]


def test_liars_that_do_not_lie_show_nothing() -> None:
    bench = Bench()
    bench.tells("stale", 0)
    for host in bench.liars:
        assert isinstance(host.core, Liar)
        host.core.told.clear()
    bench.checker.finish(0)
    assert bench.rules == ["lies-told"]


@pytest.mark.parametrize("lie", PROVABLE)
def test_a_lie_that_can_be_proven_is_punished_as_such(lie: str) -> None:
    """To be punished for another is not enough."""
    bench = Bench()
    bench.tells(lie, OFTEN)
    for host in bench.liars:
        bench.blames(0, host.id, why="something else")
    bench.checker.finish(0)
    assert bench.rules == ["lies-blamed"] * len(bench.liars)
    for host in bench.liars:
        bench.blames(0, host.id, why=PROVABLE[lie][0])
    bench.checker.finish(0)
    assert bench.rules == ["lies-blamed"] * len(bench.liars)


def test_every_lie_that_can_be_proven_is_one_that_is_told() -> None:
    assert PROVABLE.keys() <= set(KINDS)


def test_a_world_without_liars_asks_for_no_punishment() -> None:
    calm = World(msgspec.structs.replace(SMALL, faults=Faults()), 1)
    calm.populate()
    report = Report(frozenset())
    Blame(calm, report).finish(0)
    assert not calm.liars
    assert not report.total
