"""Whole rings under virtual time: they close, stay closed, route to the closest and tell the truth about deaths."""

from __future__ import annotations

import pytest

from dht.config import MS, SECOND, RingConfig
from dht.messages import Goodbye, LeafProbe, Ping, Pong, Welcome
from protocol.effects import Penalize
from protocol.errors import Code
from protocol.events import LinkSample, PeerDown, Received, SendFailed
from protocol.ids import closeness
from protocol.messages import Contact, Routed
from protocol.streams import Stream
from tests.dht.harness import Host, Net, Parcel


def keys(count: int, seed: int = 5) -> list[bytes]:
    return [bytes(2) + Stream(seed, i).raw(14) for i in range(count)]


def routed_wrongly(net: Net, count: int = 60) -> int:
    """Keys of ``count`` that were not delivered exactly once, by the closest node."""
    wanted = keys(count)
    living = net.living()
    for host in living:
        host.up.delivered.clear()
    for i, key in enumerate(wanted):
        net.route(living[i % len(living)], key, Parcel(i))
    net.run(2 * SECOND)
    everywhere = [(key, host) for host in living for key, _, _ in host.up.delivered]
    return sum([host for k, host in everywhere if k == key] != [net.closest(key)] for key in wanted)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 24, 25, 26, 40])
def test_rings_of_all_sizes_close_and_route(count: int) -> None:
    net = Net(count, wire=True)
    net.grow(count)
    net.run_until(net.complete, 5 * SECOND)
    net.check()
    assert routed_wrongly(net) == 0
    assert not net.penalties
    assert all(len(host.up.ready_at) == 1 for host in net.living())


@pytest.mark.slow
def test_two_hundred_nodes_close_and_route_in_few_hops() -> None:
    net = Net(4)
    net.grow(200, 20 * MS)
    net.run_until(net.complete, 5 * SECOND)
    net.check()
    before = net.sent["Routed"]
    assert routed_wrongly(net, 200) == 0
    assert (net.sent["Routed"] - before) / 200 < 3


def test_all_at_once_through_one_seed() -> None:
    net = Net(2)
    for number in range(24):
        net.add(number, (0,) if number else ())
    net.run_until(net.complete, 10 * SECOND)
    assert routed_wrongly(net) == 0
    net.check()


def test_the_same_seed_gives_the_same_trace() -> None:
    def digest(seed: int) -> str:
        net = Net(seed)
        hosts = net.grow(12)
        net.crash(hosts[3], silent=True)
        net.loss = 0.05
        net.run(30 * SECOND)
        return net.digest()

    assert digest(1) == digest(1) != digest(2)


def test_a_message_is_offered_above_at_every_hop() -> None:
    net = Net(3)
    hosts = net.grow(60)
    net.run(5 * SECOND)
    key = keys(1)[0]
    origin = max(hosts, key=lambda host: closeness(key, host.me.id))
    net.route(origin, key, Parcel(1))
    net.run(SECOND)
    visited = [host for host in hosts if host.up.intercepted]
    assert origin in visited
    assert net.closest(key) in visited
    assert all(len(host.up.intercepted) == 1 for host in visited)


# ---- deaths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", [False, True])
def test_a_fifth_of_the_nodes_crash_at_once(silent: bool) -> None:
    net = Net(7)
    hosts = net.grow(40)
    net.run(10 * SECOND)
    gone = hosts[8:16]
    bereaved = [(host, victim) for host in hosts for victim in gone if victim.me.id in host.ring.view.leaves]
    for host in gone:
        net.crash(host, silent=silent)
    net.run_until(net.closed, (40 if silent else 2) * SECOND)
    net.run_until(net.complete, 120 * SECOND)
    net.check()
    assert routed_wrongly(net) <= (6 if silent else 0)
    assert routed_wrongly(net) == 0
    assert not any(host.ring.alive(victim.me.id) for host, victim in bereaved if host.running)


def test_silent_death_of_a_watched_peer_is_told_within_three_seconds_and_once() -> None:
    net = Net(8)
    hosts = net.grow(16)
    net.run(10 * SECOND)
    victim = hosts[5]
    for host in hosts:
        if host is not victim:
            host.ring.watch(victim.me.id, "tree", net.now)
            net.flush(host)
    net.run(5 * SECOND)
    net.crash(victim, silent=True)
    died = net.now
    net.run(10 * SECOND)
    for host in net.living():
        ((peer, why, silence, when),) = host.up.dead
        assert (peer, why) == (victim.me.id, "silent")
        assert when - died <= 3 * SECOND
        assert silence >= 2 * SECOND


def test_a_closed_link_is_death_at_once_and_an_idle_one_is_not() -> None:
    net = Net(9)
    one, other = net.grow(2)
    net.run(5 * SECOND)
    net.inject(one, PeerDown(other.me.id, "idle"))
    assert one.ring.alive(other.me.id)
    net.inject(one, PeerDown(other.me.id))
    assert [(peer, why) for peer, why, _, _ in one.up.dead] == [(other.me.id, "closed")]
    assert not one.ring.alive(other.me.id)
    assert one.ring.closest(other.me.id, 3) == [one.me]
    # It was a false alarm: any word brings it back.
    net.inject(one, Received(other.me.id, Pong(0)))
    assert one.ring.alive(other.me.id)
    assert one.ring.closest(other.me.id, 1) == [other.me]


def test_goodbye_is_forgotten_without_suspicion_and_not_looked_for() -> None:
    net = Net(10)
    hosts = net.grow(6)
    net.run(10 * SECOND)
    hosts[2].ring.leave(net.now)
    net.flush(hosts[2])
    net.run(300 * SECOND)
    others = [host for host in hosts if host is not hosts[2]]
    for host in others:
        assert [(peer, why) for peer, why, _, _ in host.up.dead] == [(hosts[2].me.id, "left")]
        assert hosts[2].me.id not in host.ring.view.leaves
    assert not hosts[2].ring.ready
    net.inject(hosts[2], Received(others[0].me.id, Ping(1)))
    net.run(SECOND)
    assert net.sent["Goodbye"] >= 6


def test_a_lagging_node_declares_nobody_dead() -> None:
    net = Net(11)
    hosts = net.grow(8)
    net.run(10 * SECOND)
    busy = hosts[3]
    for host in hosts:
        if host is not busy:
            busy.ring.watch(host.me.id, "tree", net.now)
    net.flush(busy)
    net.lag = lambda node: int(net.stream.uniform(0, 1500) * MS) if node == busy.me.id else 0
    net.run(120 * SECOND)
    assert busy.up.dead == []


def test_a_sleeper_joins_anew_and_blames_nobody() -> None:
    net = Net(12)
    hosts = net.grow(12)
    net.run(10 * SECOND)
    sleeper = hosts[4]
    for host in hosts:
        if host is not sleeper:
            host.ring.watch(sleeper.me.id, "tree", net.now)
            sleeper.ring.watch(host.me.id, "tree", net.now)
            net.flush(host)
    net.flush(sleeper)
    net.run(3 * SECOND)
    sleeper.frozen = True
    net.run(60 * SECOND)
    assert all(not host.ring.alive(sleeper.me.id) for host in hosts if host is not sleeper)
    net.thaw(sleeper)
    net.run(SECOND)
    assert sleeper.up.dead == []
    net.run_until(net.complete, 10 * SECOND)
    assert len(sleeper.up.ready_at) == 2
    assert all(host.ring.alive(sleeper.me.id) for host in hosts)
    net.check()


def test_loss_of_messages_kills_nobody_in_the_leaf_sets() -> None:
    net = Net(13)
    net.loss = 0.1
    net.grow(20, 200 * MS)
    net.run_until(net.complete, 200 * SECOND)
    net.run(300 * SECOND)
    assert sum(len(host.up.dead) for host in net.living()) <= 2
    assert net.closed()


# ---- restarts and partitions --------------------------------------------------------------------------------------


def test_a_restarted_node_replaces_its_former_life() -> None:
    net = Net(14)
    hosts = net.grow(20)
    net.run(10 * SECOND)
    net.crash(hosts[3])
    reborn = net.add(3, (0,), incarnation=2)
    net.run_until(net.complete, 5 * SECOND)
    for host in net.living():
        if host is not reborn:
            assert host.ring.contact(reborn.me.id) == reborn.me


def test_watchers_learn_of_a_restart_that_no_closed_link_announced() -> None:
    net = Net(15)
    hosts = net.grow(6)
    net.run(10 * SECOND)
    watcher, victim = hosts[1], hosts[3]
    watcher.ring.watch(victim.me.id, "tree", net.now)
    net.flush(watcher)
    net.crash(victim, silent=True)
    reborn = net.add(3, (0,), incarnation=2)
    net.run(SECOND)
    assert (victim.me.id, "closed") in [(peer, why) for peer, why, _, _ in watcher.up.dead]
    assert watcher.ring.alive(reborn.me.id)


def test_two_halves_of_a_partition_become_one_ring_again() -> None:
    net = Net(16)
    net.grow(30)
    net.run(10 * SECOND)
    net.side = lambda node: node[5] & 1
    net.run(180 * SECOND)
    for host in net.living():
        assert all(net.side(contact.id) == net.side(host.me.id) for contact in host.ring.view.leaves)
    net.side = None
    net.run_until(net.complete, 120 * SECOND)
    net.check()
    assert routed_wrongly(net) == 0


def test_a_seed_that_forgot_everyone_is_found_again() -> None:
    net = Net(17)
    hosts = net.grow(10)
    net.run(10 * SECOND)
    net.crash(hosts[0])
    net.add(0, (), incarnation=2)
    net.run_until(net.complete, 60 * SECOND)


# ---- lies and accidents -------------------------------------------------------------------------------------------


def two() -> tuple[Net, Host, Host]:
    net = Net(18)
    one, other = net.grow(2)
    net.run(10 * SECOND)
    return net, one, other


def test_nobody_speaks_for_another() -> None:
    net, one, other = two()
    stranger = net.contact(99)
    net.inject(one, Received(other.me.id, LeafProbe(stranger, ())))
    assert [(p.peer, p.code) for p in net.penalties if isinstance(p, Penalize)] == [(other.me.id, Code.UNAUTHORISED)]
    assert stranger.id not in one.ring.view.leaves
    net.inject(one, Received(other.me.id, Routed(one.me.id, stranger, 1, Parcel(1))))
    assert one.up.delivered == []


def test_hearsay_never_enters_the_leaf_set() -> None:
    net, one, other = two()
    invented = tuple(Contact(bytes(2) + Stream(3, i).raw(14), ("nowhere:1",), 1) for i in range(60))
    net.inject(one, Received(other.me.id, Welcome(invented)))
    assert [contact.id for contact in one.ring.view.leaves] == [other.me.id]
    net.run(30 * SECOND)
    assert [contact.id for contact in one.ring.view.leaves] == [other.me.id]
    net.check()


def test_a_message_ends_after_its_hops() -> None:
    net, one, other = two()
    limit = RingConfig.lan().max_hops
    net.inject(one, Received(other.me.id, Routed(other.me.id, other.me, limit, Parcel(1))))
    net.run(SECOND)
    assert other.up.delivered == []


def test_events_of_others_pass_through() -> None:
    net, one, other = two()
    assert not one.ring.handle(Received(other.me.id, Parcel(1)), net.now)
    assert not one.ring.handle(SendFailed(other.me.id, Parcel(1)), net.now)
    assert not one.ring.handle(LinkSample(other.me.id, 5 * MS), net.now)
    assert one.ring.handle(Received(other.me.id, Goodbye()), net.now)
    net.flush(one)
