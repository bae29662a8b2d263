"""Whatever peers send, the ring neither raises nor outgrows its bounds."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect as types

from dht.config import SECOND
from protocol.events import LinkSample, PeerDown, PeerUp, Received, SendFailed
from protocol.messages import Contact, Routed
from tests.dht.harness import Host, Net, Parcel
from tests.protocol.instances import registered, strategy

RING_KINDS = [cls for cls in registered() if 16 <= cls.KIND < 48]
numbers = st.integers(0, 5)


def network() -> tuple[Net, list[Host]]:
    net = Net(1)
    hosts = net.grow(4)
    net.run(5 * SECOND)
    return net, hosts


def peers(net: Net) -> st.SearchStrategy[bytes]:
    return st.one_of(numbers.map(lambda n: net.contact(n).id), st.binary(min_size=16, max_size=16))


MESSAGES: st.SearchStrategy[Any] = st.one_of([strategy(types.type_info(cls)) for cls in RING_KINDS])


def contacts(net: Net) -> st.SearchStrategy[Contact]:
    return st.builds(
        Contact, peers(net), st.sampled_from([(), ("x:1",)]), st.one_of(st.integers(0, 3), st.just(1 << 62))
    )


@settings(max_examples=30)
@given(st.data())
def test_no_sequence_of_events_harms_a_node(data: st.DataObject) -> None:
    net, hosts = network()
    target = hosts[1]
    for _ in range(data.draw(st.integers(1, 20))):
        peer = data.draw(peers(net))
        message = data.draw(st.one_of(MESSAGES, st.just(Parcel(1))))
        if data.draw(st.booleans()):
            key = data.draw(peers(net))
            message = Routed(key, data.draw(contacts(net)), data.draw(st.integers(0, 64)), message)
        event = data.draw(
            st.sampled_from(
                [
                    Received(peer, message),
                    SendFailed(peer, message),
                    PeerDown(peer, data.draw(st.sampled_from(["closed", "idle", "revoked"]))),
                    PeerUp(peer),
                    LinkSample(peer, data.draw(st.integers(-1, 10**9))),
                ]
            )
        )
        if peer != target.me.id:
            net.inject(target, event)
        net.run(data.draw(st.sampled_from([0, SECOND // 10, 5 * SECOND])))
        target.ring.check_invariants()
    net.run(30 * SECOND)
    net.check()
