"""Trees: acyclic, with one active parent, within the fan-out cap.

Two joins that cross in flight may close a loop, and a lost message may leave a parent with a child that went
elsewhere; the protocol promises to find and mend both.  So what is reported is not a bad state but one that *lasts*,
among hosts that run and can talk to each other.
"""

from __future__ import annotations

from protocol.ids import AppId, NodeId, short

from ..clock import SECOND
from ..host import Host
from ..world import World
from .base import Report

PATIENCE_NS = 40 * SECOND
"""For how long a tree may be wrong: a few beats, with some of them lost."""
CALM_NS = 30 * SECOND
"""The same where none is lost: whoever slept, and was given up meanwhile, misses four beats before it notices."""


class Trees:
    """Looks at all trees at intervals."""

    def __init__(self, world: World, report: Report) -> None:
        self._world, self._report = world, report
        self._wrong: dict[tuple[str, AppId, NodeId], int] = {}
        """(rule, application, node) → since when."""

    def sample(self, now: int) -> None:
        """Find what is wrong with any tree, and report what has been so for too long."""
        found: dict[tuple[str, AppId, NodeId], str] = {}
        if not self._world.engine.network.cuts:
            for app, trees in self._forest().items():
                self._links(app, trees, found)
                self._cycles(app, trees, found)
        self._wrong = {key: self._wrong.get(key, now) for key in found}
        calm = self._world.weather.calm_since()
        for key, since in self._wrong.items():
            if now - since >= PATIENCE_NS or (calm is not None and now - max(since, calm) >= CALM_NS):
                self._report.add(key[0], now, f"{short(key[1])}: {found[key]}, since {since / SECOND:.0f} s")
                self._wrong[key] = now

    def finish(self, now: int) -> None:
        """Nothing that was wrong for long was left unreported."""
        self.sample(now)

    def _forest(self) -> dict[AppId, dict[NodeId, Host]]:
        """Application → the running members of its tree."""
        forest: dict[AppId, dict[NodeId, Host]] = {}
        for host in self._world.running():
            for app, grove in self._world.core(host).forest.groves.items():
                if grove.tree.wanted and not grove.finished:
                    forest.setdefault(app, {})[host.id] = host
        return forest

    def _links(self, app: AppId, trees: dict[NodeId, Host], found: dict[tuple[str, AppId, NodeId], str]) -> None:
        """A parent and its child must agree that they are."""
        for node, host in trees.items():
            tree = self._world.core(host).forest.groves[app].tree
            parent = trees.get(tree.parent) if tree.parent is not None else None
            if parent is not None and node not in self._world.core(parent).forest.groves[app].tree.children:
                found["parent-knows-child", app, node] = f"{short(node)} is unknown to its parent {short(parent.id)}"
            # What the parent says of itself is part of what is checked.
            above = self._world.core(parent).forest.groves[app].tree.path if parent is not None else ()
            if parent is not None and tree.path != (*above, parent.id):
                found["path-is-true", app, node] = f"{short(node)} believes in another path to the root than its parent"
            for child in tree.children:
                other = trees.get(child)
                if other is not None and self._world.core(other).forest.groves[app].tree.parent != node:
                    found["one-parent", app, child] = f"{short(node)} keeps {short(child)}, which has another parent"

    def _cycles(self, app: AppId, trees: dict[NodeId, Host], found: dict[tuple[str, AppId, NodeId], str]) -> None:
        """Walk up from every node; whoever comes back to itself is on a cycle."""
        parents = {node: self._world.core(host).forest.groves[app].tree.parent for node, host in trees.items()}
        for node, parent in parents.items():
            above, steps = parent, 0
            while above is not None and above != node and steps <= len(parents):
                above, steps = parents.get(above), steps + 1
            if above == node:
                found["acyclic", app, node] = f"{short(node)} is its own ancestor"
