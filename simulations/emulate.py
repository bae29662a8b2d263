"""A whole fabric in one process, for ``python app.py`` under a debugger and for ``mycelia run --simulate N``.

The nodes are the daemon's own cores on the engine; only network, disk and clock are emulated, and user code runs inline
(``simulations.learning``).  What works here works on machines, and the same seed gives the same model to the bit.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dht.records import Kind, sign_record
from fl import aggregate, metrics
from fl import spec as specs
from fl.data.binding import Binding
from fl.notices import (
    Bind,
    FindVoters,
    Publish,
    ReplicasFound,
    RoundCommitted,
    Start,
    StatusChanged,
    Trust,
    WorkFailed,
)
from fl.sdk import App
from fl.spec import AppSpec
from node.core import CoreConfig, NodeCore
from protocol import ids
from protocol.errors import MyceliaError
from protocol.ids import NodeId
from protocol.messages import Contact
from protocol.streams import Stream

from .artifacts import Artifacts
from .clock import SECOND
from .engine import Engine
from .host import Host
from .learning import LearningCompute
from .network import Network, NetworkConfig
from .signing import KeyedHashSigner, KeyedHashVerifier, endorsed

EPOCH_NS = 1_700_000_000 * SECOND
VOTERS = 5
JOIN_LIMIT_NS = 120 * SECOND
ROUND_LIMIT_NS = 120 * SECOND
"""Virtual time that one round may take before the run is given up; a round of emulated nodes takes two seconds."""

Say = Callable[[str], None]


class EmulationError(MyceliaError):
    """The emulated run could not be finished; the message says which node failed and how."""

    exit_code = 9


@dataclass(frozen=True, slots=True)
class Round:
    """One committed round."""

    number: int
    contributors: tuple[NodeId, ...]
    seconds: float
    """Virtual time since the run began."""
    metrics: dict[str, float]
    """Means, of the model that the round started from."""
    model: bytes


@dataclass(slots=True)
class Emulated:
    """What a run brought."""

    app: AppSpec
    nodes: tuple[NodeId, ...]
    """In the order of the bindings."""
    rounds: list[Round] = field(default_factory=list)
    model: bytes = b""
    """The last model, as safetensors."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Means of the last model over the nodes' own test data."""


class Emulation:
    """One application on ``len(bindings)`` nodes."""

    def __init__(self, app: App, bindings: Sequence[Binding], say: Say) -> None:
        self.app, self._say = app, say
        self._artifacts = Artifacts()
        self._signers = [KeyedHashSigner(app.seed, "node", index) for index in range(len(bindings))]
        contacts = [
            Contact(ids.ring_id(0, signer.public_key), (f"sim:{index}",)) for index, signer in enumerate(self._signers)
        ]
        inline, loaders = importlib.import_module("fl.learn.inline"), importlib.import_module("fl.data.loaders")
        self._runners = {
            contact.id: inline.InlineRunner(app, loaders.load(binding, app.schema, name), node=name)
            for index, (contact, binding) in enumerate(zip(contacts, bindings, strict=True))
            for name in [f"node {index}"]
        }
        self._owner = KeyedHashSigner(app.seed, "owner")
        compute = LearningCompute(self._runners, self._artifacts, app.seed)
        self._compute = compute
        self.engine = Engine(
            app.seed, Network(NetworkConfig(), app.seed), self._core, compute, artifacts=self._artifacts
        )
        self.hosts = [self.engine.add(contact) for contact in contacts]
        self.result: Emulated | None = None
        self._over = ""
        self._ready: tuple[Contact, ...] = ()
        for kind, tap in (
            (ReplicasFound, self._voters_found), (RoundCommitted, self._committed), (StatusChanged, self._status),
            (WorkFailed, self._failed),
        ):  # fmt: skip
            self.engine.tap(kind, tap)

    def _core(self, host: Host) -> NodeCore:
        return NodeCore(
            host.contact,
            CoreConfig(),
            signer=self._signers[host.index],
            verifier=KeyedHashVerifier(),
            roll=endorsed(host.contact.id),
            seed=Stream(self.app.seed, "core", host.index).bits() >> 1,
            wall_offset=EPOCH_NS,
            restored=host.disk.durable if host.disk is not None else {},
            owns=self._owner.public_key.__eq__,
        )

    def run(self) -> Emulated:
        """Raises EmulationError when the application does not finish."""
        first = self.hosts[0].contact
        for index, host in enumerate(self.hosts):
            requests = (
                Start((first,) if index else ()),
                Bind(frozenset([self.app.data])),
                Trust(frozenset([self._owner.public_key])),
            )
            self.engine.schedule.at(index * SECOND // 20, self.engine.start, host, *requests)
        everybody = len(self.hosts)
        self._wait(lambda: sum(one.alive and _core(one).ring.ready for one in self.hosts) == everybody, JOIN_LIMIT_NS)
        app_id = ids.app_id(0, self.app.name, self._owner.public_key, b"")
        self.engine.command(self.hosts[0], FindVoters(1, app_id, min(VOTERS, everybody)))
        self._wait(lambda: bool(self._over), ROUND_LIMIT_NS * (self.app.rounds + 2))
        assert self.result is not None
        return self.result

    def _wait(self, satisfied: Callable[[], bool], limit: int) -> None:
        start = self.engine.now
        while not satisfied():
            if self.engine.now - start > limit:
                raise EmulationError(f"{self.app.name} did not get on for {limit // SECOND} s of virtual time")
            self.engine.schedule.run(self.engine.now + SECOND // 10)

    # ---- what the nodes say -----------------------------------------------------------------------------------------

    def _voters_found(self, now: int, host: Host, effect: Any) -> None:
        if self.result is not None:
            return
        app = self.app
        initial = self._runners[host.id].initial(app.options, app.seed)
        spec = AppSpec(
            name=app.name, owner=self._owner.public_key, salt=b"", zone=0, voters=effect.notice.contacts,
            rounds=app.rounds, initial=self._compute.value(host, initial), home=host.contact, data=app.data,
            schema=dict(app.schema), strategy=app.strategy, options=dict(app.options), seed=app.seed,
            fan_out=app.fan_out, fraction=app.fraction, min_workers=max(app.min_workers, len(self.hosts)),
            quorum=app.quorum, stop=app.stop, layout=aggregate.layout_of(initial),
        )  # fmt: skip
        self.result = Emulated(spec, tuple(each.id for each in self.hosts), model=initial)
        expires = (EPOCH_NS + now) // SECOND + 30 * 24 * 3600
        record = sign_record(self._owner, Kind.APP, spec.id, 1, expires, specs.encode(spec))
        self.engine.command(host, Publish(record))

    def _committed(self, now: int, host: Host, effect: Any) -> None:
        """Every node hears of every commit; the first to hear is the root."""
        head, result = effect.notice.head, self.result
        assert result is not None
        last = result.rounds[-1].number if result.rounds else 0
        if head.round <= last or (head.finished and result.metrics):
            return
        means = metrics.means(effect.notice.metrics)
        if head.finished:
            result.metrics = means
        if head.round <= self.app.rounds and head.contributors:
            result.model = self._compute.content(head.model)
            result.rounds.append(Round(head.round, head.contributors, now / SECOND, means, result.model))
            shown = "  ".join(f"{name} {means[name]:.4f}" for name in ("loss", "accuracy") if name in means)
            self._say(f"round {head.round:>3}  {len(head.contributors):>3} nodes  {shown}")

    def _status(self, now: int, host: Host, effect: Any) -> None:
        if effect.notice.status in ("finished", "stopped"):
            self._over = effect.notice.status

    def _failed(self, now: int, host: Host, effect: Any) -> None:
        raise EmulationError(f"node {host.index}: {effect.notice.error}", "set a breakpoint there and run again")


def _core(host: Host) -> NodeCore:
    core = host.core
    assert isinstance(core, NodeCore)
    return core


def run(app: App, bindings: Sequence[Binding], say: Say | None = None) -> Emulated:
    """Run ``app`` on one emulated node per binding; ``say`` hears one line per round (default: print)."""
    tell = say if say is not None else _print
    result = Emulation(app, bindings, tell).run()
    shown = "  ".join(f"{name} {result.metrics[name]:.4f}" for name in ("loss", "accuracy") if name in result.metrics)
    tell(f"finished after {len(result.rounds)} rounds  {shown}")
    return result


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is a program's output
