"""What peers did wrong, and when that is enough.

One violation may be a version skew; a stream of them is a bug or an attack. Scores leak (they halve every ten
minutes) so that a long-lived peer is not sent away for a handful in a year, and the table is bounded: the peers least
recently counted are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from protocol.errors import Code
from protocol.ids import NodeId

HALF_LIFE = 600.0
"""Seconds in which a score halves."""
_PEERS = 1024
_WEIGHTS = {Code.UNKNOWN_KIND: 0.0, Code.BAD_DIGEST: 8.0, Code.NON_FINITE: 4.0}
"""Newer peers may say things that we do not know; a wrong artifact costs us a model's worth of traffic."""


class Penalties:
    """Counts by code for the metrics, and one leaking score by peer for the verdict."""

    def __init__(self, limit: float, ban: float, clock: Callable[[], float]) -> None:
        """A peer whose score exceeds ``limit`` is refused for ``ban`` seconds of ``clock``."""
        self.counts: dict[str, int] = {}
        self._limit = limit
        self._ban = ban
        self._clock = clock
        self._scores: OrderedDict[NodeId, tuple[float, float]] = OrderedDict()
        self._banned: OrderedDict[NodeId, float] = OrderedDict()

    def count(self, peer: NodeId, code: Code) -> bool:
        """Count one violation; True when ``peer`` is to be disconnected now."""
        self.counts[code.name] = self.counts.get(code.name, 0) + 1
        now = self._clock()
        score = self.score(peer) + _WEIGHTS.get(code, 1.0)
        self._scores[peer] = (score, now)
        self._scores.move_to_end(peer)
        if len(self._scores) > _PEERS:
            self._scores.popitem(last=False)
        if score <= self._limit:
            return False
        del self._scores[peer]
        self._banned[peer] = now + self._ban
        if len(self._banned) > _PEERS:
            self._banned.popitem(last=False)
        return True

    def score(self, peer: NodeId) -> float:
        """What still stands against ``peer``."""
        score, at = self._scores.get(peer, (0.0, 0.0))
        return score * 0.5 ** ((self._clock() - at) / HALF_LIFE) if score else 0.0

    def banned(self, peer: NodeId) -> bool:
        until = self._banned.get(peer)
        if until is None:
            return False
        if self._clock() < until:
            return True
        del self._banned[peer]
        return False
