"""A node among liars: whatever they send, in whatever order, nothing escapes from the core.

A small node with a running application (it is root, voter and worker of it) is fed random legal messages about ids that
it knows, from authenticated peers, mixed with its own timers, stores and results.  After each step: no exception, all
invariants hold, everything that it wants to send can be sent, and one event causes a bounded number of effects.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from dht.messages import Goodbye, RowShare
from dht.records import Kind, sign_record
from fl import spec as specs
from fl.notices import Bind, Publish, Start, Trust
from node.core import CoreConfig, NodeCore
from protocol import events as ev
from protocol import wire
from protocol.ids import ring_id
from protocol.messages import Contact, Message, Routed, Value
from pubsub.heads import Head
from pubsub.messages import TreeJoin, WaveId
from simulations.signing import KeyedHashSigner, KeyedHashVerifier
from tests.node.lab import Lab
from tests.protocol.instances import messages

SIGNER = KeyedHashSigner(1, "me")
ME = Contact(ring_id(0, SIGNER.public_key), ("me:1",), 1)
PEERS = [Contact(ring_id(0, b"peer %d" % n), (f"peer:{n}",), 1) for n in range(3)]
SPEC = specs.AppSpec("app", SIGNER.public_key, b"salt", 0, (ME,), 1000, Value(1, b"0"), ME, "data")
IDS = [ME.id, *(peer.id for peer in PEERS), SPEC.id, bytes(16)]

hostile = messages(IDS)
routed = st.builds(Routed, st.sampled_from(IDS), st.sampled_from([ME, *PEERS]), st.integers(0, wire.MAX_HOPS), hostile)
step = st.one_of(
    st.tuples(st.just("message"), st.sampled_from(PEERS), hostile | routed),
    st.tuples(st.just("fitting"), st.sampled_from(PEERS), hostile),
    st.tuples(st.just("echo"), st.sampled_from(PEERS), st.integers(0, 50)),
    st.tuples(st.just("up"), st.sampled_from(PEERS)),
    st.tuples(st.just("down"), st.sampled_from(PEERS), st.sampled_from(["closed", "idle", "revoked"])),
    st.tuples(st.just("undelivered"), st.integers(0, 50)),
    st.tuples(st.just("timer")),
    st.tuples(st.just("stored")),
    st.tuples(st.just("computed"), st.booleans()),
    st.tuples(st.just("transferred"), st.booleans()),
)


class Attacked(Lab):
    """A lab whose peers are liars."""

    def fitting(self, peer: Contact, message: Message) -> None:
        """The message, as if it belonged to what goes on at this moment."""
        grove = self.core.forest.groves.get(SPEC.id)
        if grove is not None:
            now = grove.waves.current or WaveId(grove.epoch, 0, 0)
            present = {"app": SPEC.id, "wave": now, "epoch": now.epoch, "round": now.round}
            present["attempt"] = grove.tree._attempt
            fields = {name: present[name] for name in message.__struct_fields__ if name in present}
            if isinstance(getattr(message, "head", None), Head):
                fields["head"] = msgspec.structs.replace(message.head, app=SPEC.id, epoch=now.epoch, round=now.round)  # type: ignore[attr-defined]
            message = msgspec.structs.replace(message, **fields)
        self.message(peer, message)


def running() -> Attacked:
    """A node alone in its fabric, some way into its application."""
    lab = Attacked(
        NodeCore(ME, CoreConfig(), signer=SIGNER, verifier=KeyedHashVerifier(), seed=1, owns=SIGNER.public_key.__eq__)
    )
    lab.feed(ev.Command(Start()))
    lab.feed(ev.Command(Bind(frozenset({"data"}))))
    lab.feed(ev.Command(Trust(frozenset({SIGNER.public_key}))))
    record = sign_record(SIGNER, Kind.APP, SPEC.id, 1, 100_000, specs.encode(SPEC))
    lab.feed(ev.Command(Publish(record)))
    for peer in PEERS:
        lab.up(peer)
    lab.settle()
    for peer in PEERS[:2]:
        lab.message(peer, TreeJoin(SPEC.id, peer, 1))
    return lab


def test_the_node_under_attack_is_root_of_a_running_application() -> None:
    """Otherwise the attack below would be on an idle node."""
    grove = running().core.forest.groves[SPEC.id]
    assert grove.tree.is_root
    assert grove.head is not None
    assert grove.head.round > 0
    assert list(grove.tree.children) == [peer.id for peer in PEERS[:2]]


REBORN = msgspec.structs.replace(PEERS[0], incarnation=2)


@given(st.lists(step, max_size=40))
@example([("message", PEERS[0], Goodbye()), ("message", PEERS[0], RowShare((REBORN,)))])
def test_no_sequence_of_messages_breaks_a_node(steps: list[tuple[Any, ...]]) -> None:
    lab = running()
    for name, *arguments in steps:
        getattr(lab, name)(*arguments)
    lab.settle()
