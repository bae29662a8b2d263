"""The ring: in the end every live node knows its true neighbours."""

from __future__ import annotations

from protocol.ids import short

from ..world import World
from .base import Report, who


class Rings:
    """Compares each node's nearest leaves with the truth."""

    def __init__(self, world: World, report: Report) -> None:
        self._world, self._report = world, report

    def sample(self, now: int) -> None:
        """While nodes come and go the ring may lag behind."""

    def finish(self, now: int) -> None:
        """Every running node is ready, and its two neighbours are the ones that it ought to have."""
        members = sorted((h for h in self._world.running() if h.contact.dialable), key=lambda host: host.id)
        count = len(members)
        for place, host in enumerate(members):
            ring = self._world.core(host).ring
            self._report.require(ring.ready, "ring-ready", now, f"{who(host)} never became a member of the ring")
            if count < 3:
                continue
            known = list(ring.view.leaves.neighbours())
            for side, true in (("left", members[place - 1]), ("right", members[(place + 1) % count])):
                self._report.require(
                    true.id in known, "ring-closed", now,
                    f"{who(host)} does not know {short(true.id)} on its {side}, but {[short(i) for i in known]}",
                )  # fmt: skip
