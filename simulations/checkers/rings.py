"""The ring: in the end every live node knows its true neighbours, has a full leaf set, and suspects no live one."""

from __future__ import annotations

from protocol.ids import short

from ..host import Host
from ..world import World
from .base import Report, who

NEAR = 12
"""Live nodes on each side that a leaf set must have, as many as it has places, when the ring had time to settle."""


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
            self._leaves(place, members, now)
            suspected = [other for other in members if ring.view.liveness.suspected(other.id)]
            text = f"{who(host)} still suspects {[who(other) for other in suspected[:3]]}, which run"
            self._report.require(not suspected, "suspicion-ends", now, text)
            for side, true in (("left", members[place - 1]), ("right", members[(place + 1) % count])):
                self._report.require(
                    true.id in known, "ring-closed", now,
                    f"{who(host)} does not know {short(true.id)} on its {side}, but {[short(i) for i in known]}",
                )  # fmt: skip

    def _leaves(self, place: int, members: list[Host], now: int) -> None:
        """The leaf set of ``members[place]`` has on each side the nearest of those that live."""
        host, count = members[place], len(members)
        leaves = self._world.core(host).ring.view.leaves
        held = {contact.id: True for contact in leaves}
        near = (
            [members[(place + step) % count] for step in range(-NEAR, NEAR + 1) if step]
            if count > 2 * NEAR
            else members
        )
        absent = [other for other in near if other is not host and other.id not in held]
        names = [short(other.id) for other in absent[:3]]
        self._report.require(
            not absent, "leaf-set-full", now, f"{who(host)} lacks {len(absent)} leaves, such as {names}"
        )
