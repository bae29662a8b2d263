"""The forest as the roles see it, played by the test; and what the roles asked for."""

from __future__ import annotations

import hashlib
from typing import Any

from fl.applications import Applications
from fl.config import RoundConfig
from fl.messages import Order, decode_order
from fl.spec import AppSpec
from fl.tasks import Task
from protocol.effects import CancelCompute, CancelTimer, Compute, Effect, Emit, Outbox, Pin, SetTimer, StartTransfer
from protocol.events import ComputeDone
from protocol.ids import AppId, NodeId, ring_id
from protocol.messages import EMPTY, Contact, Message, Value
from protocol.signing import Sealer
from pubsub.heads import Head
from pubsub.holdings import Holdings
from pubsub.messages import Partial, WaveId, WaveOpen
from pubsub.ports import Gathering, Genesis, OpenWave

SECOND = 1_000_000_000
OWNER = b"owner's public key"
ME = Contact(ring_id(0, b"me"), ("10.0.0.1:1",), 1)
PEERS = tuple(Contact(ring_id(0, b"peer %d" % index), (f"10.0.1.{index}:1",), 1) for index in range(8))
MODEL = Value(1, b"\x05")


def spec(**fields: Any) -> AppSpec:
    given: dict[str, Any] = {"rounds": 3, "data": "digits", "initial": MODEL, **fields}
    return AppSpec("app", OWNER, b"salt", 0, PEERS[:3], home=PEERS[0], **given)


def partial(member: Contact, number: int, weight: float = 1.0, **metrics: float) -> Partial:
    return Partial(weight, Value(1, bytes([number])), (member.id,), metrics)


class FakeWaves:
    def __init__(self, forest: FakeForest) -> None:
        self._forest = forest

    def open(self, message: WaveOpen, now: int, gathering: Gathering | None) -> None:
        decoded = decode_order(message.order)
        assert decoded is not None
        assert message.head.statement() is not None, "a head that its voters did not seal is believed by nobody"
        self._forest.opened.append((message.wave, decoded, message.closed, message.remaining))
        self._forest.earlier = message.earlier
        self._forest.gathered.append(gathering)


class Named:
    """Signs as whoever it is told to be, so that cardboard has an id; pairs with ``KeyedHashVerifier``."""

    nonce = b""

    def __init__(self, key: bytes) -> None:
        self.public_key = key

    def sign(self, domain: str, data: bytes) -> bytes:
        return sign(self.public_key, domain, data)


def sign(key: bytes, domain: str, data: bytes) -> bytes:
    return hashlib.sha256(key + domain.encode() + data).digest()


class Trusting:
    """Checks what ``Named`` signed."""

    def verify(self, public_key: bytes, domain: str, data: bytes, signature: bytes) -> bool:
        return sign(public_key, domain, data) == signature


class FakeRing:
    """Where messages go that are routed."""

    def __init__(self) -> None:
        self.routed: list[tuple[bytes, Message]] = []
        self.dead: set[NodeId] = set()

    def route(self, key: bytes, message: Message, now: int) -> None:
        self.routed.append((key, message))

    def alive(self, peer: NodeId) -> bool:
        return peer not in self.dead


class FakeGrove:
    """What the roles touch of a grove."""

    def __init__(self, forest: FakeForest) -> None:
        self.waves = FakeWaves(forest)
        self._forest = forest
        self.proposer = self
        self.epoch = 1
        self.tree = self
        self.rendezvous = self
        self.live_root: Contact | None = None
        self.is_root, self.depth = True, 0
        self.parent: NodeId | None = None
        self.children: dict[NodeId, object] = {}

    @property
    def attached(self) -> bool:
        return self.is_root or self.parent is not None

    def propose(self, head: Head, now: int) -> None:
        self._forest.proposed.append(head)


class FakeForest:
    def __init__(self, out: Outbox) -> None:
        self.holdings = Holdings(out)
        self.opened: list[tuple[WaveId, Order, tuple[NodeId, ...], int]] = []
        self.earlier: Value = EMPTY
        """The model of an earlier round that the last wave works on, if any."""
        self.gathered: list[Gathering | None] = []
        """What each wave waits for."""
        self.proposed: list[Head] = []
        self.contributed: list[tuple[WaveId, Partial | None]] = []
        self.handed_in: list[Partial | None] = []
        self.absent: list[int] = []
        """Members behind what was left out of each."""
        self.counted: list[str] = []
        self.joined: list[AppId] = []
        self.known: list[Genesis] = []
        self.heard: list[Head] = []
        self.concluded: list[AppId] = []
        self.room = True
        self.ring = FakeRing()
        self.proof: bool | None = True
        """What is found out about heads in records."""
        self.asked = 0
        """Proofs that were evaluated."""
        self.groves: dict[AppId, FakeGrove] = {}

    def sources(self, app: AppId, *first: NodeId) -> tuple[NodeId, ...]:
        return next(one for one in self.known if one.app == app).sources(b"", *first)

    def know(self, genesis: Genesis, now: int) -> bool:
        if self.room:
            self.known.append(genesis)
            self.groves[genesis.app] = FakeGrove(self)
        return self.room

    def heard_of(self, head: Head, now: int) -> None:
        self.heard.append(head)

    def proven(self, head: Head) -> bool | None:
        self.asked += 1
        return self.proof

    def conclude(self, app: AppId, now: int) -> None:
        self.concluded.append(app)

    def join(self, app: AppId, now: int) -> None:
        self.joined.append(app)

    def contribute(self, app: AppId, wave: WaveId, part: Partial | None, now: int) -> bool:
        self.contributed.append((wave, part))
        return True

    def hand_in(self, app: AppId, wave: WaveId, part: Partial | None, now: int, absent: int = 0) -> None:
        self.handed_in.append(part)
        self.absent.append(absent)

    def count(self, name: str) -> None:
        self.counted.append(name)


class Stage:
    """One node's roles, for one application, on a stage of cardboard."""

    def __init__(self, **fields: Any) -> None:
        self.out = Outbox(ME.id)
        self.published: list[Head] = []
        self.roles = Applications(
            ME,
            RoundConfig(),
            out=self.out,
            publish_voters=lambda head, now: self.published.append(head),
            sealer=Sealer(Named(b"me"), Trusting()),
            label="ward 3",
        )
        self.forest = FakeForest(self.out)
        self.roles.attach(self.forest)  # type: ignore[arg-type]
        self.spec = spec(**fields)
        self.app = self.spec.id
        self.now = 0
        self.effects: list[Effect] = []

    def __call__(self, kind: type[Any]) -> list[Any]:
        """All effects of ``kind`` so far."""
        self.effects += self.out.drain()
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def notices(self) -> list[Any]:
        return [effect.notice for effect in self(Emit)]

    def said(self, kind: type[Any]) -> list[Any]:
        return [notice for notice in self.notices if isinstance(notice, kind)]

    @property
    def tasks(self) -> list[Task]:
        """Computations that were started and not cancelled."""
        cancelled = [effect.job for effect in self(CancelCompute)]
        return [effect.task for effect in self(Compute) if effect.job not in cancelled]

    def finish(self, result: Any, error: str = "") -> None:
        """The newest job ends."""
        job = self(Compute)[-1].job
        self.roles.jobs.done(ComputeDone(job, result, error), self.now)

    @property
    def timers(self) -> dict[Any, int]:
        running: dict[Any, int] = {}
        for effect in self((SetTimer, CancelTimer)):  # type: ignore[arg-type]
            if isinstance(effect, SetTimer):
                running[effect.timer] = effect.at
            else:
                running.pop(effect.timer, None)
        return running

    def tick(self) -> None:
        """The round's timer fires."""
        timer = ("fl.next", self.app)
        self.now = self.timers[timer]
        self.effects = [effect for effect in self.effects if getattr(effect, "timer", None) != timer]
        self.roles.timer(timer, self.now)

    @property
    def pinned(self) -> dict[bytes, int]:
        held: dict[bytes, int] = {}
        for effect in self(Pin):
            held[effect.blob] = held.get(effect.blob, 0) + (1 if effect.keep else -1)
        return held

    @property
    def transfers(self) -> list[StartTransfer]:
        return self(StartTransfer)

    # ---- how things begin ----

    def learned(self, *, bound: bool = True, trusted: bool = True) -> Stage:
        """The descriptor is known; the operator binds data and trusts the owner, or not."""
        self.roles.bind(frozenset({"digits"} if bound else ()), True, self.now)
        self.roles.trust(frozenset({OWNER} if trusted else ()), frozenset(), self.now)
        self.roles.records._learn(self.spec, self.now)
        return self

    def head(self, epoch: int = 1, round_: int = 0, **fields: Any) -> Head:
        given: dict[str, Any] = {"model": MODEL, **fields}
        return Head(self.app, epoch, round_, ME, self.spec.voters, **given)

    def wave(
        self,
        order: bytes,
        *,
        epoch: int = 1,
        round_: int = 1,
        number: int = 0,
        may: bool = True,
        closed: tuple[NodeId, ...] = (),
        model: Value = MODEL,
        source: Contact = PEERS[1],
    ) -> OpenWave:
        head = Head(self.app, epoch, round_ - 1, source, self.spec.voters, model)
        opening = WaveOpen(self.app, WaveId(epoch, round_, number), head, 0, closed, order)
        return OpenWave(opening, source.id, may)
