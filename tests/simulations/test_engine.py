"""The engine: order, determinism, limits, and what a crash does to a host."""

from __future__ import annotations

import pytest

from dht.messages import Ping
from protocol import effects as fx
from protocol import events as ev
from simulations.clock import MILLISECOND, SECOND, StepLimitError
from simulations.host import Host
from tests.simulations.hashing import printed

from .toy import Do, Gossip, Lab


def gossip_digest(seed: int) -> str:
    lab = Lab(12, seed)
    for host in lab.engine.hosts:
        lab.engine.command(host, Gossip(50 * MILLISECOND))
    lab.engine.schedule.after(SECOND, lab.engine.crash, lab.host(3))
    lab.engine.schedule.after(2 * SECOND, lab.engine.start, lab.host(3), Gossip(70 * MILLISECOND))
    lab.run(5 * SECOND)
    assert lab.engine.events > 2000
    return lab.engine.digest


def test_one_seed_one_digest() -> None:
    assert gossip_digest(5) == gossip_digest(5)
    assert gossip_digest(5) != gossip_digest(6)


def test_digest_does_not_depend_on_the_hash_seed() -> None:
    program = "from tests.simulations.test_engine import gossip_digest; print(gossip_digest(5))"
    assert printed(program) == {gossip_digest(5) + "\n"}


def test_timers_are_replaced_and_cancelled() -> None:
    lab = Lab(1)
    lab.do(0, fx.SetTimer(("a",), SECOND), fx.SetTimer(("b",), SECOND), fx.SetTimer(("c",), 5 * SECOND))
    lab.do(0, fx.SetTimer(("a",), 2 * SECOND), fx.CancelTimer(("b",)), fx.SetTimer(("c",), SECOND // 2))
    lab.run(10 * SECOND)
    fired = [(now, event) for now, event in lab.toy(0).seen if isinstance(event, ev.TimerFired)]
    assert fired == [
        (SECOND // 2, ev.TimerFired(("c",), SECOND // 2)),
        (2 * SECOND, ev.TimerFired(("a",), 2 * SECOND)),
    ]
    assert not lab.host(0).timers


def test_a_cancelled_timer_can_be_set_again() -> None:
    lab = Lab(1)
    lab.do(0, fx.SetTimer(("a",), SECOND), fx.CancelTimer(("a",)), fx.SetTimer(("a",), 3 * SECOND))
    lab.run(10 * SECOND)
    assert lab.toy(0).events(ev.TimerFired) == [ev.TimerFired(("a",), 3 * SECOND)]


def test_a_deadline_pushed_on_for_ever_costs_one_entry() -> None:
    lab = Lab(1)
    for step in range(1000):
        lab.do(0, fx.SetTimer(("a",), SECOND + step))
    lab.run(SECOND // 2)
    assert len(lab.engine.schedule) == 1


def test_each_host_has_its_own_clock() -> None:
    lab = Lab(3)
    lab.do(2, fx.SetTimer(("a",), SECOND + 2000))
    lab.run(2 * SECOND)
    assert lab.toy(2).seen[-1] == (SECOND + 2000, ev.TimerFired(("a",), SECOND + 2000))


def test_store_then_stored() -> None:
    lab = Lab(1)
    lab.do(0, fx.Store("k", b"v"), fx.Store("k", b"w"), fx.Store("x", b"y"), fx.Store("x", None))
    lab.run(SECOND)
    assert lab.toy(0).events(ev.Stored) == [ev.Stored("k"), ev.Stored("k"), ev.Stored("x"), ev.Stored("x")]
    lab.engine.crash(lab.host(0))
    lab.engine.start(lab.host(0))
    assert lab.toy(0).restored == {"k": b"w"}
    assert lab.host(0).contact.incarnation == 1


def test_a_crash_keeps_a_prefix_of_unacknowledged_writes() -> None:
    kept = set()
    for seed in range(20):
        lab = Lab(1, seed)
        lab.do(0, *(fx.Store(str(number), b"v") for number in range(3)))
        lab.run(1)
        lab.engine.crash(lab.host(0))
        lab.engine.start(lab.host(0))
        lab.run(SECOND)
        assert not lab.toy(0).events(ev.Stored)
        kept.add("".join(lab.toy(0).restored))
    assert kept == {"", "0", "01", "012"}


def test_compute_returns_and_can_be_cancelled_and_dies_with_the_process() -> None:
    lab = Lab(1)
    lab.do(0, fx.Compute(1, "a"), fx.Compute(2, "b"), fx.CancelCompute(2))
    lab.run(SECOND)
    assert lab.toy(0).events(ev.ComputeDone) == [ev.ComputeDone(1, "a")]
    lab.do(0, fx.Compute(1, "c"))
    lab.run(MILLISECOND)
    lab.engine.crash(lab.host(0))
    lab.engine.start(lab.host(0), Do((fx.Compute(1, "d"),)))
    lab.run(SECOND)
    assert lab.toy(0).events(ev.ComputeDone) == [ev.ComputeDone(1, "d")]


def test_a_frozen_process_wakes_to_all_that_happened() -> None:
    lab = Lab(2)
    lab.send(0, 1)
    lab.run(SECOND)
    lab.engine.freeze(lab.host(1))
    lab.do(1, fx.CancelTimer(("never",)))
    lab.send(0, 1, (7, 8))
    lab.run(10 * SECOND)
    before = len(lab.toy(1).seen)
    lab.engine.thaw(lab.host(1))
    lab.run(SECOND)
    kinds = [type(event) for _, event in lab.toy(1).seen[before:]]
    assert kinds == [ev.Command, ev.Received, ev.Received]
    assert not lab.toy(0).events(ev.PeerDown)


def test_a_timer_cancelled_by_what_came_before_it_does_not_fire_on_thaw() -> None:
    lab = Lab(1)
    lab.do(0, fx.SetTimer(("a",), SECOND), fx.SetTimer(("b",), SECOND))
    lab.run(1)
    lab.engine.freeze(lab.host(0))
    lab.do(0, fx.CancelTimer(("a",)))
    lab.run(5 * SECOND)
    lab.engine.thaw(lab.host(0))
    lab.run(1)
    assert lab.toy(0).events(ev.TimerFired) == [ev.TimerFired(("b",), SECOND)]


def test_taps_and_hooks_see_what_goes_out() -> None:
    lab = Lab(2)
    tapped: list[tuple[int, int, object]] = []
    hooked: list[tuple[type, int]] = []
    lab.engine.tap(Ping, lambda now, host, effect: tapped.append((now, host.index, effect.message)))

    def hook(now: int, host: Host, event: ev.Event, effects: list[fx.Effect]) -> None:
        hooked.append((type(event), len(effects)))

    lab.engine.on_event.append(hook)
    lab.send(0, 1, (1, 2))
    lab.run(SECOND)
    assert tapped == [(0, 0, Ping(1)), (0, 0, Ping(2))]
    assert hooked[0] == (ev.Command, 2)


def test_a_run_away_is_stopped() -> None:
    lab = Lab(2)
    lab.engine.schedule.limit = 100
    lab.engine.command(lab.host(0), Gossip(1))
    with pytest.raises(StepLimitError, match="more than 100 steps"):
        lab.run(SECOND)
