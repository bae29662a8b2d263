"""A deterministic network of forests: full knowledge below, integer partials above, every message through the codec.

Time is a heap of (ns, serial number).  A host is a :class:`Forest` with a ring that knows everybody, a disk that keeps
what was stored and artifacts that move whole.  Tests lose, delay, repeat and hold back what they name, crash hosts,
freeze them, cut the network, and look at what was committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from dht.ports import Verdict
from protocol import wire
from protocol.effects import CancelTimer, Effect, Emit, Outbox, Penalize, Pin, Send, SetTimer, StartTransfer, Store
from protocol.errors import Code
from protocol.events import Timer, TransferDone, TransferFailed
from protocol.ids import AppId, BlobId, NodeId, app_id, closeness
from protocol.messages import Contact, Message, Value
from protocol.streams import Stream
from pubsub.config import MS, SECOND, TreeConfig
from pubsub.forest import Forest
from pubsub.heads import Head
from pubsub.messages import WaveId
from pubsub.ports import Genesis
from tests.happenings import Happenings
from tests.pubsub.roles import IntegerRoles
from tests.pubsub.seals import key as key_of
from tests.pubsub.seals import node, roll, sealer

CONFIG = TreeConfig()
DETECTION = 1 * SECOND
"""After a crash, freeze or cut, until the others regard the host as dead."""

__all__ = ["CONFIG", "DETECTION", "MS", "SECOND", "Host", "Net", "Rule"]


def contact(index: int, *, dialable: bool = True, incarnation: int = 1) -> Contact:
    """The ``index``-th node; one without an address only dials out."""
    addresses = (f"10.0.0.{index}:1",) if dialable else ()
    return Contact(node(index), addresses, incarnation)


@dataclass
class Rule:
    """What happens to the next ``times`` messages of ``kind`` between ``src`` and ``dst`` (None: anybody)."""

    kind: type[Message]
    src: NodeId | None = None
    dst: NodeId | None = None
    times: int = 1 << 30
    lose: bool = False
    delay: int = 0
    copies: int = 1
    hits: int = 0

    def matches(self, src: NodeId, dst: NodeId, message: Message) -> bool:
        fits = self.src in (None, src) and self.dst in (None, dst)
        return self.hits < self.times and isinstance(message, self.kind) and fits


class KnowAll:
    """The ring of one host: knows every host that runs, but for those that it believes dead."""

    def __init__(self, net: Net, host: Host) -> None:
        self._net, self._host = net, host
        self.ready = True
        self.dead: dict[NodeId, bool] = {}
        self.watched: dict[tuple[NodeId, str], bool] = {}
        self.shown: list[tuple[NodeId, bytes]] = []

    def route(self, key: bytes, message: Message, now: int) -> None:
        self._net.route(self._host, key, message)

    def is_closest(self, key: bytes) -> bool:
        return self._host.me.dialable and self.closest(key, 1)[0].id == self._host.id

    def closest(self, key: bytes, count: int) -> list[Contact]:
        known = [host.me for host in self._net.hosts.values() if host.started and host.id not in self.dead]
        usable = [one for one in known if one.dialable]
        return sorted(usable, key=lambda one: closeness(key, one.id))[:count]

    def contact(self, peer: NodeId) -> Contact | None:
        return self._net.hosts[peer].me if peer in self._net.hosts else None

    def learn(self, contact: Contact) -> None:
        pass

    def alive(self, peer: NodeId) -> bool:
        return peer not in self.dead

    def watch(self, peer: NodeId, purpose: str, now: int) -> None:
        self.watched[peer, purpose] = True

    def show(self, peer: NodeId, app: bytes) -> None:
        self.shown.append((peer, app))

    def unwatch(self, peer: NodeId, purpose: str) -> None:
        self.watched.pop((peer, purpose), None)


@dataclass
class Host:
    """One machine."""

    net: Net
    me: Contact
    works: bool = True
    training: int = 100 * MS
    disk: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[BlobId, bool] = field(default_factory=dict)
    pins: dict[BlobId, int] = field(default_factory=dict)
    timers: dict[Timer, int] = field(default_factory=dict)
    penalties: list[tuple[NodeId, Code, str]] = field(default_factory=list)
    notices: list[Any] = field(default_factory=list)
    held: list[tuple[str, bytes | None]] | None = None
    """Stores that the test completes by hand (``flush``); None: they complete by themselves."""
    life: int = 0
    started: bool = False
    frozen: list[Callable[[], None]] | None = None
    forest: Forest = field(init=False)
    ring: KnowAll = field(init=False)
    roles: IntegerRoles = field(init=False)
    out: Outbox = field(init=False)

    @property
    def id(self) -> NodeId:
        return self.me.id

    def boot(self) -> None:
        self.life += 1
        self.started = True
        self.me = replace_contact(self.me, self.life)
        self.timers.clear()
        self.out = Outbox(self.id)
        self.ring = KnowAll(self.net, self)
        self.roles = IntegerRoles(self)
        stream = Stream(self.net.seed, "tree", self.id, self.life)
        self.forest = Forest(
            self.me, self.net.config, ring=self.ring, roles=self.roles, out=self.out, stream=stream,
            sealer=sealer(self.net.keys[self.id]), roll=roll(self.id), restored=dict(self.disk),
        )  # fmt: skip
        self.roles.forest = self.forest

    def do(self, action: Callable[[int], object]) -> None:
        """One step of this host, its messages to itself included; effects leave afterwards."""
        action(self.net.now)
        while self.out.loopback:
            message = self.out.loopback.pop(0)
            assert isinstance(message, Message)
            self.forest.received(self.id, message, self.net.now)
        self.forest.check_invariants()
        for effect in self.out.drain():
            self.net.apply(self, effect)

    def know(self) -> None:
        """The application's descriptor arrives."""
        self.do(lambda now: self.forest.know(self.net.genesis, now))

    def join(self) -> None:
        self.do(lambda now: self.forest.join(self.net.app, now))

    def hear(self, peer: NodeId, message: Message) -> None:
        """``message`` arrives from ``peer``, here and now."""
        self.do(lambda now: self.forest.received(peer, message, now))

    def flush(self, count: int = 1 << 30) -> None:
        """Complete ``count`` of the stores that were held back."""
        assert self.held is not None
        done, self.held = self.held[:count], self.held[count:]
        for key, value in done:
            self.net.durable(self, key, value)

    def grove(self, app: AppId | None = None) -> Any:
        return self.forest.groves[app if app is not None else self.net.app]

    @property
    def is_root(self) -> bool:
        return self.net.app in self.forest.groves and bool(self.grove().proposer.leading)


def replace_contact(me: Contact, incarnation: int) -> Contact:
    return msgspec.structs.replace(me, incarnation=incarnation)


class Net(Happenings):
    """All hosts, and the time."""

    def __init__(
        self,
        size: int = 8,
        *,
        voters: int = 5,
        leaves: int = 0,
        fan_out: int = 4,
        quorum: float = 0.5,
        rounds: int = 3,
        min_workers: int = 1,
        initial: Value | None = None,
        seed: int = 0,
        config: TreeConfig = CONFIG,
    ) -> None:
        self.seed, self.config, self.rounds, self.min_workers = seed, config, rounds, min_workers
        super().__init__(0)
        self.latency = 1 * MS
        self.disk_delay = 1 * MS
        self.stream = Stream(seed, "net")
        self.rules: list[Rule] = []
        self.weather: Callable[[], Rule] | None = None
        """What happens to a message for which there is no rule."""
        self.sent: list[tuple[int, NodeId, NodeId, Message]] = []
        self.cut: list[tuple[set[NodeId], set[NodeId]]] = []
        self.news: Head | None = None
        """What the application's record says."""
        self.committed: dict[tuple[AppId, int], Head] = {}
        """(application, round) → the head that a root first committed there."""
        self.app = app_id(0, "app", b"owner", b"salt")
        self.keys = {node(index): key_of(index) for index in range(size + leaves)}
        contacts = [contact(index) for index in range(size)]
        contacts += [contact(size + index, dialable=False) for index in range(leaves)]
        self.hosts = {one.id: Host(self, one) for one in contacts}
        self.genesis = Genesis(
            self.app,
            tuple(self.near(voters)),
            fan_out,
            quorum,
            initial if initial is not None else Value(1, b"\0"),
            self.near(1)[0],
        )

    # ---- who --------------------------------------------------------------------------------------------------------

    def near(self, count: int) -> list[Contact]:
        """The ``count`` dialable nodes closest to the application's id, closest first."""
        usable = [host.me for host in self.hosts.values() if host.me.dialable]
        return sorted(usable, key=lambda one: closeness(self.app, one.id))[:count]

    def by_rank(self) -> list[Host]:
        """Dialable hosts, closest to the application first; then the others."""
        near = [self.hosts[one.id] for one in self.near(len(self.hosts))]
        return near + [host for host in self.hosts.values() if not host.me.dialable]

    def roots(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.started and host.is_root]

    @property
    def root(self) -> Host:
        (root,) = self.roots()
        return root

    # ---- life and death ---------------------------------------------------------------------------------------------

    def start(self, hosts: Iterable[Host] | None = None, *, join: bool = True) -> None:
        """Boot ``hosts`` (all of them), which then know the application and join its tree."""
        chosen = list(hosts if hosts is not None else self.hosts.values())
        for host in chosen:
            host.boot()
        for host in self.hosts.values():
            if host.started:
                for other in chosen:
                    host.ring.dead.pop(other.id, None)
        for host in chosen:
            host.know()
            if self.news is not None:
                self._record(host, self.news)
        for host in chosen if join else ():
            host.join()
        self._ring_changed()

    def crash(self, host: Host) -> None:
        """The process is gone; its disk and its artifacts stay."""
        host.started = False
        host.life += 1
        host.timers.clear()
        host.held = [] if host.held is not None else None
        self.after(DETECTION, lambda: self._declare_dead(host, lambda: not host.started))

    def restart(self, host: Host, *, join: bool = True) -> None:
        self.start([host], join=join)

    def freeze(self, host: Host) -> None:
        host.frozen = []
        self.after(DETECTION, lambda: self._declare_dead(host, lambda: host.frozen is not None))

    def thaw(self, host: Host) -> None:
        backlog, host.frozen = host.frozen or [], None
        for happening in backlog:
            happening()
        for other in self.hosts.values():
            if other.started:
                other.ring.dead.pop(host.id, None)
        self._ring_changed()

    def divide(self, one: Iterable[Host]) -> None:
        """Nothing passes between ``one`` and the rest any more; each side soon believes the other dead."""
        here = {host.id for host in one}
        there = {peer for peer in self.hosts if peer not in here}
        self.cut.append((here, there))

        def notice() -> None:
            for host in self.hosts.values():
                for peer in self.hosts:
                    if host.started and (host.id in here) != (peer in here) and self._is_cut(host.id, peer):
                        self._bury(host, peer)

        self.after(DETECTION, notice)

    def heal(self) -> None:
        self.cut.clear()
        for host in self.hosts.values():
            if host.started:
                host.ring.dead = {peer: True for peer in host.ring.dead if not self.hosts[peer].started}
        self._ring_changed()

    def _declare_dead(self, host: Host, still: Callable[[], bool]) -> None:
        if still():
            for other in self.hosts.values():
                if other is not host and other.started:
                    self._bury(other, host.id)

    def _bury(self, host: Host, peer: NodeId) -> None:
        if peer in host.ring.dead:
            return

        def funeral(now: int) -> None:
            host.ring.dead[peer] = True
            host.forest.peer_dead(peer, "closed", now)
            host.forest.leaves_changed(now)

        self._happen(host, funeral)

    def _ring_changed(self) -> None:
        for host in self.hosts.values():
            if host.started:
                self._happen(host, host.forest.leaves_changed)

    # ---- faults -----------------------------------------------------------------------------------------------------

    def lose(
        self, kind: type[Message], *, src: Host | None = None, dst: Host | None = None, times: int = 1 << 30
    ) -> Rule:
        return self._rule(Rule(kind, times=times, lose=True), src, dst)

    def delay(
        self, kind: type[Message], by: int, *, src: Host | None = None, dst: Host | None = None, times: int = 1 << 30
    ) -> Rule:
        return self._rule(Rule(kind, times=times, delay=by), src, dst)

    def repeat(self, kind: type[Message], *, copies: int = 2, src: Host | None = None, dst: Host | None = None) -> Rule:
        return self._rule(Rule(kind, copies=copies), src, dst)

    def _rule(self, rule: Rule, src: Host | None, dst: Host | None) -> Rule:
        rule = replace(rule, src=src.id if src else None, dst=dst.id if dst else None)
        self.rules.append(rule)
        return rule

    def _is_cut(self, src: NodeId, dst: NodeId) -> bool:
        return any((src in one) != (dst in one) for one, _ in self.cut)

    # ---- steps ------------------------------------------------------------------------------------------------------

    def _happen(self, host: Host, action: Callable[[int], object]) -> None:
        life = host.life

        def happening() -> None:
            if host.started and host.life == life:
                host.do(action)

        if host.frozen is not None:
            host.frozen.append(happening)
        elif host.started:
            happening()

    # ---- effects ----------------------------------------------------------------------------------------------------

    def apply(self, host: Host, effect: Effect) -> None:
        if isinstance(effect, Send):
            assert isinstance(effect.message, Message)
            self.post(host.id, effect.peer, effect.message)
        elif isinstance(effect, SetTimer):
            self._set_timer(host, effect.timer, effect.at)
        elif isinstance(effect, CancelTimer):
            host.timers.pop(effect.timer, None)
        elif isinstance(effect, Store):
            self._store(host, effect.key, effect.value)
        elif isinstance(effect, StartTransfer):
            self._transfer(host, effect)
        elif isinstance(effect, Pin):
            host.pins[effect.blob] = host.pins.get(effect.blob, 0) + (1 if effect.keep else -1)
        elif isinstance(effect, Penalize):
            host.penalties.append((effect.peer, effect.code, effect.detail))
        elif isinstance(effect, Emit):
            host.notices.append(effect.notice)
        else:
            raise NotImplementedError(effect)

    def post(self, src: NodeId, dst: NodeId, message: Message) -> None:
        """Put ``message`` on its way, through the codec as a real link would."""
        decoded, _ = wire.decode(wire.encode(message))
        assert isinstance(decoded, Message)
        assert decoded == message
        self.sent.append((self.now, src, dst, decoded))
        delay, copies = self.latency, 1
        for rule in self.rules:
            if rule.matches(src, dst, decoded):
                rule.hits += 1
                if rule.lose:
                    return
                delay, copies = delay + rule.delay, rule.copies
                break
        else:
            if self.weather is not None and src != dst:
                fate = self.weather()
                if fate.lose:
                    return
                delay, copies = delay + fate.delay, fate.copies
        for _ in range(copies):
            self.after(delay, lambda: self._arrive(src, dst, decoded))

    def _arrive(self, src: NodeId, dst: NodeId, message: Message) -> None:
        host = self.hosts.get(dst)
        if host is not None and not self._is_cut(src, dst):
            self._happen(host, lambda now: host.forest.received(src, message, now))

    def _set_timer(self, host: Host, timer: Timer, at: int) -> None:
        serial, life = self.serial(), host.life
        host.timers[timer] = serial

        def fire() -> None:
            if host.life == life and host.timers.get(timer) == serial:
                if host.frozen is not None:
                    host.frozen.append(fire)
                else:
                    del host.timers[timer]
                    self._happen(host, lambda now: host.forest.timer(timer, now) or host.roles.timer(timer, now))

        self.after(max(at - self.now, 0), fire)

    def _store(self, host: Host, key: str, value: bytes | None) -> None:
        if host.held is not None:
            host.held.append((key, value))
            return
        life = host.life
        self.after(self.disk_delay, lambda: self.durable(host, key, value) if host.life == life else None)

    def durable(self, host: Host, key: str, value: bytes | None) -> None:
        if value is None:
            host.disk.pop(key, None)
        else:
            host.disk[key] = value
        self._happen(host, lambda now: host.forest.stored(key, now))

    def _transfer(self, host: Host, effect: StartTransfer) -> None:
        source = self.hosts.get(effect.peer)

        def end(now: int) -> None:
            there = source is not None and source.started and effect.blob in source.blobs
            if effect.blob in host.blobs or (there and not self._is_cut(host.id, effect.peer)):
                host.blobs[effect.blob] = True
                host.forest.holdings.handle(TransferDone(effect.blob), now)
            else:
                host.forest.holdings.handle(TransferFailed(effect.blob, 0, "gone"), now)

        self.after(10 * MS, lambda: self._happen(host, end))

    # ---- routing ----------------------------------------------------------------------------------------------------

    def route(self, origin: Host, key: bytes, message: Message) -> None:
        """Ask above at the origin, at one other node on the way, and deliver at the closest live one."""
        verdict = origin.forest.intercept(origin.id, message, self.now)
        if verdict is Verdict.CONSUME:
            return
        targets = origin.ring.closest(key, 1)
        if not targets:
            return
        if targets[0].id == origin.id:
            origin.forest.deliver(origin.id, message, self.now)
            return
        others = [host for host in self.hosts.values() if host.started and host.me.dialable and host is not origin]
        hop = self.gateway(origin) if not origin.me.dialable else self.stream.choice(others)
        self.after(self.latency, lambda: self._pass(origin.id, hop, key, message))

    def gateway(self, leaf: Host) -> Host:
        """The node through which an outbound-only one reaches the rest."""
        return next(host for host in self.by_rank()[::-1] if host.started and host.me.dialable)

    def _pass(self, relay: NodeId, hop: Host, key: bytes, message: Message) -> None:
        """``relay`` hands a routed message over."""
        if self._is_cut(relay, hop.id):
            return

        def at_hop(now: int) -> None:
            if hop.forest.intercept(relay, message, now) is Verdict.CONTINUE:
                target = hop.ring.closest(key, 1)[0]
                if target.id == hop.id:
                    hop.forest.deliver(relay, message, now)
                else:
                    self.after(self.latency, lambda: self._pass(hop.id, self.hosts[target.id], key, message))

        self._happen(hop, at_hop)

    def spread(self, head: Head) -> None:
        """What a record would do: everybody hears of ``head``, wherever it stands, and whenever it starts."""
        if self.news is None or head.order > self.news.order:
            self.news = head
        for host in self.hosts.values():
            if host.started:
                self._record(host, head)

    def _record(self, host: Host, head: Head) -> None:
        def arrives(now: int) -> None:
            host.forest.heard_of(head, now)
            if head.finished:
                host.forest.conclude(head.app, now)

        self.after(20 * MS, lambda: self._happen(host, arrives))

    # ---- what must hold ---------------------------------------------------------------------------------------------

    def note_commit(self, head: Head) -> None:
        """Called by every root that commits: one round, one model."""
        first = self.committed.setdefault((head.app, head.round), head)
        assert first.model == head.model, f"round {head.round} was committed twice with different models"

    def round(self) -> int:
        return max((round_ for _, round_ in self.committed), default=0)

    def finished(self) -> bool:
        return any(head.finished for head in self.committed.values())

    def check_sums(self) -> None:
        """Each model is the one before it and the numbers of exactly those that are named as contributors."""
        for (app, round_), head in self.committed.items():
            if round_ == 0:
                continue
            before = self.committed.get((app, round_ - 1))
            last = IntegerRoles.integer(before.model if before is not None else self.genesis.initial)
            expected = last + sum(IntegerRoles.number(member, round_) for member in head.contributors)
            assert IntegerRoles.integer(head.model) == expected, f"round {round_} is not the sum of its contributors"
            assert len(set(head.contributors)) == len(head.contributors)

    def check_tree(self) -> None:
        """One root, everybody else below it, parents and children of one opinion."""
        members = [host for host in self.hosts.values() if host.started and host.frozen is None]
        members = [host for host in members if self.app in host.forest.groves and host.grove().tree.wanted]
        for host in members:
            tree = host.grove().tree
            assert tree.attached, f"{host.id.hex()[4:12]} has no parent"
            if tree.parent is not None:
                parent = self.hosts[tree.parent].grove().tree
                assert host.id in parent.children
                assert tree.path == parent.my_path
        assert len([host for host in members if host.grove().tree.is_root]) == 1

    def all_attached(self) -> bool:
        try:
            self.check_tree()
        except (AssertionError, KeyError):
            return False
        return True

    def wave_of(self, host: Host) -> WaveId:
        wave: WaveId = host.grove().waves.current
        return wave
