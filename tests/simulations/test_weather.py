"""Who could have taken part: what is noted of hosts and network, and the kinds of weather that surround an id."""

from __future__ import annotations

from simulations.clock import SECOND
from simulations.host import State
from simulations.network import Noise, Pairs
from simulations.scenario import Applications, Faults, Nodes, Scenario
from simulations.world import CLOCK_ERRORS_NS, World


def world(seconds: float = 20.0, **faults: object) -> World:
    nodes, applications = Nodes(count=12, join_s=2.0), Applications(count=1, workers=6, rounds=3, submit_s=1.0)
    found = World(Scenario(nodes=nodes, applications=applications, faults=Faults(**faults)), 1)  # type: ignore[arg-type]
    found.populate()
    found.engine.schedule.run(int(seconds * SECOND))
    return found


def test_a_host_is_well_from_its_start_and_anew_from_each_return() -> None:
    found = world()
    host = found.members[3]
    assert found.weather.well_since(host) == 2 * SECOND * 3 // 12
    found.crash(host, power=False, keep_disk=True)
    assert found.weather.well_since(host) is None
    found.restart(host)
    assert found.weather.well_since(host) == found.engine.now
    found.freeze(host)
    assert found.weather.well_since(host) is None
    found.engine.schedule.run(found.engine.now + SECOND)
    found.thaw(host)
    assert found.weather.well_since(host) == found.engine.now
    found.slow(host, disk=1.0, compute=10.0)
    assert found.weather.well_since(host) is None


def test_the_network_is_calm_when_nothing_is_cut_and_nothing_lost() -> None:
    found = world()
    assert found.weather.calm_since() == 0
    pair = Pairs(frozenset([(1, 2)]))
    found.cut(pair)
    assert found.weather.calm_since() is None
    found.noise(Noise(loss=0.1))
    found.heal(pair)
    assert found.weather.calm_since() is None
    found.noise(None)
    assert found.weather.calm_since() == found.engine.now


def test_a_pair_beside_an_id_is_cut_from_the_beginning() -> None:
    found = world(cut_beside_id=True)
    near = [host.index for host in found.beside(found.submissions[0].app, 2)]
    (cut,) = found.engine.network.cuts
    assert cut.blocks(*near)
    assert found.submissions[0].attempt == 1


def test_clocks_beside_an_id_are_days_wrong_each_its_way() -> None:
    found = world(clocks_beside_id=True)
    near = sorted(host.index for host in found.beside(found.submissions[0].app, 2))
    assert sorted(found._clock_errors) == near
    assert {found._clock_errors[index] for index in near} == set(CLOCK_ERRORS_NS[:2])


def test_a_submitter_that_is_to_go_goes_when_its_descriptor_is_accepted() -> None:
    found = world(submitter_gone=True)
    spec = found.submissions[0].spec
    assert spec is not None
    home = found.engine.by_id[spec.home.id]
    assert home.state is State.OFF
    found.restart(home)
    assert home.state is State.OFF


def test_an_application_is_stopped_by_its_owner_everywhere() -> None:
    found = world(5.0)
    found.stop(0)
    found.engine.schedule.run(30 * SECOND)
    app = found.submissions[0].app
    assert [found.core(host).apps.outcome(app) for host in found.running()] == ["stopped"] * 12
