"""One simulated machine: the process on it, its disk, its clock, its links and its transfers.

These are tables and no more; the laws by which they change are in ``engine``, ``disk``, ``links`` and ``flows``.
Kept small, because there may be 10^5 of them: what most hosts never use is created when it is first used.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from protocol.effects import Effect
from protocol.events import Event, Timer
from protocol.ids import BlobId, NodeId
from protocol.messages import Contact, Message, Routed

from .clock import SECOND, Call


class Core(Protocol):
    """What the engine drives: ``node.core.NodeCore``, or anything that keeps the same contract."""

    def handle(self, event: Event, now: int) -> list[Effect]: ...

    def contact(self, peer: NodeId) -> Contact | None:
        """How to reach ``peer``, asked when a link must be dialled."""
        ...


Factory = Callable[["Host"], Core]
"""Builds the core of a host whose process starts: from ``contact``, ``boot`` and, if there is a disk, ``disk``."""


class State(enum.IntEnum):
    """Of the process, and of the machine under it."""

    RUNNING = 0
    FROZEN = 1
    """Stopped (SIGSTOP, a laptop's lid): sockets stay open and fill, timers come late."""
    CRASHED = 2
    """The process is gone; its kernel answers every packet with a reset."""
    OFF = 3
    """The machine is gone: silence."""


Parcel = Message | Routed | None
"""What travels on a link; None opens one that does not stand yet and closes one that does."""


class Host:
    """Identity survives a crash if the disk does; a host that lost its disk is never started again."""

    __slots__ = (
        "artifacts",
        "backlog",
        "boot",
        "busy_until",
        "clock_offset",
        "compute_scale",
        "contact",
        "core",
        "disk",
        "id",
        "index",
        "links",
        "pins",
        "receiving",
        "state",
        "timers",
    )

    def __init__(self, index: int, contact: Contact, clock_offset: int = 0) -> None:
        self.index = index
        self.id: NodeId = contact.id
        self.contact = contact
        self.core: Core | None = None
        self.state = State.CRASHED
        self.boot = 0
        """Counts starts of the process: whatever was under way for an earlier one is void."""
        self.clock_offset = clock_offset
        """The host's own clock shows the engine's time plus this many ns: no two nodes' clocks agree."""
        self.busy_until = 0
        """Until then the control uplink is sending, ns."""
        self.compute_scale = 1.0
        self.timers: dict[Timer, tuple[int | None, int, int]] = {}
        """Name → (due, or None if cancelled; time and serial number of its heap entry)."""
        self.links: dict[NodeId, Link] = {}
        self.backlog: deque[tuple[Call, tuple[Any, ...]]] | None = None
        """What is to happen to a frozen process when it thaws."""
        self.disk: Disk | None = None
        self.artifacts: dict[BlobId, int] | None = None
        """What the artifact store holds, oldest first → bytes."""
        self.pins: dict[BlobId, None] | None = None
        self.receiving: dict[BlobId, Flow] | None = None

    @property
    def alive(self) -> bool:
        """A process exists, even if it is stopped."""
        return self.core is not None

    def __repr__(self) -> str:
        return f"Host({self.index}, {self.id.hex()[4:12]}, {self.state.name}, boot {self.boot})"


class Disk:
    """One host's disk: what is durable, and what is on its way."""

    __slots__ = ("durable", "free_at", "pending", "scale")

    def __init__(self) -> None:
        self.durable: dict[str, bytes] = {}
        self.pending: deque[tuple[str, bytes | None]] = deque()
        self.free_at = 0
        self.scale = 1.0
        """Slows down every write."""


class Link:
    """One connection.  A host has it in its table from its own dial, or from the arrival of the other's."""

    __slots__ = ("a", "b", "boot_a", "boot_b", "held", "last_from_a", "last_from_b", "latency", "opened", "up")

    def __init__(self, dialler: Host, other: Host, latency: int, now: int) -> None:
        self.a, self.b = dialler, other
        self.boot_a, self.boot_b = dialler.boot, other.boot
        self.latency = latency
        self.opened = now
        self.up = False
        self.last_from_a = now + 3 * latency
        """When the latest message from ``a`` arrives; the handshake comes first."""
        self.last_from_b = now
        self.held: list[tuple[Host, Parcel]] | None = None

    def other(self, host: Host) -> Host:
        return self.b if host is self.a else self.a

    def boot_of(self, host: Host) -> int:
        """Which life of ``host`` has this link."""
        return self.boot_a if host is self.a else self.boot_b

    def serves(self, host: Host) -> bool:
        """The process that this link belongs to at ``host`` still lives."""
        return host.boot == self.boot_of(host) and host.core is not None


class Flow:
    """One transfer.  ``progress`` is what was there at ``since``; ``rate`` (bytes/s) holds from then on."""

    __slots__ = ("begun", "blob", "generation", "progress", "rate", "since", "size", "source", "still_since", "target")

    def __init__(self, source: Host, target: Host, blob: BlobId, size: int, progress: float, now: int) -> None:
        self.source, self.target, self.blob, self.size = source, target, blob, size
        self.progress = progress
        self.rate = 0.0
        self.since = now
        self.still_since = now
        self.begun = False
        self.generation = 0
        """An event armed for an earlier generation is stale."""

    def advance(self, now: int) -> float:
        """Bytes at the target by ``now``, which becomes the new reference."""
        self.progress = min(float(self.size), self.progress + self.rate * (now - self.since) / SECOND)
        self.since = now
        return self.progress

    @property
    def listed(self) -> bool:
        """Still the way in which its target gets the blob."""
        return self.target.receiving is not None and self.target.receiving.get(self.blob) is self
