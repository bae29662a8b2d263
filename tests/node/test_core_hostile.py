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
from fl.tasks import Contribution, Finish, Finished, Merge, Merged
from node.core import CoreConfig, NodeCore
from protocol import effects as fx
from protocol import events as ev
from protocol import wire
from protocol.ids import ring_id
from protocol.messages import Contact, Message, Routed, Value
from pubsub.messages import Head, TreeJoin, WaveId
from simulations.signing import KeyedHashSigner, KeyedHashVerifier
from tests.protocol.instances import messages

SECOND = 1_000_000_000
MAX_EFFECTS = 500
"""Of one event.  A leaf set and a routing table can all be told at once; more would be an amplifier."""

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


class Lab:
    """One core and what it waits for; a driver that answers when the test says so."""

    def __init__(self) -> None:
        self.core = NodeCore(
            ME, CoreConfig(), signer=SIGNER, verifier=KeyedHashVerifier(), seed=1, owns=SIGNER.public_key.__eq__
        )
        self.now = SECOND
        self.timers: dict[Any, int] = {}
        self.stores: list[str] = []
        self.jobs: dict[int, Any] = {}
        self.transfers: dict[bytes, None] = {}
        self.sent: list[fx.Send] = []

    def feed(self, event: ev.Event) -> None:
        effects = self.core.handle(event, self.now)
        assert len(effects) <= MAX_EFFECTS
        for effect in effects:
            self._carry_out(effect)
        self.core.check_invariants()

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(peer, message):
                assert peer != ME.id
                assert len(wire.encode(message)) <= wire.MAX_FRAME
                self.sent = [*self.sent[-50:], effect]
            case fx.SetTimer(timer, at):
                self.timers[timer] = at
            case fx.CancelTimer(timer):
                self.timers.pop(timer, None)
            case fx.Store(key, _):
                self.stores.append(key)
            case fx.Compute(job, task):
                self.jobs[job] = task
            case fx.CancelCompute(job):
                self.jobs.pop(job, None)
            case fx.StartTransfer(_, blob, _):
                self.transfers[blob] = None
            case fx.CancelTransfer(blob):
                self.transfers.pop(blob, None)
            case _:
                pass

    def settle(self, rounds: int = 20) -> None:
        """Let an undisturbed while pass."""
        for _ in range(rounds):
            while self.stores:
                self.stored()
            while self.jobs:
                self.computed(good=True)
            self.timer()

    # ---- steps, each a no-op when there is nothing to do it with ----------------------------------------------------

    def message(self, peer: Contact, message: Message | Routed) -> None:
        self.feed(ev.Received(peer.id, message))

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

    def echo(self, peer: Contact, back: int) -> None:
        """What this node said, in the mouth of another."""
        if back < len(self.sent):
            self.message(peer, self.sent[-1 - back].message)

    def up(self, peer: Contact) -> None:
        self.feed(ev.PeerUp(peer.id))

    def down(self, peer: Contact, why: str) -> None:
        self.feed(ev.PeerDown(peer.id, why))

    def undelivered(self, back: int) -> None:
        if back < len(self.sent):
            lost = self.sent[-1 - back]
            self.feed(ev.SendFailed(lost.peer, lost.message))

    def timer(self) -> None:
        if self.timers:
            timer = min(self.timers, key=lambda one: self.timers[one])
            due = self.timers.pop(timer)
            self.now = max(self.now, due)
            self.feed(ev.TimerFired(timer, due))

    def stored(self) -> None:
        if self.stores:
            self.feed(ev.Stored(self.stores.pop(0)))

    def computed(self, good: bool) -> None:
        if self.jobs:
            job, task = next(iter(self.jobs.items()))
            del self.jobs[job]
            self.feed(ev.ComputeDone(job, result_of(task)) if good else ev.ComputeDone(job, None, "It broke."))

    def transferred(self, good: bool) -> None:
        if self.transfers:
            blob = next(iter(self.transfers))
            del self.transfers[blob]
            self.feed(ev.TransferDone(blob) if good else ev.TransferFailed(blob, 0, "gone"))


def result_of(task: Any) -> Any:
    match task:
        case Merge():
            return Merged(Value(1, b"1"))
        case Finish():
            return Finished(Value(1, b"1"), Value())
        case _:
            return Contribution(Value(1, b"1"), 1.0, {})


def running() -> Lab:
    """A node alone in its fabric, some way into its application."""
    lab = Lab()
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
