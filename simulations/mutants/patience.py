"""Bugs of patience: roots that wait for ever or not at all, and workers that are left out for it."""
# ruff: noqa: SLF001 - a planted bug has the body of the method that it replaces

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from fl import aggregator
from fl.coordinator import Coordinator
from fl.messages import Work
from protocol.ids import NodeId
from protocol.messages import EMPTY, Value
from pubsub.messages import Partial, WaveId
from pubsub.pacing import Pacing
from pubsub.waves import Waves

from .planting import patched


def deadline_ignored() -> AbstractContextManager[None]:
    """A wave waits for everybody, however long it takes."""

    def on_deadline(self: Waves, now: int) -> None:
        """Goes on waiting."""

    return patched(Waves, "on_deadline", on_deadline)


def no_grace() -> AbstractContextManager[None]:
    """When a quorum has answered nobody else is waited for."""
    original = Waves._hurry

    def hurry(self: Waves, deadline: int, now: int) -> None:
        original(self, now + 1, now)

    return patched(Waves, "_hurry", hurry)


def one_wave_only() -> AbstractContextManager[None]:
    """A root takes what the first wave of a round brings and asks for no more."""
    original = Coordinator.closed

    def closed(self: Coordinator, wave: WaveId, parts: Sequence[Any], absent: int, now: int) -> None:
        original(self, wave, parts, 0, now)

    return patched(Coordinator, "closed", closed)


def child_lost_with_its_partial() -> AbstractContextManager[None]:
    """When a child dies, what it had handed in is forgotten."""
    original = Waves.child_lost

    def child_lost(self: Waves, peer: NodeId, now: int) -> None:
        if not self.collected:
            self._intake.parts.pop(peer, None)
        original(self, peer, now)

    return patched(Waves, "child_lost", child_lost)


def contributors_truncated() -> AbstractContextManager[None]:
    """A merged partial names eight contributors at most."""
    original = aggregator.join

    def join(parts: Sequence[Partial], value: Value) -> Partial:
        whole = original(parts, value)
        return Partial(whole.weight, whole.value, whole.contributors[:8], whole.metrics)

    return patched(aggregator, "join", join)


def nobody_is_gathered() -> AbstractContextManager[None]:
    """A new root goes by those who have found it when its first wave opens."""

    def gathers(self: Pacing, contributors: int) -> bool:
        return False

    return patched(Pacing, "gathers", gathers)


def evaluated_by_nobody() -> AbstractContextManager[None]:
    """A run is over although nobody has measured its last model."""
    original = Coordinator.closed

    def closed(self: Coordinator, wave: WaveId, parts: Sequence[Any], absent: int, now: int) -> None:
        if wave == self._wave and self._work is Work.EVALUATE and not parts and not self._parts:
            self._propose(Partial(0.0, EMPTY, ()), self._head.model, self._head.state, now)
        else:
            original(self, wave, parts, absent, now)

    return patched(Coordinator, "closed", closed)
