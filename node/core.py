"""One node, whole: ring, forest and roles behind a single ``handle``.

This is the machine that all drivers run: the asyncio daemon, the discrete-event engine, the tests.  It holds no
protocol; it hands each event to the part that it concerns and lets what one part learns reach the others:

    ring      links, liveness, routing, records          ─┐ upcalls: intercept, deliver, peer_dead, leaves_changed,
    forest    trees, waves, heads                         │          record_changed
    roles     coordinator, aggregator, worker per app    ─┘

All parts write into one outbox, so the order of effects is the order of causes.  What a node sends to itself (it may be
its own voter or root) comes back within the same step, before the effects leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from dht.config import RingConfig
from dht.messages import MAX_RECORDS, Record
from dht.ports import Verdict
from dht.records import Kind, key_of, sign_record, verify
from dht.ring import Ring
from fl.applications import Applications
from fl.config import RoundConfig
from fl.notices import (
    Bind,
    ClockChanged,
    Confirm,
    FindVoters,
    Follow,
    Leave,
    PeerDead,
    Publish,
    RecordChanged,
    Recover,
    Refuse,
    ReplicasFound,
    RingReady,
    SetClock,
    Start,
    Trust,
)
from fl.records import voters_version
from protocol.effects import Effect, Outbox
from protocol.errors import Code, UsageError
from protocol.events import (
    Command,
    ComputeDone,
    Event,
    PeerUp,
    Received,
    Stored,
    TimerFired,
    TransferDone,
    TransferFailed,
)
from protocol.ids import NodeId
from protocol.membership import Roll
from protocol.messages import Contact, Message, Routed
from protocol.signing import Sealer, Signer, Verifier
from protocol.streams import Stream
from pubsub.config import TreeConfig
from pubsub.forest import Forest
from pubsub.heads import Head
from pubsub.messages import HeadAnswer

SHELF_LIFE = 60_000_000_000
"""ns without news of the time, after which what does not fit the clock is given up.  The first two who tell the time
may be wrong themselves; within this most of the leaf set has told it."""
VOTERS_TTL = 180 * 24 * 3600
"""Seconds that a VOTERS record lives: longer than the descriptor, whose end it may tell."""
_SHELF = ("core.shelf",)


def _disk_key(record: Record) -> str:
    return f"record/{record.kind}/{key_of(record).hex()}"


_records = msgspec.msgpack.Decoder(Record)
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """Settings of all parts; shared by reference among the nodes of a simulation."""

    ring: RingConfig = field(default_factory=RingConfig)
    tree: TreeConfig = field(default_factory=TreeConfig)
    rounds: RoundConfig = field(default_factory=RoundConfig)


class NodeCore:
    """A node without its network, disk and clock."""

    def __init__(
        self,
        me: Contact,
        config: CoreConfig,
        *,
        signer: Signer,
        verifier: Verifier,
        seed: int,
        wall_offset: int = 0,
        restored: Mapping[str, bytes] | None = None,
        roll: Roll | None = None,
        owns: Callable[[bytes], bool] | None = None,
        authorise: Callable[[Record], bool] | None = None,
        label: str = "",
    ) -> None:
        """``wall_offset``: ns to add to ``now`` for Unix time.  ``restored``: what earlier ``Store`` effects made
        durable.  ``roll`` tells members from others; without it nobody is one.  ``owns`` says of a public key whether
        its holder may have applications in this fabric; without it nobody may.  ``authorise`` judges records of kinds
        that do not belong to applications."""
        self.me, self.config = me, config
        self._signer, self._verifier = signer, verifier
        self._authorise, self._owns = authorise, owns
        self._restored = dict(restored or {})
        self._shelf: dict[str, Record] = {}
        """Records of an earlier life, or signed here, that do not fit the clock, until it is known to be right."""
        self._out = Outbox(me.id)
        sealer = Sealer(signer, verifier)
        self._roll = roll or Roll(b"", verifier)
        self.apps = Applications(
            me, config.rounds, out=self._out, publish_voters=self._publish_voters, sealer=sealer, label=label
        )
        self.ring = Ring(
            me, config.ring, out=self._out, upcalls=self, verifier=verifier, stream=Stream(seed, "ring", me.id),
            wall_offset=wall_offset,
        )  # fmt: skip
        self.forest = Forest(
            me, config.tree, ring=self.ring, roles=self.apps, out=self._out, stream=Stream(seed, "tree", me.id),
            sealer=sealer, roll=self._roll, restored=self._restored,
        )  # fmt: skip
        self.apps.attach(self.forest)

    # ---- the machine ------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: int) -> list[Effect]:
        """One step.  Raises UsageError for a command that nobody serves; never because of what a peer sent."""
        self._dispatch(event, now)
        loopback = self._out.loopback
        while loopback:
            message = loopback.pop(0)
            self._received(self.me.id, message, now)
        return self._out.drain()

    def _dispatch(self, event: Event, now: int) -> None:
        if isinstance(event, Received):
            if not self.ring.handle(event, now):
                self._received(event.peer, event.message, now)
        elif isinstance(event, TimerFired):
            if not self.ring.handle(event, now) and not self.forest.timer(event.timer, now):
                self._timer(event, now)
        elif isinstance(event, ComputeDone):
            self.apps.jobs.done(event, now)
        elif isinstance(event, Stored):
            self.forest.stored(event.key, now)
        elif isinstance(event, TransferDone | TransferFailed):
            self.forest.holdings.handle(event, now)
        elif isinstance(event, Command):
            self._command(event.request, now)
        else:
            self.ring.handle(event, now)
            if isinstance(event, PeerUp):
                self.apps.labels.greet(event.peer)

    def _received(self, peer: NodeId, message: Message | Routed, now: int) -> None:
        if isinstance(message, Routed):
            self.ring.handle(Received(peer, message), now)
        elif isinstance(message, HeadAnswer) and self.apps.finals.answered(peer, message, now):
            return
        elif not self.forest.received(peer, message, now) and not self.apps.received(peer, message, now):
            self._out.penalize(peer, Code.UNEXPECTED, type(message).__name__)

    def contact(self, peer: NodeId) -> Contact | None:
        """How to reach ``peer``; the driver asks when it must dial."""
        return self.ring.contact(peer)

    # ---- commands ---------------------------------------------------------------------------------------------------

    def _command(self, request: Any, now: int) -> None:
        serve = self._COMMANDS.get(type(request))
        if serve is None:
            raise UsageError(f"a node does not know the command {type(request).__name__}")
        serve(self, request, now)

    def _start(self, request: Start, now: int) -> None:
        """Take up what an earlier life knew, then enter the ring."""
        for key, value in sorted(self._restored.items()):
            if key.startswith("record/"):
                self._take_up(key, _records.decode(value), now)
        self._restored.clear()
        self.ring.start(request.seeds, now)

    def _publish(self, request: Publish, now: int) -> None:
        self._take_up(_disk_key(request.record), request.record, now)

    def fits(self, record: Record, now: int) -> bool:
        """Is ``record`` neither over nor too long-lived, as far as this node can tell what time it is?"""
        return 0 < record.expires - self.ring.wall(now) <= self.config.ring.record_lifetime

    def _take_up(self, key: str, record: Record, now: int) -> None:
        """A record that was held before, or was signed here.  One that the clock speaks against waits: the clock may be
        wrong, even when others confirm it."""
        if not self.fits(record, now):
            if key in self._shelf or len(self._shelf) < MAX_RECORDS:
                self._shelf[key] = record
                self._out.set_timer(_SHELF, now + SHELF_LIFE)
        elif not self.ring.publish(record, now) and self.ring.records.get(Kind(record.kind), record.subject) != record:
            self._out.store(key, None)

    def _timer(self, event: TimerFired, now: int) -> None:
        if event.timer != _SHELF:
            self.apps.timer(event.timer, now)
        elif self.ring.clock_confirmed:
            self._try_shelf(now)
            held = {_disk_key(record) for record in self.ring.records}
            for key in self._shelf:
                if key not in held:
                    self._out.store(key, None)
            self._shelf.clear()

    def _try_shelf(self, now: int) -> None:
        """Take up what fits the clock now."""
        for key, record in [(key, record) for key, record in self._shelf.items() if self.fits(record, now)]:
            del self._shelf[key]
            self._take_up(key, record, now)

    def _trust(self, request: Trust, now: int) -> None:
        self.apps.trust(request.owners, request.approved, now)
        self.ring.rejudge(now)

    def _leave(self, request: Leave, now: int) -> None:
        for app in list(self.forest.groves):
            self.forest.leave(app, now)
        self.ring.leave(now)

    # ---- upcalls of the ring ----------------------------------------------------------------------------------------

    def intercept(self, key: bytes, relay: NodeId, message: Message, now: int) -> Verdict | NodeId:
        if self.apps.troubles.takes(message):
            self.apps.received(b"", message, now)
            return Verdict.CONSUME
        return self.forest.intercept(relay, message, now)

    def deliver(self, key: bytes, relay: NodeId, message: Message, now: int) -> None:
        if not self.apps.received(b"", message, now):
            self.forest.deliver(relay, message, now)

    def peer_dead(self, peer: NodeId, why: str, silence: int, now: int) -> None:
        self._out.emit(PeerDead(peer, why, silence))
        self.forest.peer_dead(peer, why, now)

    def leaves_changed(self, now: int) -> None:
        self.forest.leaves_changed(now)

    def ring_ready(self, now: int) -> None:
        self._out.emit(RingReady())
        self.forest.leaves_changed(now)

    def replicas_found(self, token: int, contacts: tuple[Contact, ...], now: int) -> None:
        self._out.emit(ReplicasFound(token, contacts))

    def authorise(self, record: Record) -> bool:
        if record.kind in (Kind.APP, Kind.STOP):
            return self._owned(record) and self.apps.records.judge(record).sound
        if record.kind == Kind.VOTERS:
            # Of an application that nobody here may have, or has, nothing is to be known.
            return self.ring.records.get(Kind.APP, record.subject) is not None and self._judged(record)
        return self._authorise is not None and self._authorise(record)

    def _judged(self, record: Record) -> bool:
        """A head in a record: one that nobody committed is its signer's lie, when it is the signer's."""
        judgement = self.apps.records.judge(record)
        if judgement.liar is not None and verify(record, self._verifier):
            self._out.penalize(judgement.liar, Code.UNAUTHORISED, "record of a head that nobody committed")
        return judgement.sound

    def _owned(self, record: Record) -> bool:
        return self._owns is not None and self._owns(record.signer)

    def record_changed(self, record: Record, now: int) -> None:
        """News: durable here, then to whom it concerns."""
        key, value = _disk_key(record), _encoder.encode(record)
        if self._restored.get(key) != value:
            self._out.store(key, value)
        if record.kind == Kind.REVOCATION:
            self._roll.revoke(record.subject)
        self._out.emit(RecordChanged(record))
        self.apps.records.changed(record, now)

    def clock_changed(self, error: int, now: int) -> None:
        self._out.emit(ClockChanged(error))
        self._try_shelf(now)
        if self._shelf:
            self._out.set_timer(_SHELF, now + SHELF_LIFE)

    def record_dropped(self, record: Record, now: int) -> None:
        """What the ring forgets leaves the disk too, and an application in which this node has no part its memory."""
        self._out.store(_disk_key(record), None)
        self.apps.records.dropped(record)

    # ---- for the roles ----------------------------------------------------------------------------------------------

    def _publish_voters(self, head: Head, now: int) -> None:
        """The newest head in outline, for those outside the tree.  Epoch and round make the version."""
        record = sign_record(
            self._signer,
            kind=Kind.VOTERS,
            subject=head.app,
            version=voters_version(head),
            expires=self.ring.wall(now) + VOTERS_TTL,
            body=_encoder.encode(head.outline()),
        )
        self.ring.publish(record, now)

    def check_invariants(self) -> None:
        """Raises AssertionError on a state that no sequence of events may reach."""
        self.ring.check_invariants()
        self.forest.check_invariants()

    _COMMANDS: ClassVar[dict[type, Callable[[NodeCore, Any, int], object]]] = {
        Start: _start,
        Leave: _leave,
        FindVoters: lambda core, request, now: core.ring.find_replicas(request.token, request.app, request.count, now),
        Publish: _publish,
        Confirm: lambda core, request, now: core.forest.confirm(request.app, now),
        Follow: lambda core, request, now: core.apps.follow(request.app, now),
        Bind: lambda core, request, now: core.apps.bind(request.names, request.workers, now),
        Recover: lambda core, request, now: core.apps.recover(request.app, request.voters, now),
        Refuse: lambda core, request, now: core.apps.refuse(request.app, request.why, now),
        Trust: _trust,
        SetClock: lambda core, request, now: core.ring.set_clock(request.offset, now),
    }
