"""What all daemons say of one application, put together: tree, rounds, and how fast a broken place was mended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from node.service import AppEvent, RoleEvent, RoundEvent, StatusEvent
from protocol.errors import MyceliaError

from .processes import DemoNode, Fleet


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands in the tree."""

    role: str
    parent: str
    depth: int
    children: tuple[str, ...]


@dataclass(slots=True)
class Incident:
    """Something that the demo did to a node, and what followed."""

    node: str
    role: str
    action: str
    """``killed`` or ``frozen``."""
    round: int
    at: float
    orphans: dict[str, float | None] = field(default_factory=dict)
    """Child of the victim → seconds until it had another parent (or was root itself)."""
    hand_over: float | None = None
    """Seconds until another node was root, when the victim was."""


@dataclass(slots=True)
class Story:
    """Everything seen so far."""

    rounds: dict[int, RoundEvent] = field(default_factory=dict)
    first_seen: dict[int, float] = field(default_factory=dict)
    """Round → monotonic time at which the first node knew of its commit."""
    places: dict[str, Place] = field(default_factory=dict)
    incidents: list[Incident] = field(default_factory=list)
    status: str = "waiting"
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last_round(self) -> int:
        return max(self.rounds, default=0)

    @property
    def root(self) -> str:
        return next((node for node, place in self.places.items() if place.role == "root"), "")

    async def fresh(self) -> None:
        """Wait until something happened since the last call."""
        await self.changed.wait()
        self.changed.clear()

    def note(self, node: DemoNode, event: AppEvent) -> None:
        """Take in one event of one daemon."""
        now = time.monotonic()
        if isinstance(event, RoundEvent) and event.round not in self.rounds:
            self.rounds[event.round], self.first_seen[event.round] = event, now
        elif isinstance(event, RoleEvent):
            self._moved(node.id, Place(event.role, event.parent, event.depth, tuple(event.children)), now)
        elif isinstance(event, StatusEvent) and self.status != "finished":
            self.status = event.status
        self.changed.set()

    def _moved(self, node: str, place: Place, now: float) -> None:
        if place.role == "root":
            for other, known in list(self.places.items()):
                if known.role == "root" and other != node:
                    self.places[other] = Place("none", "", 0, ())
        self.places[node] = place
        for incident in self.incidents:
            if place.role == "root" and incident.role == "root" and incident.hand_over is None:
                incident.hand_over = now - incident.at
            mended = place.role == "root" or (place.parent and place.parent != incident.node)
            if mended and node in incident.orphans and incident.orphans[node] is None:
                incident.orphans[node] = now - incident.at

    def struck(self, node: str, action: str) -> Incident:
        """The demo is about to do ``action`` to ``node``."""
        place = self.places[node]
        incident = Incident(node, place.role, action, self.last_round, time.monotonic(), dict.fromkeys(place.children))
        self.incidents.append(incident)
        if action == "killed":
            self.places.pop(node)
        return incident


class Watch:
    """One follower per daemon."""

    def __init__(self, fleet: Fleet, app: str, story: Story) -> None:
        self._fleet, self._app, self._story = fleet, app, story
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Story:
        self._tasks = [asyncio.create_task(self._follow(node)) for node in self._fleet.nodes]
        return self._story

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, node: DemoNode) -> None:
        """Until the application ends.  A daemon that is down, or does not know the application yet, is asked again."""
        while True:
            with contextlib.suppress(MyceliaError):
                async for event in node.service.follow(self._app):
                    self._story.note(node, event)
                return
            await asyncio.sleep(0.1)
