"""Fate: kill an interior node, kill the root, freeze another one."""

from __future__ import annotations

import asyncio
import signal

from .processes import Fleet
from .watch import Story

FREEZE_S = 8.0
"""Longer than a silent death takes to be noticed, so that the frozen node is given up and later comes back."""


def plan(rounds: int) -> dict[str, int]:
    """After which committed round each blow falls."""
    return {"aggregator": max(1, rounds // 4), "root": max(2, rounds // 2), "freeze": max(3, 3 * rounds // 4)}


class Chaos:
    """Strikes when its rounds come."""

    def __init__(self, fleet: Fleet, story: Story, rounds: int) -> None:
        self._fleet, self._story = fleet, story
        self._due = plan(rounds)
        self._thaw: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until all blows have fallen and the frozen node goes on."""
        while self._due:
            for blow, after in list(self._due.items()):
                if self._story.last_round >= after and self._strike(blow):
                    del self._due[blow]
            if self._story.status == "finished":
                break
            await asyncio.sleep(0.02)
        if self._thaw is not None:
            await self._thaw

    def _strike(self, blow: str) -> bool:
        """False when there is no fitting victim at this moment."""
        wanted = {"aggregator": "aggregator", "root": "root", "freeze": "worker"}[blow]
        # The founder stays: it is the node that a person would look at the result from.
        spared = self._fleet.nodes[0].id
        victims = [
            node for node, place in sorted(self._story.places.items())
            if place.role == wanted and (node != spared or blow == "root") and self._fleet.node(node).condition == "up"
        ]  # fmt: skip
        if not victims:
            return False
        victim = self._fleet.node(victims[0])
        if blow == "freeze":
            self._story.struck(victim.id, "frozen")
            victim.signal(signal.SIGSTOP, "frozen")
            self._thaw = asyncio.create_task(self._later(victim.id))
        else:
            self._story.struck(victim.id, "killed")
            victim.signal(signal.SIGKILL, "killed")
        return True

    async def _later(self, node: str) -> None:
        await asyncio.sleep(FREEZE_S)
        self._fleet.node(node).signal(signal.SIGCONT, "up")
