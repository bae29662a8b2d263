"""Places in trees: nobody has one who did not ask for it, of that very node, on its own link.

Whoever is taken as a child is waited for in every wave and fills a slot, so a join that somebody else made, repeated or
carried there is worth no place, however genuine it is.
"""

from __future__ import annotations

from typing import Any

from protocol.ids import AppId, NodeId, short
from protocol.messages import Routed
from pubsub.messages import TreeAccept, TreeJoin

from ..host import Host
from ..world import World
from .base import Report, who


class Places:
    """Watches joins and what they are answered."""

    def __init__(self, world: World, report: Report) -> None:
        self._world, self._report = world, report
        self._asked: dict[tuple[NodeId, NodeId, AppId, int], None] = {}
        """(joiner, whom it asked, application, attempt)."""
        world.engine.tap(TreeJoin, self._asks)
        world.engine.tap(Routed, self._routes)
        world.engine.tap(TreeAccept, self._accepts)

    def sample(self, now: int) -> None:
        """Everything is checked as it happens."""

    def finish(self, now: int) -> None:
        """Nothing is left to check."""

    def _asks(self, now: int, host: Host, effect: Any) -> None:
        join: TreeJoin = effect.message
        self._asked[host.id, effect.peer, join.app, join.attempt] = None

    def _routes(self, now: int, host: Host, effect: Any) -> None:
        """What a joiner hands on itself has come over its own link: at the first hop, or when the route leads by it."""
        routed: Routed = effect.message
        if isinstance(routed.message, TreeJoin) and routed.message.joiner.id == host.id:
            self._asked[host.id, effect.peer, routed.message.app, routed.message.attempt] = None

    def _accepts(self, now: int, host: Host, effect: Any) -> None:
        """What a liar asked for was not watched."""
        accept: TreeAccept = effect.message
        asked = (effect.peer, host.id, accept.app, accept.attempt) in self._asked
        self._report.require(
            asked or effect.peer in self._world.liars, "asked-for-its-place", now,
            f"{who(host)} takes {short(effect.peer)} as a child in {short(accept.app)}, which did not ask it",
        )  # fmt: skip
