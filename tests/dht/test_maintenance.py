"""Upkeep: what it costs when nothing happens, and that it finds what nobody uses."""

from __future__ import annotations

import dataclasses

from dht.config import SECOND, RingConfig
from tests.dht.harness import Net

DAY = 86_400
WIRE_OVERHEAD = 135
"""Bytes that HTTP/2, TLS, TCP and IP add to a small message, acknowledgements included."""


def test_an_idle_node_with_24_peers_stays_within_its_budget() -> None:
    net = Net(1, wire=True)
    net.grow(25)
    net.run(300 * SECOND)
    net.bytes = 0
    net.sent.clear()
    seconds = 900
    net.run(seconds * SECOND)
    total = net.bytes + sum(net.sent.values()) * WIRE_OVERHEAD
    in_and_out = 2 * total / 25 * DAY / seconds
    assert in_and_out < 16e6


def test_watching_costs_one_exchange_a_second_and_link() -> None:
    net = Net(2)
    one, other = net.grow(2)
    net.run(10 * SECOND)
    one.ring.watch(other.me.id, "tree", net.now)
    other.ring.watch(one.me.id, "tree", net.now)
    net.flush(one)
    net.flush(other)
    net.sent.clear()
    net.run(100 * SECOND)
    assert 90 <= net.sent["Ping"] <= 115


def test_an_unused_leaf_that_died_silently_is_found_by_its_neighbours_and_told_to_all() -> None:
    net = Net(3)
    hosts = net.grow(30)
    net.run(20 * SECOND)
    victim = hosts[11]
    net.crash(victim, silent=True)
    net.run_until(net.complete, 30 * SECOND)
    assert all(victim.me.id not in host.ring.view.leaves for host in net.living())


def test_the_table_of_an_early_node_fills_by_refreshing() -> None:
    net = Net(4)
    hosts = net.grow(40)
    net.run(60 * SECOND)
    early = len(hosts[3].ring.view.table)
    net.run(2400 * SECOND)
    assert len(hosts[3].ring.view.table) >= early
    measured = [c for c in hosts[3].ring.view.table.entries() if hosts[3].ring.view.table.rtt(c.id)]
    assert len(measured) > len(hosts[3].ring.view.table) // 2


def test_the_dead_are_looked_for_less_and_less_and_then_forgotten() -> None:
    config = dataclasses.replace(RingConfig.lan(), ghost_life=600 * SECOND)
    net = Net(5, config)
    hosts = net.grow(6)
    net.run(10 * SECOND)
    net.crash(hosts[2])
    net.run(SECOND)
    assert all(len(host.ring.view.ghosts) == 1 for host in net.living())
    net.run(700 * SECOND)
    assert all(len(host.ring.view.ghosts) == 0 for host in net.living())
    net.sent.clear()
    net.run(100 * SECOND)
    assert net.sent.get("Routed", 0) < 10
