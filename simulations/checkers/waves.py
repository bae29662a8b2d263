"""Partials: each node hands in one per wave, to its parent, and it holds exactly what its contributors made."""

from __future__ import annotations

from typing import Any

from fl.notices import RoleChanged
from protocol.ids import AppId, NodeId, short
from pubsub.messages import Partial, WaveId, WaveUp

from ..compute import contribution
from ..host import Host
from ..world import World
from .base import Report, who
from .heads import Heads

WAVES_KEPT = 32
"""Waves per application of which it is remembered who handed in."""


class Waves:
    """Watches every partial that leaves a node."""

    def __init__(self, world: World, report: Report, heads: Heads, *, exact: bool) -> None:
        self._world, self._report, self._heads, self._exact = world, report, heads, exact
        self._handed_in: dict[AppId, dict[WaveId, dict[NodeId, tuple[int, tuple[NodeId, ...]]]]] = {}
        """Who handed in, in which life, and whose contributions."""
        self._parents: dict[tuple[int, int, AppId], NodeId | None] = {}
        """(Host, life, application) → its parent, as it said itself: one step may hand in and then change it."""
        world.engine.tap(WaveUp, self._up)
        world.engine.tap(RoleChanged, self._role)

    def sample(self, now: int) -> None:
        """Everything is checked as it happens."""

    def finish(self, now: int) -> None:
        """Everything was checked as it happened."""

    def _role(self, now: int, host: Host, effect: Any) -> None:
        self._parents[host.index, host.boot, effect.notice.app] = effect.notice.parent

    def _up(self, now: int, host: Host, effect: Any) -> None:
        message: WaveUp = effect.message
        partial = message.partial
        if partial is None:
            return
        name = f"{who(host)} in wave {tuple(message.wave)} of {short(message.app)}"
        waves = self._handed_in.setdefault(message.app, {})
        given = waves.setdefault(message.wave, {})
        if len(waves) > WAVES_KEPT:
            del waves[next(iter(waves))]
        boot, before = given.get(host.id, (0, ()))
        self._report.require(boot != host.boot, "hand-in-once", now, f"{name} hands in again")
        again = not set(before).isdisjoint(partial.contributors)
        self._report.require(not again, "counted-once", now, f"{name} hands in again what an earlier life of it did")
        given[host.id] = host.boot, before + partial.contributors
        parent = self._parents.get((host.index, host.boot, message.app))
        self._report.require(parent == effect.peer, "hand-in-to-parent", now, f"{name} hands in to a stranger")
        members = partial.contributors
        self._report.require(len(set(members)) == len(members), "counted-once", now, f"{name} counts somebody twice")
        if self._exact and partial.value.size:
            self._recompute(message.app, message.wave, partial, name, now)

    def _recompute(self, app: AppId, wave: WaveId, partial: Partial, name: str, now: int) -> None:
        before, submission = self._heads.before(app, wave.round), self._world.by_app.get(app)
        if before is None or submission is None or submission.spec is None:
            return
        model = self._world.integers.integer(before.model)
        parts = [contribution(submission.spec, wave.round, node, model) for node in partial.contributors]
        exact = self._world.integers.integer(partial.value) == sum(update for update, _ in parts)
        self._report.require(exact, "partial-is-exact", now, f"{name}: not the sum of its {len(parts)} contributors")
        weight = float(sum(weight for _, weight in parts))
        self._report.require(partial.weight == weight, "partial-is-exact", now, f"{name}: wrong weight")
