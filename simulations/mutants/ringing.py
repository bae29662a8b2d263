"""Bugs of the ring: what has died is not replaced, and who was suspected once stays so."""

from __future__ import annotations

from contextlib import AbstractContextManager

from dht.liveness import Liveness
from dht.maintenance import Maintenance
from protocol.ids import NodeId

from .planting import patched, together


def leaf_set_never_repaired() -> AbstractContextManager[None]:
    """When a leaf dies nobody is asked for the one that takes its place."""
    original = Maintenance.on_retry

    def on_retry(self: Maintenance, now: int) -> None:
        self._view.mended()
        original(self, now)

    def exchanged(self: Maintenance, now: int) -> None:
        self._repair_again, self._exchanged = 0, now
        care(self, now)

    care = Maintenance.on_care
    return together(patched(Maintenance, "on_retry", on_retry), patched(Maintenance, "on_care", exchanged))


def suspicion_never_ends() -> AbstractContextManager[None]:
    """Who was suspected of being dead is routed around for ever, though it answers."""
    original = Liveness.heard

    def heard(self: Liveness, peer: NodeId, now: int) -> None:
        suspected = peer in self._suspects
        original(self, peer, now)
        if suspected:
            self._suspects[peer] = None

    return patched(Liveness, "heard", heard)
