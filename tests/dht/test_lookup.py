"""Replica searches: the owner's answer, repetition, giving up, bounds."""

from __future__ import annotations

from collections.abc import Callable

from dht.config import SECOND
from dht.lookup import Lookup
from dht.messages import FindReplicas, Replicas
from protocol.events import Received
from protocol.ids import closeness
from protocol.messages import Contact, Routed
from protocol.streams import Stream
from tests.dht.harness import Host, Net

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
    hosts = net.grow(40)
    net.run(5 * SECOND)
    asker, other = far_from(KEY, hosts), hosts[3]
    asker.ring.find_replicas(7, KEY, 3, net.now)
    for token in range(10_000):
        net.inject(asker, Received(other.me.id, Replicas(token, (net.contact(99),))))
    assert asker.up.replicas == []
    assert asker.ring.contact(net.contact(99).id) is None
    net.flush(asker)
    net.run(SECOND)
    assert asker.up.replicas == [(7, nearest(KEY, hosts, 3))]


def far_from(key: bytes, hosts: list[Host]) -> Host:
    return max(hosts, key=lambda host: closeness(key, host.me.id))


def nearest(key: bytes, hosts: list[Host], count: int) -> tuple[Contact, ...]:
    return tuple(sorted((host.me for host in hosts), key=lambda contact: closeness(key, contact.id))[:count])


def lie(net: Net, hosts: list[Host], liars: list[Host], contacts: tuple[Contact, ...]) -> None:
    """Whatever search passes one of ``liars`` is answered with ``contacts`` at once."""

    def answer(host: Host) -> Callable[[Lookup, Routed, int], None]:
        def on_request(self: Lookup, routed: Routed, now: int) -> None:
            assert isinstance(routed.message, FindReplicas)
            self._view.learn(routed.origin)
            self._view.out.send(routed.origin.id, Replicas(routed.message.token, contacts))

        return on_request

    class Liar(Lookup):
        __slots__ = ()

    for host in liars:
        setattr(Liar, "on_request", answer(host))  # noqa: B010 - a method that is a lie
        host.ring._lookup.__class__ = Liar


def test_a_liar_on_one_route_changes_nothing() -> None:
    net = Net(6)
    hosts = net.grow(60)
    net.run(5 * SECOND)
    asker = far_from(KEY, hosts)
    hop = asker.ring._router.next_hop(KEY)
    assert hop is not None
    # Routes meet beside the key: let the liar be somebody through whom no other route goes.
    for host in hosts:
        if host is not asker and host.me.id != hop.id:
            host.ring.view.liveness.suspect(hop.id, net.now)
            host.ring.view.table.remove(hop.id)
    made_up = tuple(Contact(KEY[:-1] + bytes([n]), (f"nowhere-{n}:1",), 1) for n in range(5))
    lie(net, hosts, [net.hosts[hop.id]], (*made_up, hosts[0].me))
    asker.ring.find_replicas(1, KEY, 5, net.now)
    net.flush(asker)
    net.run(20 * SECOND)
    assert asker.up.replicas == [(1, nearest(KEY, hosts, 5))]


def test_liars_on_all_routes_cannot_put_far_accomplices_in_the_place_of_near_nodes() -> None:
    net = Net(7)
    hosts = net.grow(120)
    net.run(5 * SECOND)
    asker = far_from(KEY, hosts)
    assert asker.ring.view.leaves.spacing
    far = tuple(host.me for host in sorted(hosts, key=lambda host: closeness(KEY, host.me.id))[50:55])
    lie(net, hosts, [host for host in hosts if host is not asker], far)
    asker.ring.find_replicas(1, KEY, 5, net.now)
    net.flush(asker)
    net.run(30 * SECOND)
    assert asker.up.replicas == [(1, ())], "better nobody than somebody's accomplices"
    assert asker.ring._lookup.refused == 1


def test_nodes_that_crowd_round_a_key_are_not_believed_and_honest_ones_are() -> None:
    net = Net(8)
    hosts = net.grow(120)
    net.run(5 * SECOND)
    lookup = hosts[0].ring._lookup
    crowd = [Contact(KEY[:10] + bytes([n]) * 6, ("x:1",)) for n in range(5)]
    assert not lookup._plausible(KEY, crowd, 5)
    for number in range(200):
        key = net.contact(1000 + number).id
        assert lookup._plausible(key, list(nearest(key, hosts, 5)), 5), "an honest answer is never refused"


def test_tokens_tell_nothing_of_one_another() -> None:
    stream = Stream(1, "x")
    tokens = [stream.token() for _ in range(1000)]
    assert len(set(tokens)) == 1000
    assert all(0 <= token < 1 << 63 for token in tokens)
    assert tokens[0] != Stream(1, "x").bits() >> 1


def test_a_leaf_member_cannot_push_out_the_searches_of_others() -> None:
    net = Net(5)
    one, *_ = net.grow(3)
    net.run(SECOND)
    net.loss = 1.0
    one.ring.find_replicas(5, KEY, 3, net.now)
    for number in range(50):
        leaf = net.contact(100 + number, dialable=False)
        for token in range(10):
            net.inject(one, Received(leaf.id, Routed(KEY, leaf, 1, FindReplicas(token, 3))))
    assert len(one.ring._lookup._searches) <= 33
    net.loss = 0.0
    net.run(5 * SECOND)
    assert [token for token, _ in one.up.replicas] == [5]


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
