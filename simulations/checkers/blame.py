"""Blame: whoever keeps to the protocol is never punished, whatever the weather; and no epoch is skipped.

Both are what a liar could do to others: have them blamed, and use up their epochs.  Without liars neither may happen at
all; with liars it is asked of the honest nodes alone.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from protocol.effects import Penalize
from protocol.ids import AppId, NodeId, short
from pubsub.messages import Prepare

from ..host import Host
from ..liars import Liar
from ..world import World
from .base import Report, who

MANY_LIES = 20
"""Who told so many lies must have been found out."""


class Blame:
    """Watches penalties and candidacies."""

    def __init__(self, world: World, report: Report) -> None:
        self._world, self._report = world, report
        self._epochs: dict[AppId, int] = {}
        """The highest epoch for which anybody honest ever stood."""
        self._told: dict[tuple[bytes, int], None] = {}
        self.punished: Counter[NodeId] = Counter()
        """Liar → how often honest nodes punished it."""
        world.engine.tap(Penalize, self._penalize)
        world.engine.tap(Prepare, self._prepare)

    def sample(self, now: int) -> None:
        """Everything is checked as it happens."""

    def finish(self, now: int) -> None:
        """Whoever lied all the time was punished for it."""
        unpunished = [node for node in self._world.liars if not self.punished[node] and self._lied(node)]
        names = ", ".join(map(short, unpunished[:3]))
        text = f"{len(unpunished)} of {len(self._world.liars)} liars were never punished: {names}"
        self._report.require(not unpunished, "liars-punished", now, text)

    def _lied(self, node: NodeId) -> bool:
        core = self._world.engine.by_id[node].core
        return isinstance(core, Liar) and sum(core.told.values()) >= MANY_LIES

    def _penalize(self, now: int, host: Host, effect: Any) -> None:
        liars = self._world.liars
        if effect.peer in liars and host.id not in liars:
            self.punished[effect.peer] += 1
        if host.id in liars or effect.peer in liars or (effect.peer, effect.code) in self._told:
            return
        self._told[effect.peer, effect.code] = None
        text = f"{who(host)} blames {short(effect.peer)} for {effect.code.name.lower()}: {effect.detail}"
        self._report.add("nobody-blamed", now, text)

    def _prepare(self, now: int, host: Host, effect: Any) -> None:
        message: Prepare = effect.message
        if host.id in self._world.liars:
            return
        highest = self._epochs.get(message.app, 0)
        self._report.require(
            message.epoch <= highest + 1, "no-epoch-skipped", now,
            f"{who(host)} stands for epoch {message.epoch} of {short(message.app)}, the highest so far was {highest}",
        )  # fmt: skip
        self._epochs[message.app] = max(highest, message.epoch)
