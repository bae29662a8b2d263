"""One core and what it waits for: a driver that answers when the test says so, and in the order that the test likes."""

from __future__ import annotations

from math import isfinite
from typing import Any

from fl.tasks import Contribution, Finish, Finished, Merge, Merged
from node.core import NodeCore
from protocol import effects as fx
from protocol import events as ev
from protocol import wire
from protocol.ids import NodeId
from protocol.membership import Standing
from protocol.messages import Contact, Message, Routed, Value
from protocol.signing import Sealer
from pubsub import claims
from pubsub.heads import MAX_METRICS, Head
from pubsub.messages import MAX_CLAIMS, Accept, Partial, WaveUp
from simulations.signing import KeyedHashSigner, KeyedHashVerifier, endorsed

SECOND = 1_000_000_000
MAX_EFFECTS = 500
"""Of one event.  A leaf set and a routing table can all be told at once; more would be an amplifier."""

CHECKS = Sealer(KeyedHashSigner(0, "nobody"), KeyedHashVerifier())


class Lab:
    """After each step: no exception, all invariants hold, everything that the core wants to send can be sent, one event
    causes a bounded number of effects, and what is handed in or decided would be taken from anybody else."""

    def __init__(self, core: NodeCore) -> None:
        self.core = core
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

    def replay(self, log: list[tuple[ev.Event, int]]) -> None:
        """What a core went through elsewhere."""
        for event, now in log:
            self.now = now
            match event:
                case ev.TimerFired(timer, _):
                    self.timers.pop(timer, None)
                case ev.Stored(key) if key in self.stores:
                    self.stores.remove(key)
                case ev.ComputeDone(job=job):
                    self.jobs.pop(job, None)
                case _:
                    pass
            self.feed(event)

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(peer, message):
                assert peer != self.core.me.id
                assert len(wire.encode(message)) <= wire.MAX_FRAME
                check_sums(peer, message, self.core.me.id)
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


def check_sums(peer: NodeId, message: Message | Routed, me: NodeId) -> None:
    """Whatever was handed to this node, what it hands on is proven, and counts everybody once and nothing absurd."""
    whole: Partial | Head
    if isinstance(message, WaveUp) and message.partial is not None:
        whole = message.partial
        inspection = claims.Inspection(CHECKS, endorsed(me), message, me, peer)
        assert inspection.step(MAX_CLAIMS + 1) is Standing.MEMBER
        assert whole.contributors
        assert whole.weight > 0
    elif isinstance(message, Accept):
        whole = message.head
    else:
        return
    assert list(whole.contributors) == sorted(set(whole.contributors))
    assert all(map(isfinite, [whole.weight, *whole.metrics.values()]))
    assert len(whole.metrics) <= MAX_METRICS
    assert all(name.removesuffix(".n") in whole.metrics for name in whole.metrics)


def result_of(task: Any) -> Any:
    match task:
        case Merge():
            # Everything that could be refused is refused now and then: by the number of inputs, which liars choose.
            return Merged(Value(1, b"1"), rejected=tuple(range(len(task.inputs)))[3:])
        case Finish():
            return Finished(Value(1, b"1"), Value())
        case _:
            return Contribution(Value(1, b"1"), 1.0, {})
