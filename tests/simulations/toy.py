"""A small core that keeps the driver's contract, for tests of the engine alone: it gossips and does as it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from dht.messages import Ping, Pong
from protocol import effects as fx
from protocol import events as ev
from protocol.ids import NodeId, ring_id
from protocol.messages import Contact
from protocol.streams import Stream
from simulations.clock import MILLISECOND
from simulations.compute import Outcome
from simulations.engine import Engine
from simulations.host import Host
from simulations.network import Network, NetworkConfig


class Do(msgspec.Struct, frozen=True):
    """Return these effects."""

    effects: tuple[fx.Effect, ...]


class Gossip(msgspec.Struct, frozen=True):
    """Ping a random peer every ``period`` ns."""

    period: int


class Toy:
    """Answers pings, remembers all events, and does what it is told."""

    def __init__(self, host: Host, book: dict[NodeId, Contact]) -> None:
        self.host = host
        self.book = book
        self.seen: list[tuple[int, ev.Event]] = []
        self.stream = Stream(7, host.id, host.boot)
        self.period = 0
        self.restored = dict(host.disk.durable) if host.disk else {}

    def contact(self, peer: NodeId) -> Contact | None:
        return self.book.get(peer)

    def handle(self, event: ev.Event, now: int) -> list[fx.Effect]:
        self.seen.append((now, event))
        if isinstance(event, ev.Command):
            if isinstance(event.request, Do):
                return list(event.request.effects)
            self.period = event.request.period
            return [fx.SetTimer(("gossip",), now + self.period)]
        if isinstance(event, ev.TimerFired) and self.period:
            peer = self.stream.choice([peer for peer in self.book if peer != self.host.id])
            return [fx.Send(peer, Ping(self.stream.below(1000))), fx.SetTimer(("gossip",), now + self.period)]
        if isinstance(event, ev.Received) and isinstance(event.message, Ping):
            return [fx.Send(event.peer, Pong(event.message.nonce))]
        return []

    def events(self, kind: type) -> list[Any]:
        return [event for _, event in self.seen if type(event) is kind]


class FixedCompute:
    """Every task takes 10 ms and returns itself."""

    def run(self, host: Host, task: Any) -> Outcome:
        return Outcome(task, "", 10 * MILLISECOND)


class Lab:
    """An engine full of toys."""

    def __init__(self, count: int, seed: int = 1, **config: Any) -> None:
        self.book: dict[NodeId, Contact] = {}
        self.network = Network(NetworkConfig(**config), seed)
        self.engine = Engine(seed, self.network, lambda host: Toy(host, self.book), FixedCompute(), check_wire=True)
        for index in range(count):
            contact = Contact(ring_id(0, index.to_bytes(4, "big")), (f"sim:{index}",))
            self.book[contact.id] = contact
            self.engine.add(contact, clock_offset=index * 1000)
        for host in self.engine.hosts:
            self.engine.start(host)

    def host(self, index: int) -> Host:
        return self.engine.hosts[index]

    def toy(self, index: int) -> Toy:
        core = self.host(index).core
        assert isinstance(core, Toy)
        return core

    def do(self, index: int, *effects: fx.Effect) -> None:
        self.engine.command(self.host(index), Do(effects))

    def send(self, source: int, target: int, nonces: Sequence[int] = (1,)) -> None:
        self.do(source, *(fx.Send(self.host(target).id, Ping(nonce)) for nonce in nonces))

    def run(self, ns: int) -> None:
        self.engine.schedule.run(self.engine.now + ns)
