"""Replica searches: the owner's answer, repetition, giving up, bounds."""

from __future__ import annotations

from dht.config import SECOND
from dht.messages import FindReplicas, Replicas
from protocol.events import Received
from protocol.ids import closeness
from protocol.messages import Routed
from tests.dht.harness import Net

KEY = bytes(2) + b"k" * 14


def test_the_owner_names_the_closest() -> None:
    net = Net(1)
    hosts = net.grow(40)
    net.run(5 * SECOND)
    true = sorted((host.me for host in hosts), key=lambda contact: closeness(KEY, contact.id))[:5]
    for host in hosts[::7]:
        host.ring.find_replicas(3, KEY, 5, net.now)
        net.flush(host)
        net.run(SECOND)
        assert host.up.replicas == [(3, tuple(true))]
        assert all(host.ring.contact(contact.id) == contact for contact in true)


def test_a_lost_search_is_repeated_and_answered_once() -> None:
    net = Net(2)
    hosts = net.grow(20)
    net.run(5 * SECOND)
    asker = max(hosts, key=lambda host: closeness(KEY, host.me.id))
    net.loss = 1.0
    asker.ring.find_replicas(1, KEY, 3, net.now)
    net.flush(asker)
    net.loss = 0.0
    net.run(3 * SECOND)
    assert [token for token, _ in asker.up.replicas] == [1]
    assert len(asker.up.replicas[0][1]) == 3


def test_a_search_that_nobody_answers_ends_with_nobody() -> None:
    net = Net(3)
    host = net.add(0, (1,))
    host.ring.find_replicas(1, KEY, 3, net.now)
    net.flush(host)
    net.run(20 * SECOND)
    assert host.up.replicas == [(1, ())]


def test_answers_that_were_not_asked_for_are_nothing() -> None:
    net = Net(4)
    one, other = net.grow(2)
    net.inject(one, Received(other.me.id, Replicas(77, (net.contact(9),))))
    assert one.up.replicas == []
    assert one.ring.contact(net.contact(9).id) is None


def test_searches_are_bounded_in_number_and_size() -> None:
    net = Net(5)
    one, other = net.grow(2)
    net.run(SECOND)
    leaf = net.contact(50, dialable=False)
    for token in range(1000):
        net.inject(one, Received(leaf.id, Routed(other.me.id, leaf, 1, FindReplicas(token, 1 << 40))))
    net.run(10 * SECOND)
    one.ring.check_invariants()
    assert one.up.replicas == []
