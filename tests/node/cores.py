"""A few whole cores back to back: links that always work, disks that keep everything, work that is integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from dht.config import RingConfig
from dht.records import Kind, sign_record
from fl import spec as specs
from fl.notices import Bind, Publish, RoundCommitted, Start, Trust
from fl.tasks import Contribution, Describe, Evaluate, Finish, Finished, Merge, Merged, Train
from node.core import CoreConfig, NodeCore
from protocol import effects as fx
from protocol import events as ev
from protocol import wire
from protocol.errors import Code
from protocol.ids import NodeId, ring_id
from protocol.messages import EMPTY, Contact, Value
from pubsub.heads import Head
from simulations.signing import KeyedHashSigner, KeyedHashVerifier, endorsed
from tests.happenings import Happenings

MS = 1_000_000
SECOND = 1_000 * MS
CONFIG = CoreConfig(ring=RingConfig.local())
OWNER = KeyedHashSigner(1, "owner")


def number(value: Value) -> int:
    return int.from_bytes(value.inline, "big")


def value(of: int) -> Value:
    return Value(8, of.to_bytes(8, "big"))


class Machine:
    """A core and its host."""

    def __init__(self, fabric: Fabric, name: str, *, dialable: bool) -> None:
        self.fabric, self.name = fabric, name
        self.signer = KeyedHashSigner(1, name)
        self.me = Contact(ring_id(0, self.signer.public_key), (f"{name}:1",) if dialable else ())
        self.disk: dict[str, bytes] = {}
        self.notices: list[Any] = []
        self.penalties: list[tuple[NodeId, Code]] = []
        self.timers: dict[Any, int] = {}
        self.links: dict[NodeId, None] = {}
        self.core: NodeCore | None = None
        self.life = 0
        self.failing = ""
        """What each training ends with instead of a result: a sentence, and lines of a traceback."""
        self.log: list[tuple[ev.Event, int]] = []
        """What happened to the core in its present life, and when."""

    def boot(self, *seeds: Contact) -> None:
        self.life += 1
        self.me = msgspec.structs.replace(self.me, incarnation=self.life)
        self.timers, self.links, self.log = {}, {}, []
        self.core = NodeCore(
            self.me,
            CONFIG,
            signer=self.signer,
            verifier=KeyedHashVerifier(),
            roll=endorsed(self.me.id),
            seed=self.life,
            restored=self.disk,
            label=self.name,
            owns=OWNER.public_key.__eq__,
        )
        self.command(Start(seeds))
        self.command(Bind(frozenset({"data"})))
        self.command(Trust(frozenset({OWNER.public_key})))

    def crash(self) -> None:
        self.core = None
        self.life += 1
        for peer in list(self.links):
            other = self.fabric.by_id[peer]
            other.links.pop(self.me.id, None)
            self.fabric.after(MS, lambda other=other: other.feed(ev.PeerDown(self.me.id)))  # type: ignore[misc]

    def command(self, request: Any) -> None:
        self.feed(ev.Command(request))

    def feed(self, event: ev.Event) -> None:
        if self.core is None:
            return
        self.log.append((event, self.fabric.now))
        effects = self.core.handle(event, self.fabric.now)
        self.core.check_invariants()
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(peer, message):
                self.fabric.deliver(self, peer, message)
            case fx.SetTimer(timer, at):
                self.timers[timer] = at
                self.fabric.after(max(at - self.fabric.now, 0), self._fire(timer, at))
            case fx.CancelTimer(timer):
                self.timers.pop(timer, None)
            case fx.Store(key, content):
                self._store(key, content)
            case fx.Compute(job, task):
                failing = self.failing if isinstance(task, Train) else ""
                self._later(10 * MS, ev.ComputeDone(job, None if failing else self._work(task), failing))
            case fx.Emit(notice):
                self.notices.append(notice)
            case fx.Penalize(peer, code):
                self.penalties.append((peer, code))
            case _:
                pass

    def _later(self, delay: int, event: ev.Event) -> None:
        life = self.life
        self.fabric.after(delay, lambda: self.feed(event) if self.life == life else None)

    def _fire(self, timer: Any, at: int) -> Callable[[], None]:
        life = self.life

        def fire() -> None:
            if self.life == life and self.timers.get(timer) == at:
                del self.timers[timer]
                self.feed(ev.TimerFired(timer, at))

        return fire

    def _store(self, key: str, content: bytes | None) -> None:
        if content is None:
            self.disk.pop(key, None)
        else:
            self.disk[key] = content
        self._later(MS, ev.Stored(key))

    def _work(self, task: Any) -> Any:
        match task:
            case Train():
                update = value(task.seed % 1000)
                return Contribution(update, 1.0, {"loss": 1.0, "loss.n": 1.0})
            case Merge():
                return Merged(value(sum(number(one) for one in task.inputs)))
            case Finish():
                return Finished(value(number(task.model) + number(task.total)), EMPTY)
            case Describe() | Evaluate():
                return Contribution(EMPTY, 1.0, {"data": 5.0, "data.n": 10.0})
            case _:
                raise NotImplementedError(task)

    # ---- what it told ----

    def commits(self) -> list[Head]:
        return [notice.head for notice in self.notices if isinstance(notice, RoundCommitted)]

    def told(self, kind: type[Any]) -> list[Any]:
        return [notice for notice in self.notices if isinstance(notice, kind)]


class Fabric(Happenings):
    """All machines, and the time."""

    def __init__(self, size: int, leaves: int = 0) -> None:
        super().__init__(SECOND)
        names = [f"node-{index}" for index in range(size)] + [f"leaf-{index}" for index in range(leaves)]
        self.machines = [Machine(self, name, dialable=name.startswith("node")) for name in names]
        self.by_id = {machine.me.id: machine for machine in self.machines}

    def start(self) -> None:
        first, *rest = self.machines
        first.boot()
        for machine in rest:
            machine.boot(first.me)
        self.run(5 * SECOND)

    def submit(self, rounds: int = 3, **fields: Any) -> specs.AppSpec:
        dialable = tuple(machine.me for machine in self.machines if machine.me.dialable)
        given: dict[str, Any] = {"min_workers": len(self.machines), **fields}
        spec = specs.AppSpec(
            "app", OWNER.public_key, b"salt", 0, dialable[:5], rounds, value(0), dialable[0], "data", **given
        )
        self.machines[0].command(Publish(self.record(Kind.APP, spec.id, specs.encode(spec))))
        return spec

    def record(self, kind: Kind, subject: bytes, body: bytes, expires: int = 10**6) -> Any:
        return sign_record(OWNER, kind, subject, 1, expires, body)

    def deliver(self, src: Machine, peer: NodeId, message: Any) -> None:
        dst = self.by_id.get(peer)
        decoded, _ = wire.decode(wire.encode(message))
        if dst is None or dst.core is None or not (dst.me.dialable or src.me.id in dst.links):
            self.after(MS, lambda: src.feed(ev.SendFailed(peer, message)))
            return
        if peer not in src.links:
            src.links[peer] = dst.links[src.me.id] = None
            self.after(MS, lambda: src.feed(ev.PeerUp(peer)))
            self.after(MS, lambda: dst.feed(ev.PeerUp(src.me.id)))
        life = dst.life
        self.after(MS, lambda: dst.feed(ev.Received(src.me.id, decoded)) if dst.life == life else None)

    def finished(self) -> bool:
        """Everybody who is up knows of the end."""
        return all(
            any(head.finished for head in machine.commits()) for machine in self.machines if machine.core is not None
        )
