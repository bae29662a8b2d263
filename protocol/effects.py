"""Everything that a machine can ask of its driver, and the outbox in which the parts of a node collect it.

The driver executes effects in order.  ``Send`` never blocks: the driver dials when no link stands, bounds its
queue, and answers ``SendFailed`` when it gives up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, dataclass_transform

import msgspec

from .errors import Code
from .events import Event, Timer
from .ids import BlobId, NodeId
from .messages import Message, Routed


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Effect(msgspec.Struct, frozen=True, gc=False):
    """Base of all effects."""


class Send(Effect):
    peer: NodeId
    message: Message | Routed


class SetTimer(Effect):
    """Fire ``TimerFired(timer, at)`` at ``at`` ns; replaces a pending timer of the same name."""

    timer: Timer
    at: int


class CancelTimer(Effect):
    timer: Timer


class Connect(Effect):
    """Open a link to ``peer`` ahead of need; its addresses are in the core's contact table."""

    peer: NodeId


class Disconnect(Effect):
    peer: NodeId
    why: str = "idle"


class Store(Effect):
    """Make ``key`` durable with ``value`` (None deletes), then answer ``Stored(key)``."""

    key: str
    value: bytes | None


class Compute(Effect):
    """Run ``task`` off the loop and answer ``ComputeDone(job, …)``.  Tasks are defined in ``fl.tasks``."""

    job: int
    task: Any


class CancelCompute(Effect):
    job: int


class StartTransfer(Effect):
    """Bring ``blob`` of ``size`` bytes here from ``peer``; may start while ``peer`` itself is still receiving it."""

    peer: NodeId
    blob: BlobId
    size: int


class CancelTransfer(Effect):
    blob: BlobId


class Pin(Effect):
    """Keep ``blob`` until it is unpinned: the artifact store's garbage collector asks nobody else."""

    blob: BlobId
    keep: bool = True


class Emit(Effect):
    """Tell the program above: a notice of ``fl.notices`` or ``dht``."""

    notice: Any


class Penalize(Effect):
    """Count ``code`` against ``peer``."""

    peer: NodeId
    code: Code
    detail: str = ""


class Machine(Protocol):
    """Total, synchronous, without I/O, clock or global randomness; never raises on what a peer sent."""

    def handle(self, event: Event, now: int) -> Sequence[Effect]: ...


class Outbox:
    """Effects of one step.  The parts of a node share one, so that order across parts is the order of causes."""

    __slots__ = ("_pins", "effects", "loopback", "me")

    def __init__(self, me: NodeId = b"") -> None:
        self.me = me
        self.effects: list[Effect] = []
        self.loopback: list[Message | Routed] = []
        """What this node sent to itself: a voter may be its own root.  The owner of the outbox feeds it back."""
        self._pins: dict[BlobId, int] = {}
        """How many parts of the node want each artifact kept."""

    def drain(self) -> list[Effect]:
        """All effects since the last drain."""
        effects, self.effects = self.effects, []
        return effects

    def send(self, peer: NodeId, message: Message | Routed) -> None:
        if peer == self.me:
            self.loopback.append(message)
        else:
            self.effects.append(Send(peer, message))

    def set_timer(self, timer: Timer, at: int) -> None:
        self.effects.append(SetTimer(timer, at))

    def cancel_timer(self, timer: Timer) -> None:
        self.effects.append(CancelTimer(timer))

    def store(self, key: str, value: bytes | None) -> None:
        self.effects.append(Store(key, value))

    def pin(self, blob: BlobId) -> None:
        """Keep ``blob`` until it was unpinned as often: equal artifacts of two applications are one."""
        self._pins[blob] = self._pins.get(blob, 0) + 1
        if self._pins[blob] == 1:
            self.effects.append(Pin(blob))

    def unpin(self, blob: BlobId) -> None:
        left = self._pins.get(blob, 0) - 1
        if left > 0:
            self._pins[blob] = left
        elif self._pins.pop(blob, None) is not None:
            self.effects.append(Pin(blob, keep=False))

    def emit(self, notice: Any) -> None:
        self.effects.append(Emit(notice))

    def penalize(self, peer: NodeId, code: Code, detail: str = "") -> None:
        self.effects.append(Penalize(peer, code, detail))
