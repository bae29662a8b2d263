"""Leaf members: two gateways, everything routed through the active one, never in anybody's table."""

from __future__ import annotations

from dht.config import SECOND
from dht.messages import LeafProbe, Pong
from protocol.events import Received
from protocol.ids import NodeId
from tests.dht.harness import Host, Net, Parcel, record


def attached(seed: int = 1, members: int = 8) -> tuple[Net, list[Host], Host]:
    net = Net(seed)
    hosts = net.grow(members)
    leaf = net.add(50, (0, 1), dialable=False)
    net.run(10 * SECOND)
    return net, hosts, leaf


def gateways(leaf: Host) -> list[NodeId]:
    return leaf.ring.view.liveness.monitored


def test_it_attaches_to_two_and_is_in_no_table() -> None:
    net, hosts, leaf = attached()
    assert leaf.ring.ready
    assert len(leaf.up.ready_at) == 1
    assert len(gateways(leaf)) == 2
    for host in hosts:
        assert leaf.me.id not in [c.id for c in (*host.ring.view.leaves, *host.ring.view.table.entries())]
    net.check()


def test_it_owns_nothing_and_routes_everything() -> None:
    net, _hosts, leaf = attached()
    key = leaf.me.id
    assert not leaf.ring.is_closest(key)
    assert leaf.me not in leaf.ring.closest(key, 5)
    net.route(leaf, key, Parcel(7))
    net.run(SECOND)
    assert [m for _, _, m in net.closest(key).up.delivered] == [Parcel(7)]
    assert leaf.up.intercepted == [(key, Parcel(7))]
    assert leaf.up.delivered == []


def test_the_standby_takes_over_and_another_is_found() -> None:
    net, _hosts, leaf = attached()
    for _ in range(3):
        active = leaf.ring.view.uplink
        assert active is not None
        net.crash(net.hosts[active.id])
        net.run(SECOND)
        assert leaf.ring.ready
        assert leaf.ring.view.uplink not in (None, active)
        net.run(60 * SECOND)
        assert len(gateways(leaf)) == 2
    assert len(leaf.up.ready_at) == 1


def test_a_silent_gateway_is_found_out() -> None:
    net, _hosts, leaf = attached()
    active = leaf.ring.view.uplink
    assert active is not None
    net.crash(net.hosts[active.id], silent=True)
    net.run(20 * SECOND)
    assert leaf.ring.view.uplink not in (None, active)


def test_without_any_gateway_it_is_not_ready_and_comes_back() -> None:
    net, hosts, leaf = attached(members=2)
    for host in hosts:
        net.crash(host)
    net.run(5 * SECOND)
    assert not leaf.ring.ready
    net.route(leaf, leaf.me.id, Parcel(1))
    net.add(0, (), incarnation=2)
    net.run(30 * SECOND)
    assert leaf.ring.ready
    assert len(leaf.up.ready_at) == 2


def test_it_finds_replicas_through_its_gateway() -> None:
    net, _hosts, leaf = attached()
    key = bytes(2) + b"k" * 14
    leaf.ring.find_replicas(5, key, 3, net.now)
    net.flush(leaf)
    net.run(2 * SECOND)
    assert leaf.up.replicas == [(5, tuple(net.closest(key).ring.closest(key, 3)))]


def test_it_gets_and_gives_records() -> None:
    net, hosts, leaf = attached()
    one, other = record(b"a" * 16), record(b"b" * 16)
    hosts[3].ring.publish(one, net.now)
    net.flush(hosts[3])
    leaf.ring.publish(other, net.now)
    net.flush(leaf)
    net.run(60 * SECOND)
    for host in (*hosts, leaf):
        assert set(host.ring.records) == {one, other}


def test_a_member_that_is_joining_is_no_gateway() -> None:
    net = Net(3)
    joining = net.add(0, (1,))
    leaf = net.contact(50, dialable=False)
    net.sent.clear()
    net.inject(joining, Received(leaf.id, LeafProbe(leaf, ())))
    assert "LeafReply" not in net.sent


def test_a_gateway_that_was_only_asleep_comes_back_into_the_address_book_alone() -> None:
    net, _hosts, leaf = attached()
    gateway = leaf.ring.view.uplink
    assert gateway is not None
    sleeper = net.hosts[gateway.id]
    sleeper.frozen = True
    net.run(30 * SECOND)
    net.thaw(sleeper)
    net.inject(leaf, Received(gateway.id, Pong(1)))
    assert len(leaf.ring.view.leaves) == 0
    assert leaf.ring.contact(gateway.id) is not None
    net.check()
