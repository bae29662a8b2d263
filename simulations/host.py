"""One simulated machine: the process on it, its disk, its clock and its links.

Kept small, because there may be 10^5 of them: what most hosts never use is created when it is first used.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from protocol.effects import Effect
from protocol.events import Event, Timer
from protocol.ids import BlobId, NodeId
from protocol.messages import Contact

from .clock import Call

if TYPE_CHECKING:
    from .disk import Disk
    from .flows import Flow
    from .links import Link


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
