"""How long one wave is waited for where nothing from above says so.

Who has no deadline goes by the answers.  When a quorum of them is in, the stragglers get as long again as it took so
far, and are told how long that is.  When half of them is in, but no quorum, as much patience begins as there is: an
answer that never comes shall not hold up a round for ever, whatever quorum was asked for.

A new root does not know who will be below it: its children are those of somebody who is gone, and find it one by one.
Its first waves therefore *gather* (``Gathering``): while fewer have contributed than the last head lets expect, a wave
stays open although everybody here has answered, until nobody came for a short time.  When as many as before are there,
nothing is waited for.
"""

from __future__ import annotations

from enum import Enum

from .config import TreeConfig
from .ports import Gathering


class Step(Enum):
    """What to do about a wave that waits."""

    WAIT = 0
    """Until the time that comes with it, or for ever if that is 0; then look again."""
    HURRY = 1
    """Tell the stragglers that it is over at the time that comes with it."""
    CLOSE = 2


class Pacing:
    """The patience of one wave on one node.  Times in ns."""

    __slots__ = ("_config", "_full", "_gathering", "_last", "_late", "_opened", "_quorum", "_since")

    def __init__(self, config: TreeConfig, quorum: float) -> None:
        self._config, self._quorum = config, quorum
        self.begin(0, 0, None)

    def begin(self, opened: int, since: int, gathering: Gathering | None) -> None:
        """A wave opens, of a round that has been worked on here since ``since``."""
        self._opened, self._since, self._gathering = opened, since, gathering
        self._full = self._late = self._last = -1
        """When all answers were in first; when patience with those that are not ends; and without hope of a quorum."""

    def gathers(self, contributors: int) -> bool:
        """Are fewer in than are likely to come?"""
        return self._gathering is not None and contributors < self._gathering.least

    def next(self, here: int, of: int, contributors: int, now: int) -> tuple[Step, int]:
        """``here`` ``of`` the answers are in, and ``contributors``."""
        few = self._gathering if self.gathers(contributors) else None
        if here == of:
            return self._whole(few, now)
        if here >= self._quorum * of:
            if few is None:
                return Step.HURRY, now + max(now - self._opened, self._config.grace)
            if self._late < 0:
                self._late = now + max(now - self._since, few.limit)
            return Step.WAIT, self._late
        if 2 * here >= of:
            if self._last < 0:
                self._last = now + max(3 * (now - self._since), self._config.last_patience)
            return Step.WAIT, self._last
        return Step.WAIT, 0

    def _whole(self, few: Gathering | None, now: int) -> tuple[Step, int]:
        if self._full < 0:
            self._full = now
        if few is None or now >= self._full + few.limit:
            return Step.CLOSE, now
        return Step.WAIT, min(now + few.calm, self._full + few.limit)
