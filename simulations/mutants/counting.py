"""Bugs of the waves: contributions that are counted twice, too late, or for something else."""
# ruff: noqa: SLF001 - a planted bug has the body of the method that it replaces

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import msgspec

from fl.messages import Order
from fl.worker import Worker
from protocol.ids import NodeId
from pubsub.intake import Intake
from pubsub.messages import Claim, Partial, WaveOpen, WaveUp
from pubsub.ports import Gathering, HandedIn, OpenWave
from pubsub.waves import Waves

from .planting import patched, together


def double_merge() -> AbstractContextManager[None]:
    """A partial that arrives twice is merged twice."""

    def on_up(self: Waves, peer: NodeId, message: WaveUp, now: int) -> None:
        if message.wave != self.current or self.collected:
            return
        if message.partial is not None:
            parts = self._intake.parts
            parts[peer + bytes([len(parts)])] = message.partial
            self._intake._claims.update(zip(message.partial.contributors, message.claims, strict=True))
        self._expected[peer] = True
        self._progress(now)

    return patched(Waves, "on_up", on_up)


def resend_after_send() -> AbstractContextManager[None]:
    """A node that has handed in hands in again when it gets another parent."""
    original = Waves._flush

    def flush(self: Waves, now: int) -> None:
        ready = self._ready
        original(self, now)
        if self._ready is None and ready is not None:
            self._ready = ready

    return patched(Waves, "_flush", flush)


def late_partial_forwarded() -> AbstractContextManager[None]:
    """What arrives after a node has handed in is sent on to its parent."""
    original = Waves.on_up

    def on_up(self: Waves, peer: NodeId, message: WaveUp, now: int) -> None:
        late = message.wave == self.current and self.collected
        if late and message.partial is not None and self._tree.parent is not None:
            self._out.send(self._tree.parent, message)
            return
        original(self, peer, message, now)

    return patched(Waves, "on_up", on_up)


def handed_to_a_stranger() -> AbstractContextManager[None]:
    """A node answers whoever opened the wave, though it has another parent by now."""
    original = Waves._flush

    def flush(self: Waves, now: int) -> None:
        wave, parent = self._open, self._tree.parent
        if wave is not None and parent is not None and wave.source != self._tree.me.id:
            self._tree.parent = wave.source
            original(self, now)
            self._tree.parent = parent
        else:
            original(self, now)

    return patched(Waves, "_flush", flush)


def no_amnesia() -> AbstractContextManager[None]:
    """A node that has restarted takes part in the wave that is under way."""
    original = Waves._begin

    def begin(self: Waves, message: WaveOpen, source: NodeId, now: int, gathering: Gathering | None = None) -> None:
        self.amnesia = False
        original(self, message, source, now, gathering)

    return patched(Waves, "_begin", begin)


def closed_ignored() -> AbstractContextManager[None]:
    """A worker hands in although the root already holds its part, and nobody checks for overlap."""
    original = Worker.opened

    def opened(self: Worker, wave: OpenWave, order: Order, eligible: bool, now: int) -> None:
        everybody = msgspec.structs.replace(wave.opening, closed=())
        original(self, msgspec.structs.replace(wave, opening=everybody), order, eligible, now)

    def take(self: Intake, peer: NodeId, partial: Partial, named: dict[NodeId, Claim]) -> bool:
        self.parts[peer] = partial
        self._claims.update(named)
        return True

    return together(patched(Worker, "opened", opened), patched(Intake, "take", take))


def stale_contribution() -> AbstractContextManager[None]:
    """A worker hands in what it made for the round before."""
    original = Worker.opened

    def opened(self: Worker, wave: OpenWave, order: Order, eligible: bool, now: int) -> None:
        if self._kept is not None and order.work is self._work and eligible and wave.may_contribute:
            self._host.forest.contribute(self.spec.id, wave.id, self._kept, now)
        else:
            original(self, wave, order, eligible, now)

    def committed(self: Worker, round_: int) -> None:
        """Keeps everything."""

    return together(patched(Worker, "opened", opened), patched(Worker, "committed", committed))


def contributor_forgotten() -> AbstractContextManager[None]:
    """The merge of a subtree names one contributor too few."""
    original = Waves._in_order

    def in_order(self: Waves) -> Sequence[HandedIn]:
        parts = list(original(self))
        if len(parts) > 2:
            sender, last = parts[-1]
            parts[-1] = HandedIn(sender, Partial(last.weight, last.value, last.contributors[1:], last.metrics))
        return parts

    return patched(Waves, "_in_order", in_order)
