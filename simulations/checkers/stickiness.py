"""Stickiness: a voter does not desert a root that reigns, nor a candidate that it promised something just now.

Asked only where nothing excuses it: root or candidate has been well and the network calm for a while, the voter takes
it for alive, and it has not stepped down or given up.  That the voter itself was restarted meanwhile is no excuse.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from protocol.ids import AppId, NodeId, short
from pubsub.config import TreeConfig
from pubsub.messages import Accepted, Promise, Reign, Withdraw

from ..clock import SECOND
from ..host import Host
from ..world import World
from .base import Report, who

QUIET_NS = 4 * SECOND
"""For so long nothing may have gone wrong: what was believed before has been noticed by then."""
MARGIN_NS = 1 * SECOND
"""Messages travel, disks write."""


class _Bond(NamedTuple):
    """Whom a voter follows."""

    peer: NodeId
    until: int
    """It may not promise anything to others before, ns."""


class Stickiness:
    """Watches what voters say, and what roots and candidates say to them."""

    def __init__(self, world: World, report: Report) -> None:
        self._world, self._report, self._config = world, report, TreeConfig()
        self._bonds: dict[tuple[AppId, NodeId], _Bond] = {}
        """(Application, voter) → whom it follows."""
        for kind, tap in (
            (Promise, self._promised), (Accepted, self._accepted), (Reign, self._reigned), (Withdraw, self._withdrawn)
        ):  # fmt: skip
            world.engine.tap(kind, tap)

    def sample(self, now: int) -> None:
        """Everything is checked as it happens."""

    def finish(self, now: int) -> None:
        """As at any other time."""

    def _promised(self, now: int, host: Host, effect: Any) -> None:
        if host.id in self._world.liars:
            return
        key, bond = (effect.message.app, host.id), self._bonds.get((effect.message.app, host.id))
        if bond is not None and bond.peer == effect.peer:
            return
        if bond is not None and now < bond.until and self._without_excuse(host, bond.peer, now):
            text = f"{who(host)} leaves {short(bond.peer)} for {short(effect.peer)} in {short(effect.message.app)}"
            self._report.add("voters-are-steady", now, text)
        self._bonds[key] = _Bond(effect.peer, now + self._config.candidacy - MARGIN_NS)

    def _accepted(self, now: int, host: Host, effect: Any) -> None:
        key = (effect.message.app, host.id)
        if key not in self._bonds or self._bonds[key].peer != effect.peer:
            self._bonds[key] = _Bond(effect.peer, now)

    def _reigned(self, now: int, host: Host, effect: Any) -> None:
        app, voter = effect.message.head.app, effect.peer
        bond, listener = self._bonds.get((app, voter)), self._world.engine.by_id.get(voter)
        if bond is None or bond.peer != host.id or listener is None or not listener.alive:
            return
        until = now if effect.message.over else now + self._config.reign_patience - MARGIN_NS
        self._bonds[app, voter] = _Bond(host.id, until)

    def _withdrawn(self, now: int, host: Host, effect: Any) -> None:
        bond = self._bonds.get((effect.message.app, effect.peer))
        if bond is not None and bond.peer == host.id:
            self._bonds[effect.message.app, effect.peer] = _Bond(host.id, now)

    def _without_excuse(self, voter: Host, peer: NodeId, now: int) -> bool:
        weather, followed = self._world.weather, self._world.engine.by_id.get(peer)
        calm = weather.calm_since()
        well = weather.well_since(followed) if followed is not None else None
        if calm is None or well is None or now - max(calm, well) < QUIET_NS:
            return False
        core: Any = voter.core
        return bool(core.ring.alive(peer))
