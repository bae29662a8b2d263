"""Routing: verdicts from above, alternates, what happens when a hop fails, lazy repair."""

from __future__ import annotations

from dht.config import MS, SECOND
from dht.messages import RowShare
from dht.ports import Verdict
from protocol.effects import Send
from protocol.events import Received, SendFailed
from protocol.ids import closeness, shared_prefix
from protocol.messages import Contact, Routed
from protocol.streams import Stream
from tests.dht.harness import Host, Net, Parcel


def grown(count: int = 60, seed: int = 1) -> tuple[Net, list[Host]]:
    net = Net(seed)
    hosts = net.grow(count)
    net.run(5 * SECOND)
    return net, hosts


def farthest(net: Net, hosts: list[Host], key: bytes) -> Host:
    return max(hosts, key=lambda host: closeness(key, host.me.id))


KEY = bytes(2) + b"q" * 14


def sends(host: Host) -> list[Send]:
    return [effect for effect in host.out.drain() if isinstance(effect, Send)]


def test_a_consumed_message_goes_no_further_and_what_it_says_of_its_origin_is_not_believed() -> None:
    net, hosts = grown()
    owner = net.closest(KEY)
    origin = farthest(net, hosts, KEY)
    for host in hosts:
        if host is not origin:
            host.up.verdict = lambda key, message: Verdict.CONSUME
    net.route(origin, KEY, Parcel(1))
    net.run(SECOND)
    consumers = [host for host in hosts if host is not origin and host.up.intercepted]
    assert len(consumers) == 1
    assert owner.up.delivered == []
    assert consumers[0].ring.contact(origin.me.id) is None


def test_a_redirected_message_goes_where_it_was_sent() -> None:
    net, hosts = grown(8)
    origin, target = hosts[0], hosts[5]
    origin.up.verdict = lambda key, message: target.me.id
    target.up.verdict = lambda key, message: target.me.id
    net.route(origin, origin.me.id, Parcel(1))
    net.run(SECOND)
    assert [(relay, m) for _, relay, m in target.up.delivered] == [(origin.me.id, Parcel(1))]


def test_a_redirection_to_the_dead_falls_back_to_the_ring() -> None:
    net, hosts = grown(8)
    net.crash(hosts[5])
    net.run(SECOND)
    hosts[0].up.verdict = lambda key, message: hosts[5].me.id
    net.route(hosts[0], hosts[0].me.id, Parcel(1))
    assert len(hosts[0].up.delivered) == 1


def test_every_hop_gains_a_digit_or_distance() -> None:
    net, hosts = grown()
    for host in hosts:
        for i in range(20):
            key = bytes(2) + Stream(9, i).raw(14)
            net.route(host, key, Parcel(i))
            hop = host.ring.closest(key, 1)[0]
            best = closeness(key, hop.id) <= closeness(key, host.me.id)
            assert best or shared_prefix(hop.id, key) > shared_prefix(host.me.id, key)


def test_a_failed_hop_is_suspected_and_the_next_alternative_tried() -> None:
    net, hosts = grown()
    origin = farthest(net, hosts, KEY)
    origin.ring.route(KEY, Parcel(1), net.now)
    tried: list[bytes] = []
    for _ in range(10):
        (send,) = [effect for effect in sends(origin) if isinstance(effect.message, Routed)]
        assert isinstance(send.message, Routed)
        assert send.message.hops == 1
        assert send.peer not in tried
        tried.append(send.peer)
        assert origin.ring.handle(SendFailed(send.peer, send.message), net.now)
        assert not origin.ring.alive(send.peer)
    assert len(origin.up.intercepted) == 1


def test_when_every_alternative_fails_the_message_ends_here() -> None:
    net = Net(3)
    one, other = net.grow(2)
    net.run(SECOND)
    one.ring.route(other.me.id, Parcel(1), net.now)
    (send,) = [effect for effect in sends(one) if isinstance(effect.message, Routed)]
    one.ring.handle(SendFailed(send.peer, send.message), net.now)
    assert [m for _, _, m in one.up.delivered] == [Parcel(1)]


def test_who_sent_to_us_for_want_of_an_entry_is_given_ours() -> None:
    net, hosts = grown(100)
    for host in hosts:
        for entry in list(host.ring.view.table.entries()):
            # Somebody who shares no digit with us asks us for a key in this entry's slot.
            other = next(h for h in hosts if shared_prefix(h.me.id, entry.id) == 0 and h is not host)
            if shared_prefix(host.me.id, entry.id) != 0:
                continue
            net.now += 2 * SECOND
            sends(host)
            message = Routed(entry.id, other.me, 1, Parcel(1))
            host.ring.handle(Received(other.me.id, message), net.now)
            (share,) = [s for s in sends(host) if isinstance(s.message, RowShare)]
            assert share.peer == other.me.id
            assert isinstance(share.message, RowShare)
            assert entry in share.message.contacts
            return
    raise AssertionError("no node has an entry in its first row")


def test_is_closest_agrees_with_the_ring() -> None:
    net, hosts = grown(30)
    for i in range(50):
        key = bytes(2) + Stream(4, i).raw(14)
        assert [host for host in hosts if host.ring.is_closest(key)] == [net.closest(key)]


def test_a_round_trip_decides_who_holds_a_slot() -> None:
    _, hosts = grown(100)
    host = hosts[0]
    table = host.ring.view.table
    entry = next(iter(table.entries()))
    row = shared_prefix(host.me.id, entry.id)
    rival = next(
        h.me for h in hosts if h.me != entry and shared_prefix(h.me.id, entry.id) > row and h.me.id != host.me.id
    )
    host.ring.learn(rival)
    host.ring._sample(entry.id, 9 * MS)
    host.ring._sample(rival.id, 8 * MS)
    assert table.get(entry.id) == entry
    host.ring._sample(rival.id, 2 * MS)
    assert table.get(rival.id) == rival
    assert table.get(entry.id) is None
    host.ring._sample(Contact(b"u" * 16).id, 1)
    host.ring.check_invariants()
