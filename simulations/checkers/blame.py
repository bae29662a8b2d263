"""Blame: whoever keeps to the protocol is never punished, whatever the weather; and no epoch is skipped.

Both are what a liar could do to others: have them blamed, and use up their epochs.  Without liars neither may happen at
all; with liars it is asked of the honest nodes alone.  Of the liars it is asked that they lied, or nothing was shown,
and that each was found out by honest nodes in each of its lies that can be proven (``liars.PROVABLE``).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from protocol.effects import Penalize
from protocol.ids import AppId, NodeId, short
from pubsub.messages import LEAP, Prepare, Promise

from ..host import Host
from ..liars import PROVABLE, Liar
from ..world import World
from .base import Report, who

MANY_LIES = 20
"""Who told so many lies must have been found out."""
OFTEN = 5
"""A lie that can be proven, told so often to honest nodes, must have cost whoever told it: one or two may be lost."""


class Blame:
    """Watches penalties and candidacies."""

    def __init__(self, world: World, report: Report) -> None:
        self._world, self._report = world, report
        self._epochs: dict[AppId, int] = {}
        """The highest epoch for which anybody honest ever stood, or that anybody honest promised."""
        self._told: dict[tuple[bytes, int], None] = {}
        self.punished: dict[NodeId, Counter[str]] = {}
        """Liar → for what honest nodes punished it, and how often."""
        world.engine.tap(Penalize, self._penalize)
        world.engine.tap(Prepare, self._prepare)
        world.engine.tap(Promise, self._promise)

    @property
    def _leap(self) -> int:
        """A root that wins a newer epoch goes by what its voters say they have promised, and they may lie."""
        return LEAP // 2 + 1 if self._world.liars else 1

    def sample(self, now: int) -> None:
        """Everything is checked as it happens."""

    def finish(self, now: int) -> None:
        """Whoever lied was punished for it, and for each lie that can be proven."""
        told = {node: core.told for node in self._world.liars if (core := self._liar(node)) is not None}
        if told:
            self._report.require(any(told.values()), "lies-told", now, f"none of {len(told)} liars ever lied")
        for node, lies in told.items():
            found_out = self.punished.get(node, Counter())
            count = sum(sum(victims.values()) for victims in lies.values())
            text = f"{short(node)} lied {count} times and was never punished"
            self._report.require(bool(found_out) or count < MANY_LIES, "liars-punished", now, text)
            for lie, proofs in PROVABLE.items():
                often = sum(times for peer, times in lies.get(lie, {}).items() if peer not in self._world.liars)
                text = f"{short(node)} told honest nodes {often} times {lie!r}, for which nobody punished it"
                caught = any(found_out[proof] for proof in proofs)
                self._report.require(caught or often < OFTEN, "lies-blamed", now, text)

    def _liar(self, node: NodeId) -> Liar | None:
        core = self._world.engine.by_id[node].core
        return core if isinstance(core, Liar) else None

    def _penalize(self, now: int, host: Host, effect: Any) -> None:
        liars = self._world.liars
        if effect.peer in liars and host.id not in liars:
            self.punished.setdefault(effect.peer, Counter())[effect.detail] += 1
        if host.id in liars or effect.peer in liars or (effect.peer, effect.code) in self._told:
            return
        self._told[effect.peer, effect.code] = None
        text = f"{who(host)} blames {short(effect.peer)} for {effect.code.name.lower()}: {effect.detail}"
        self._report.add("nobody-blamed", now, text)

    def _promise(self, now: int, host: Host, effect: Any) -> None:
        if host.id not in self._world.liars:
            self._epochs[effect.message.app] = max(self._epochs.get(effect.message.app, 0), effect.message.epoch)

    def _prepare(self, now: int, host: Host, effect: Any) -> None:
        message: Prepare = effect.message
        if host.id in self._world.liars:
            return
        highest = self._epochs.get(message.app, 0)
        self._report.require(
            message.epoch <= highest + self._leap, "no-epoch-skipped", now,
            f"{who(host)} stands for epoch {message.epoch} of {short(message.app)}, the highest so far was {highest}",
        )  # fmt: skip
        self._epochs[message.app] = max(highest, message.epoch)
