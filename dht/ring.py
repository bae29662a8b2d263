"""One node's part in the ring of its zone: a Pastry overlay with consistent joins (``DESIGN`` section 6).

The parts share one :class:`~dht.view.View` and stand in files of their own: ``tables`` and ``contacts`` (what is
known), ``liveness`` and ``failures`` (who is there, and who is not), ``join`` and ``probing`` (becoming known),
``routing``, ``maintenance`` (staying closed), ``records`` and ``replication`` (what all agree on), ``lookup``, and
``gateway`` for nodes that can only dial out.  This module hands every event to the part that it concerns.

A message is lost, late, repeated or a lie as it pleases: nothing is done only once (probes and searches repeat, ping
digests and leaf-set exchanges find what was missed), nothing harms twice, and hearsay is checked before it is believed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from protocol.effects import Outbox
from protocol.events import Event, LinkSample, PeerDown, PeerUp, Received, SendFailed, TimerFired
from protocol.ids import NodeId
from protocol.messages import Contact, Message, Routed
from protocol.signing import Verifier
from protocol.streams import Stream

from . import join, liveness, maintenance
from .config import RingConfig
from .failures import Failures
from .gateway import Gateway
from .join import Joiner
from .lookup import Lookup
from .maintenance import Maintenance
from .messages import (
    FindReplicas,
    Goodbye,
    JoinRing,
    LeafProbe,
    LeafReply,
    Ping,
    Pong,
    Record,
    RecordDigests,
    RecordPush,
    Replicas,
    RowShare,
    Welcome,
)
from .ports import Entrance, Upcalls
from .probing import Prober
from .records import RecordTable
from .replication import Replication
from .routing import Router
from .view import View
from .wallclock import WallClock

_CLOCKS = 5
"""Leaves whose clocks are asked for as soon as this node is a member, and while too few have told theirs."""


class Ring:
    """Ring membership, routing, failure detection and records of one node."""

    __slots__ = (
        "_clock", "_entrance", "_failures", "_joiner", "_lookup", "_maintenance", "_prober", "_replication", "_router",
        "_view", "me", "records",
    )  # fmt: skip

    def __init__(
        self,
        me: Contact,
        config: RingConfig,
        *,
        out: Outbox,
        upcalls: Upcalls,
        verifier: Verifier,
        stream: Stream,
        wall_offset: int,
    ) -> None:
        self.me = me
        self.records = RecordTable(config, verifier)
        self._view = View(me, config, out, upcalls, stream, self.records.digest)
        self._router = Router(self._view)
        self._prober = Prober(self._view)
        self._lookup = Lookup(self._view, self._router)
        self._joiner = Joiner(self._view, self._prober, self._router, self._became_ready)
        self._maintenance = Maintenance(self._view, self._prober, self._joiner, self._lookup)
        self._clock = WallClock(wall_offset)
        self._replication = Replication(self._view, self.records, self._clock)
        self._entrance: Entrance = self._joiner if me.dialable else Gateway(self._view, self._became_ready)
        self._failures = Failures(self._view, self._prober, self._entrance, self._joiner, self._lookup, self._router)

    # ---- for the layers above ----

    @property
    def ready(self) -> bool:
        """This node answers for keys (an outbound-only one: it has a gateway)."""
        return self._view.ready

    @property
    def view(self) -> View:
        """Tables and liveness, for diagnosis and tests."""
        return self._view

    def start(self, seeds: tuple[Contact, ...], now: int) -> None:
        """Enter the ring through any of ``seeds``; with none, be the first."""
        self._view.begin(seeds)
        self._entrance.start(now)
        self._maintenance.start(now)
        self._settle(now)

    def leave(self, now: int) -> None:
        """Say goodbye to all who count on this node; from then on it only repeats that."""
        view = self._view
        for peer in dict.fromkeys([contact.id for contact in view.leaves] + view.liveness.monitored):
            view.out.send(peer, Goodbye())
        self._entrance.stop()
        view.liveness.clear()
        self._prober.clear()
        self._maintenance.stop()
        view.end()

    def route(self, key: bytes, message: Message, now: int) -> None:
        """Send ``message`` from here towards whoever is closest to ``key``; may deliver here, at once."""
        self._router.route(key, message, now)
        self._settle(now)

    def find_replicas(self, token: int, key: bytes, count: int, now: int) -> None:
        """Ask for the ``count`` live daemons closest to ``key``: ``replicas_found(token, …)``, empty when in vain."""
        self._lookup.find(token, key, count, now)
        self._settle(now)

    def is_closest(self, key: bytes) -> bool:
        """Is this node, as far as it knows, the live one closest to ``key``?"""
        return self._router.is_closest(key)

    def closest(self, key: bytes, count: int) -> list[Contact]:
        """Live dialable contacts nearest to ``key``, this node included, nearest first."""
        return self._view.closest(key, count)

    def contact(self, peer: NodeId) -> Contact | None:
        """How to reach ``peer``, as far as this node knows."""
        return self._view.contact(peer)

    def learn(self, contact: Contact) -> None:
        """Remember an address for a while."""
        self._view.learn(contact)

    def alive(self, peer: NodeId) -> bool:
        """Neither known to be dead nor suspected."""
        return self._view.usable(peer)

    def watch(self, peer: NodeId, purpose: str, now: int) -> None:
        """Somebody above depends on ``peer``: find out within 3 s when it dies silently, until ``unwatch``."""
        if peer != self.me.id:
            self._view.liveness.watch(peer, purpose, now, linked=peer == self._view.current)

    def unwatch(self, peer: NodeId, purpose: str) -> None:
        self._view.liveness.unwatch(peer, purpose)

    def publish(self, record: Record, now: int) -> bool:
        """Put ``record`` into the fabric.  False when it is no news or may not be said by its signer."""
        published = self._replication.publish(record, now)
        self._settle(now)
        return published

    def wall(self, now: int) -> int:
        """Unix seconds, as far as this node can tell: see ``wallclock``."""
        return self._clock.wall(now)

    @property
    def clock_error(self) -> int:
        """Seconds by which this machine's clock is ahead of the others'; 0 while it is right to a few minutes."""
        return -self._clock.correction

    @property
    def clock_confirmed(self) -> bool:
        """Others were heard of the time, and :meth:`wall` agrees with them."""
        return self._clock.confirmed

    def set_clock(self, offset: int, now: int) -> None:
        """This machine's clock was set: ``offset`` ns are to be added to ``now`` for its Unix time."""
        if self._clock.set(offset):
            self._clock_changed(now)

    def _clock_changed(self, now: int) -> None:
        self._replication.ask_again()
        self._view.upcalls.clock_changed(self.clock_error, now)

    def show(self, peer: NodeId, app: bytes) -> None:
        """Send ``peer`` the descriptor of ``app`` and what else records say of it now."""
        self._replication.show(peer, app)

    def rejudge(self, now: int) -> None:
        """Whom the layers above listen to has changed: held records are judged again."""
        self._replication.rejudge(now)
        self._settle(now)

    # ---- events ----

    def handle(self, event: Event, now: int) -> bool:
        """True when the event was the ring's alone; False when the layers above must see it too."""
        handler = self._EVENTS.get(type(event))
        if handler is None:
            return False
        mine: bool = handler(self, event, now)
        self._settle(now)
        return mine

    def _settle(self, now: int) -> None:
        if self._view.changed and self._view.ready and not self._clock.confirmed:
            self._ask_time(now)
        self._view.tell(now)
        self._maintenance.arm(now)

    def _received(self, event: Received, now: int) -> bool:
        peer, message = event.peer, event.message
        view = self._view
        view.listen(peer)
        handler = self._MESSAGES.get(type(message))
        if type(message) is Pong:
            rtt = view.liveness.pong(peer, message.nonce, now)
            self._sample(peer, rtt)
            if rtt is not None and self._clock.heard(peer, message.wall, now):
                self._clock_changed(now)
        view.liveness.heard(peer, now)
        if self._lookup.busy:
            self._lookup.heard(peer, now)
        if view.ghosts and peer in view.ghosts and view.started and type(message) is not Goodbye:
            self._failures.revive(peer, now)
        if handler is None:
            return False
        if view.started:
            handler(self, peer, message, now)
        elif isinstance(message, Ping | LeafProbe):
            view.out.send(peer, Goodbye())
        return True

    def _sample(self, peer: NodeId, rtt: int | None) -> None:
        """Proximity: a measured round trip may win a slot of the routing table."""
        if rtt is None or rtt <= 0:
            return
        contact = self._view.contact(peer)
        if contact is not None and not self._view.foreign(contact):
            self._view.table.put(contact, rtt)

    def _link_sample(self, event: LinkSample, now: int) -> bool:
        self._sample(event.peer, event.rtt)
        return False

    def _timer_fired(self, event: TimerFired, now: int) -> bool:
        self._view.listen(b"")
        if self._view.liveness.lagged(event.due, now):
            self._joiner.revalidate(now)
        handler = self._TIMERS.get(event.timer)
        if handler is None:
            return False
        handler(self, now)
        return True

    def _peer_up(self, event: PeerUp, now: int) -> bool:
        self._view.liveness.linked(event.peer, True)
        return False

    def _peer_down(self, event: PeerDown, now: int) -> bool:
        if event.why == "idle":
            self._view.liveness.linked(event.peer, False)
        else:
            self._failures.lost(event.peer, event.why, now)
        return False

    def _send_failed(self, event: SendFailed, now: int) -> bool:
        self._view.listen(b"")
        self._failures.undelivered(event.peer, event.message, now)
        return type(event.message) in self._MESSAGES

    # ---- messages ----

    def _on_routed(self, peer: NodeId, routed: Routed, now: int) -> None:
        if routed.hops == 1 and routed.origin.id != peer:
            return
        self._advance(peer, routed, now)

    def _advance(self, peer: NodeId, routed: Routed, now: int) -> None:
        message = routed.message
        if isinstance(message, JoinRing):
            self._joiner.on_request(peer, routed, message.joiner, now)
        elif isinstance(message, FindReplicas):
            self._lookup.on_request(routed, now)
        else:
            self._router.advance(peer, routed, now)
            self._router.repair_sender(peer, routed.key, now)

    def _on_ping(self, peer: NodeId, message: Ping, now: int) -> None:
        self._view.out.send(peer, Pong(message.nonce, self.records.digest(), self._clock.own(now)))

    def _on_pong(self, peer: NodeId, message: Pong, now: int) -> None:
        self._replication.compare(peer, message.digest, now)

    def _on_leaf_probe(self, peer: NodeId, message: LeafProbe, now: int) -> None:
        self._entrance.on_probe(peer, message, now)

    def _on_leaf_reply(self, peer: NodeId, message: LeafReply, now: int) -> None:
        self._entrance.on_reply(peer, message, now)

    def _on_join(self, peer: NodeId, message: JoinRing, now: int) -> None:
        self._joiner.on_fellow(peer, message.joiner, now)

    def _on_rows(self, peer: NodeId, message: RowShare, now: int) -> None:
        self._joiner.on_rows(message, now)

    def _on_welcome(self, peer: NodeId, message: Welcome, now: int) -> None:
        self._joiner.on_welcome(peer, message, now)

    def _on_goodbye(self, peer: NodeId, message: Goodbye, now: int) -> None:
        self._failures.lost(peer, "left", now)

    def _on_replicas(self, peer: NodeId, message: Replicas, now: int) -> None:
        self._lookup.on_answer(message, now)

    def _on_records(self, peer: NodeId, message: RecordPush, now: int) -> None:
        self._replication.on_push(peer, message, now)

    def _on_digests(self, peer: NodeId, message: RecordDigests, now: int) -> None:
        self._replication.on_digests(peer, message, now)

    # ---- timers ----

    def _on_live(self, now: int) -> None:
        for peer, _ in self._view.liveness.tick(now):
            self._failures.lost(peer, "silent", now)

    def _on_retry(self, now: int) -> None:
        self._maintenance.on_retry(now)
        self._joiner.settle(now)

    def _on_care(self, now: int) -> None:
        self._replication.expire(now)
        self._maintenance.on_care(now)

    def _on_heal(self, now: int) -> None:
        self._maintenance.on_heal(now)

    def _on_join_timer(self, now: int) -> None:
        self._entrance.on_timer(now)

    def _became_ready(self, now: int) -> None:
        view = self._view
        partners = list(view.leaves.neighbours()) if view.uplink is None else [view.uplink.id]
        for peer in partners[:1]:
            self._replication.exchange(peer, now)
        self._ask_time(now)
        view.upcalls.ring_ready(now)
        for routed in self._router.release(now):
            if isinstance(routed.message, JoinRing | FindReplicas):
                self._advance(routed.origin.id, routed, now)
            else:
                self._router.forward(routed, now)

    def _ask_time(self, now: int) -> None:
        """The answers to pings tell it.  Whoever is there first has nobody to ask until others come."""
        for contact in self._view.leaves.snapshot()[:_CLOCKS]:
            self._view.liveness.question(contact.id, now)

    # ---- invariants ----

    def check_invariants(self) -> None:
        """Raise AssertionError when a table is out of order, over its bound, or holds a dead node."""
        self._view.check()
        self.records.check()

    _EVENTS: ClassVar[dict[type[Event], Callable[[Ring, Any, int], bool]]] = {
        Received: _received,
        TimerFired: _timer_fired,
        PeerUp: _peer_up,
        PeerDown: _peer_down,
        SendFailed: _send_failed,
        LinkSample: _link_sample,
    }
    _MESSAGES: ClassVar[dict[type[Any], Callable[[Ring, NodeId, Any, int], None]]] = {
        Routed: _on_routed,
        Ping: _on_ping,
        Pong: _on_pong,
        JoinRing: _on_join,
        RowShare: _on_rows,
        Welcome: _on_welcome,
        LeafProbe: _on_leaf_probe,
        LeafReply: _on_leaf_reply,
        Goodbye: _on_goodbye,
        Replicas: _on_replicas,
        RecordPush: _on_records,
        RecordDigests: _on_digests,
    }
    _TIMERS: ClassVar[dict[Any, Callable[[Ring, int], None]]] = {
        liveness.TIMER: _on_live,
        join.TIMER: _on_join_timer,
        maintenance.RETRY: _on_retry,
        maintenance.CARE: _on_care,
        maintenance.HEAL: _on_heal,
    }
