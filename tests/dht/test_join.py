"""Joining: retries, cold starts, what is held until ready, and that nobody forks."""

from __future__ import annotations

from dht.config import MS, SECOND, RingConfig
from dht.messages import JoinRing, LeafReply, RowShare, Welcome
from protocol.events import Received
from protocol.messages import Routed
from tests.dht.harness import Net, Parcel


def test_the_first_node_is_ready_at_once() -> None:
    net = Net(1)
    host = net.add(0)
    assert host.ring.ready
    assert host.up.ready_at == [net.now]


def test_a_join_takes_less_than_a_second() -> None:
    net = Net(2)
    net.grow(15)
    start = net.now
    host = net.add(15, (0,))
    net.run(SECOND)
    assert host.up.ready_at
    assert host.up.ready_at[0] - start < SECOND


def test_who_reaches_no_seed_waits_for_ever_and_never_forks() -> None:
    net = Net(3)
    host = net.add(0, (1, 2))
    net.run(600 * SECOND)
    assert not host.ring.ready
    asked = net.sent["Routed"]
    assert 40 < asked < 600 * 2
    net.add(1)
    net.run_until(net.complete, 2 * RingConfig.lan().join_retry_max)


def test_an_unreachable_seed_costs_no_time_when_it_is_refused() -> None:
    net = Net(4)
    net.add(9)
    start = net.now
    host = net.add(0, (1, 2, 3, 4, 9))
    net.run_until(lambda: host.ring.ready, 5 * SECOND)
    assert host.up.ready_at[0] - start < SECOND


def test_a_fabric_restarted_as_a_whole_makes_one_ring() -> None:
    net = Net(5)
    for number in range(16):
        net.add(number, ((number + 1) % 16, (number + 5) % 16))
        net.run(20 * MS)
    net.run_until(net.complete, 20 * SECOND)
    assert not any(host.up.ready_at[1:] for host in net.living())


def test_a_cold_start_with_one_common_seed_among_the_joiners() -> None:
    net = Net(6)
    for number in range(10):
        net.add(number, (0, 3) if number else (3,))
    net.run_until(net.complete, 20 * SECOND)


def test_rings_that_started_apart_merge() -> None:
    net = Net(7)
    net.add(0)
    net.add(1)
    for number in range(2, 12):
        net.add(number, (number % 2,))
    net.run(10 * SECOND)
    assert not net.closed()
    # One node that knows of both is enough.
    net.add(20, (0, 1))
    net.run_until(net.complete, 1200 * SECOND)


def test_messages_for_a_joiner_wait_until_it_is_ready() -> None:
    net = Net(8)
    host = net.add(0, (1,))
    assert not host.ring.ready
    net.route(host, host.me.id, Parcel(1))
    for number in range(40):
        net.route(host, host.me.id, Parcel(number))
    assert host.up.delivered == []
    net.add(1)
    net.run(5 * SECOND)
    assert [m for _, _, m in host.up.delivered] == [Parcel(n) for n in range(8, 40)]


def test_what_was_held_too_long_is_dropped() -> None:
    net = Net(9)
    host = net.add(0, (1,))
    net.route(host, host.me.id, Parcel(1))
    net.run(60 * SECOND)
    net.add(1)
    net.run_until(lambda: host.ring.ready, 30 * SECOND)
    net.run(SECOND)
    assert host.up.delivered == []


def test_a_joiner_tells_another_that_it_is_one_too() -> None:
    net = Net(10)
    host = net.add(0, (1,))
    other = net.contact(2)
    net.sent.clear()
    net.inject(host, Received(other.id, Routed(other.id, other, 1, JoinRing(other))))
    assert net.sent == {"JoinRing": 1}


def test_a_fellow_that_fell_silent_holds_nobody_up() -> None:
    net = Net(13)
    numbers = sorted(range(4), key=lambda number: net.contact(number).id)
    hosts = [net.add(number, tuple(n for n in numbers if n != number)) for number in numbers]
    net.run(100 * MS)
    net.crash(hosts[0], silent=True)
    net.run_until(lambda: all(host.ring.ready for host in hosts[1:]), 120 * SECOND)
    net.run_until(net.complete, 60 * SECOND)


def test_requests_that_contradict_themselves_are_dropped() -> None:
    net = Net(11)
    host = net.add(0)
    other, third = net.contact(1), net.contact(2)
    net.sent.clear()
    net.inject(host, Received(other.id, Routed(third.id, other, 1, JoinRing(other))))
    net.inject(host, Received(other.id, JoinRing(third)))
    net.inject(host, Received(other.id, Routed(host.me.id, other, 1, JoinRing(host.me))))
    assert net.sent == {}


def test_a_welcome_to_who_has_left_or_not_begun_changes_nothing() -> None:
    net = Net(12)
    host, other = net.grow(2)
    host.ring.leave(net.now)
    net.flush(host)
    before = len(host.ring.view.table)
    for message in (Welcome((net.contact(5),)), RowShare((net.contact(6),)), LeafReply(other.me, (net.contact(7),))):
        net.inject(host, Received(other.me.id, message))
    assert len(host.ring.view.table) == before
    assert not host.ring.ready


def test_neighbours_that_start_again_together_do_not_wait_for_each_other() -> None:
    net = Net(7)
    hosts = net.grow(12)
    net.run(30 * SECOND)
    ring = sorted(range(12), key=lambda number: hosts[number].me.id)
    for number in ring[4:6]:
        net.crash(hosts[number], silent=True)
    again = [net.add(number, tuple(ring[8:11]), incarnation=2) for number in ring[4:6]]
    net.run_until(lambda: all(host.ring.ready for host in again), 30 * SECOND)
    net.run(30 * SECOND)
    assert net.closed()
