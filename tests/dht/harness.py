"""A tiny network of rings under virtual time: a heap of (time, sequence), latency, links, crashes, partitions."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from typing import Any

from dht.config import MS, SECOND, RingConfig
from dht.messages import Record
from dht.ports import Verdict
from dht.records import Kind, sign_record
from dht.ring import Ring
from protocol.effects import CancelTimer, Effect, Outbox, Send, SetTimer
from protocol.events import Event, PeerDown, PeerUp, Received, SendFailed, Timer, TimerFired
from protocol.ids import NodeId, closeness, ring_id
from protocol.messages import Contact, Message, register
from protocol.signing import tagged
from protocol.streams import Stream
from protocol.wire import decode, encode


@register(120)
class Parcel(Message):
    """What the tests route."""

    number: int


class HashSigner:
    """Keyed hash: anyone can forge it, which tests of signatures do not rely on."""

    nonce = b""

    def __init__(self, public_key: bytes) -> None:
        self._key = public_key

    @property
    def public_key(self) -> bytes:
        return self._key

    def sign(self, domain: str, data: bytes) -> bytes:
        return hashlib.sha256(self._key + tagged(domain, data)).digest()


class HashVerifier:
    def verify(self, public_key: bytes, domain: str, data: bytes, signature: bytes) -> bool:
        return hashlib.sha256(public_key + tagged(domain, data)).digest() == signature


def record(
    subject: bytes,
    version: int = 1,
    *,
    kind: Kind = Kind.APP,
    expires: int = 10_000,
    body: bytes = b"",
    signer: bytes = b"owner",
) -> Record:
    return sign_record(HashSigner(signer), kind, subject, version, expires, body)


class Recorder:
    """Upcalls that remember."""

    def __init__(self) -> None:
        self.delivered: list[tuple[bytes, NodeId, Message]] = []
        self.intercepted: list[tuple[bytes, Message]] = []
        self.dead: list[tuple[NodeId, str, int, int]] = []
        self.changes = 0
        self.ready_at: list[int] = []
        self.replicas: list[tuple[int, tuple[Contact, ...]]] = []
        self.records: list[Record] = []
        self.dropped: list[Record] = []
        self.clock: list[int] = []
        self.verdict: Callable[[bytes, Message], Verdict | NodeId] = lambda key, message: Verdict.CONTINUE
        self.allowed: Callable[[Record], bool] = lambda record: True

    def intercept(self, key: bytes, relay: NodeId, message: Message, now: int) -> Verdict | NodeId:
        self.intercepted.append((key, message))
        return self.verdict(key, message)

    def deliver(self, key: bytes, relay: NodeId, message: Message, now: int) -> None:
        self.delivered.append((key, relay, message))

    def peer_dead(self, peer: NodeId, why: str, silence: int, now: int) -> None:
        self.dead.append((peer, why, silence, now))

    def leaves_changed(self, now: int) -> None:
        self.changes += 1

    def ring_ready(self, now: int) -> None:
        self.ready_at.append(now)

    def replicas_found(self, token: int, contacts: tuple[Contact, ...], now: int) -> None:
        self.replicas.append((token, contacts))

    def authorise(self, record: Record) -> bool:
        return self.allowed(record)

    def record_changed(self, record: Record, now: int) -> None:
        self.records.append(record)

    def clock_changed(self, error: int, now: int) -> None:
        self.clock.append(error)

    def record_dropped(self, record: Record, now: int) -> None:
        self.dropped.append(record)


class Host:
    """One node: ring, outbox, timers, and whether it runs."""

    def __init__(self, me: Contact, config: RingConfig, seed: int, wall_offset: int = 0) -> None:
        self.me = me
        self.out = Outbox()
        self.up = Recorder()
        self.timers: dict[Timer, int] = {}
        self.links: dict[NodeId, None] = {}
        self.running = True
        self.frozen = False
        self.backlog: list[Event] = []
        self.ring = Ring(
            me,
            config,
            out=self.out,
            upcalls=self.up,
            verifier=HashVerifier(),
            stream=Stream(seed, me.id, "ring"),
            wall_offset=wall_offset,
        )


class Net:
    """Moves messages and time.  ``silent`` hosts are gone without a closed socket."""

    def __init__(self, seed: int = 1, config: RingConfig | None = None, *, wire: bool = False, wall: int = 0) -> None:
        """``wall``: Unix seconds at the start of the hosts' clocks."""
        self.seed = seed
        self.wall_offset = wall * SECOND
        self.config = config or RingConfig.lan()
        self.stream = Stream(seed, "net")
        self.now = SECOND
        self.hosts: dict[NodeId, Host] = {}
        self.silent: dict[NodeId, None] = {}
        self.side: Callable[[NodeId], int] | None = None
        """Partition: only equal sides talk."""
        self.loss = 0.0
        self.lag: Callable[[NodeId], int] = lambda node: 0
        """How late timers fire at a node, ns."""
        self.wire = wire
        self.sent: dict[str, int] = {}
        self.bytes = 0
        self.penalties: list[Any] = []
        self._heap: list[tuple[int, int, NodeId, Any]] = []
        self._seq = 0
        self._digest = hashlib.sha256()

    # ---- nodes ----

    def contact(self, number: int, incarnation: int = 1, *, dialable: bool = True) -> Contact:
        identifier = ring_id(0, f"{self.seed}/{number}".encode())
        return Contact(identifier, (f"host-{number}:1",) if dialable else (), incarnation)

    def add(
        self, number: int, seeds: tuple[int, ...] = (), *, incarnation: int = 1, dialable: bool = True,
        wall_offset: int | None = None,
    ) -> Host:  # fmt: skip
        me = self.contact(number, incarnation, dialable=dialable)
        host = self.hosts[me.id] = Host(
            me, self.config, self.seed, self.wall_offset if wall_offset is None else wall_offset
        )
        self.silent.pop(me.id, None)
        host.ring.start(tuple(self.contact(seed, 0) for seed in seeds), self.now)
        self._run(host)
        return host

    def grow(self, count: int, spacing: int = 50 * MS) -> list[Host]:
        """``count`` nodes, all through the first."""
        hosts = []
        for number in range(count):
            hosts.append(self.add(number, (0,) if number else ()))
            self.run(spacing)
        return hosts

    def crash(self, host: Host, *, silent: bool = False) -> None:
        host.running = False
        if silent:
            self.silent[host.me.id] = None
            return
        for peer in host.links:
            other = self.hosts.get(peer)
            if other is not None and other.running:
                other.links.pop(host.me.id, None)
                self._post(self._latency(host.me.id, peer), peer, PeerDown(host.me.id))

    def living(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.running]

    # ---- time ----

    def run(self, duration: int) -> None:
        end = self.now + duration
        while self._heap and self._heap[0][0] <= end:
            self.now, _, peer, event = heapq.heappop(self._heap)
            self._dispatch(peer, event)
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit: int) -> None:
        """Run in small steps until ``condition`` holds; AssertionError after ``limit`` ns."""
        end = self.now + limit
        while not condition():
            assert self.now < end, "the condition did not come true in time"
            self.run(50 * MS)

    def inject(self, host: Host, event: Event) -> None:
        host.ring.handle(event, self.now)
        self._run(host)

    def route(self, host: Host, key: bytes, message: Message) -> None:
        host.ring.route(key, message, self.now)
        self._run(host)

    def flush(self, host: Host) -> None:
        """Execute effects of a direct call on ``host.ring``."""
        self._run(host)

    def _dispatch(self, peer: NodeId, event: Any) -> None:
        host = self.hosts.get(peer)
        if host is None or not host.running:
            return
        if isinstance(event, tuple):
            timer, due, owner = event
            if owner is not host or host.timers.get(timer) != due:
                return
            event = TimerFired(timer, due)
        if host.frozen:
            host.backlog.append(event)
            return
        self._digest.update(f"{self.now} {peer.hex()} {type(event).__name__}".encode())
        if isinstance(event, TimerFired):
            host.timers.pop(event.timer, None)
        elif isinstance(event, Received):
            host.links[event.peer] = None
        host.ring.handle(event, self.now)
        self._run(host)

    def thaw(self, host: Host) -> None:
        host.frozen = False
        backlog, host.backlog = host.backlog, []
        backlog.sort(key=lambda event: isinstance(event, TimerFired))
        for event in backlog:
            self._post(MS, host.me.id, (event.timer, event.due, host) if isinstance(event, TimerFired) else event)

    def digest(self) -> str:
        return self._digest.hexdigest()

    # ---- effects ----

    def _post(self, delay: int, peer: NodeId, event: Any) -> None:
        self._seq += 1
        heapq.heappush(self._heap, (self.now + delay, self._seq, peer, event))

    def _latency(self, a: NodeId, b: NodeId) -> int:
        base = Stream(self.seed, min(a, b), max(a, b)).uniform(0.5, 10.0)
        return int(base * MS * self.stream.uniform(1.0, 1.1))

    def _run(self, host: Host) -> None:
        for effect in host.out.drain():
            self._execute(host, effect)

    def _execute(self, host: Host, effect: Effect) -> None:
        me = host.me.id
        if isinstance(effect, SetTimer):
            host.timers[effect.timer] = effect.at
            self._post(max(effect.at - self.now, 0) + self.lag(me), me, (effect.timer, effect.at, host))
        elif isinstance(effect, CancelTimer):
            host.timers.pop(effect.timer, None)
        elif isinstance(effect, Send):
            self._send(host, effect)
        else:
            self.penalties.append(effect)

    def _send(self, host: Host, effect: Send) -> None:
        me, peer, message = host.me.id, effect.peer, effect.message
        name = type(message).__name__
        self.sent[name] = self.sent.get(name, 0) + 1
        if self.wire:
            frame = encode(message)
            self.bytes += len(frame)
            assert decode(frame)[0] == message
        other = self.hosts.get(peer)
        cut = self.side is not None and self.side(me) != self.side(peer)
        if peer in self.silent or cut or (self.loss and self.stream.uniform() < self.loss):
            return
        if other is None or not other.running or (peer not in host.links and not self._dialable(host, peer)):
            self._post(50 * MS, me, SendFailed(peer, message))
            return
        if peer not in host.links:
            host.links[peer] = None
            self._post(0, me, PeerUp(peer))
        self._post(self._latency(me, peer), peer, Received(me, message))

    def _dialable(self, host: Host, peer: NodeId) -> bool:
        contact = host.ring.contact(peer)
        return contact is not None and contact.dialable

    # ---- judgements ----

    def closest(self, key: bytes) -> Host:
        """The running, ready full member closest to ``key``."""
        candidates = [host for host in self.living() if host.me.dialable and host.ring.ready]
        return min(candidates, key=lambda host: closeness(key, host.me.id))

    def closed(self) -> bool:
        """Every full member is ready and knows its true immediate neighbours and no one who is gone."""
        hosts = sorted((host for host in self.living() if host.me.dialable), key=lambda host: host.me.id)
        ids = [host.me.id for host in hosts]
        for i, host in enumerate(hosts):
            if not host.ring.ready:
                return False
            true = {ids[(i + 1) % len(ids)], ids[i - 1]} - {host.me.id}
            if set(host.ring.view.leaves.neighbours()) != true:
                return False
        return True

    def complete(self) -> bool:
        """Closed, and every leaf set is exactly the true one."""
        hosts = sorted((host for host in self.living() if host.me.dialable), key=lambda host: host.me.id)
        ids = [host.me.id for host in hosts]
        width = self.config.leaf_side
        for i, host in enumerate(hosts):
            reach = min(width, len(ids) - 1)
            true = {ids[(i + step) % len(ids)] for step in range(1, reach + 1)}
            true |= {ids[(i - step) % len(ids)] for step in range(1, reach + 1)}
            if not host.ring.ready or {contact.id for contact in host.ring.view.leaves} != true:
                return False
        return True

    def check(self) -> None:
        for host in self.living():
            host.ring.check_invariants()
