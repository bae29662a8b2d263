"""Upkeep: what keeps the ring closed although nobody routes anything.

*Repair.*  When a leaf dies, the farthest leaf of its side is asked for its leaf set, which brings the next candidates.
So it is when a candidate does not answer, for which others may have been passed over.
When an immediate neighbour dies, all leaves are told: they question it and repair likewise (MSPastry).

*Care.*  A slow rotation pings one leaf after the other, exchanges leaf sets now and then, measures candidates for the
routing table, and joins anew for our own id through a random node.

*Healing.*  Departed peers and seeds that are not in our tables are asked now and then whether they live in another part
of the ring; if one does, the part's node closest to us answers with its leaf set and both parts become one.
"""

from __future__ import annotations

from protocol.effects import Outbox
from protocol.messages import Contact

from .join import Joiner
from .lookup import Lookup
from .probing import Prober
from .view import View

RETRY = ("ring.retry",)
CARE = ("ring.care",)
HEAL = ("ring.heal",)
_SEED_SHARE = 0.25


class Maintenance:
    """Timers of a full member."""

    __slots__ = (
        "_exchanged", "_heal_armed", "_joiner", "_lookup", "_out", "_prober", "_refreshed", "_repair_again",
        "_retry_armed", "_surveyed", "_turn", "_view",
    )  # fmt: skip

    def __init__(self, view: View, prober: Prober, joiner: Joiner, lookup: Lookup) -> None:
        self._view = view
        self._out: Outbox = view.out
        self._prober = prober
        self._joiner = joiner
        self._lookup = lookup
        self._retry_armed = False
        self._heal_armed = False
        self._turn = 0
        self._exchanged = self._surveyed = self._refreshed = 0
        self._repair_again = 0

    def start(self, now: int) -> None:
        view, config = self._view, self._view.config
        self._exchanged = now - int(view.stream.uniform(0, config.exchange_period))
        self._surveyed = now - int(view.stream.uniform(0, config.survey_period))
        # The first refresh comes early: the table was filled while others were joining too.
        self._refreshed = now - config.refresh_period + 3 * config.care_period
        self._arm_care(now)

    def stop(self) -> None:
        for timer in (RETRY, CARE, HEAL):
            self._out.cancel_timer(timer)

    def arm(self, now: int) -> None:
        """After each step: see that what is pending has a timer."""
        view = self._view
        if not self._retry_armed and (view.lost_leaf or self._prober.busy or self._lookup.busy):
            self._retry_armed = True
            delay = view.config.repair_delay if view.lost_leaf else view.config.probe_retry
            self._out.set_timer(RETRY, now + delay)
        if not self._heal_armed and view.ghosts and view.me.dialable:
            self._heal_armed = True
            self._out.set_timer(HEAL, now + self._jitter(view.config.heal_first))

    def _jitter(self, period: int) -> int:
        return int(period * self._view.stream.uniform(0.75, 1.25))

    # ---- retries and repair ----

    def on_retry(self, now: int) -> None:
        self._retry_armed = False
        view = self._view
        if view.lost_leaf:
            if view.mended():
                self._prober.announce(now)
            self._repair_again = now + 2 * view.config.care_period
            for contact in view.leaves.edges():
                self._prober.probe(contact, now)
            for contact in view.table.entries():
                if view.leaves.fits(contact.id) and contact.id not in view.leaves:
                    self._prober.probe(contact, now)
        self._prober.tick(now)
        self._lookup.tick(now)
        if self._prober.in_vain():
            for contact in view.leaves.ends():
                self._prober.probe(contact, now)

    # ---- care ----

    def _arm_care(self, now: int) -> None:
        self._out.set_timer(CARE, now + self._jitter(self._view.config.care_period))

    def on_care(self, now: int) -> None:
        view, config = self._view, self._view.config
        self._arm_care(now)
        view.ghosts.expire(now)
        if not view.me.dialable:
            return
        leaves = view.leaves.snapshot()
        if leaves:
            self._turn = (self._turn + 1) % len(leaves)
            view.liveness.question(leaves[self._turn].id, now)
            if now - self._exchanged >= config.exchange_period:
                self._exchanged = now
                self._prober.probe(view.stream.choice(leaves), now)
            if 0 < self._repair_again <= now:
                # Whom we asked at once may have been in the midst of its own repair.
                self._repair_again = 0
                for contact in view.leaves.edges():
                    self._prober.probe(contact, now)
        if now - self._surveyed >= config.survey_period:
            self._surveyed = now
            self._survey(now)
        if now - self._refreshed >= config.refresh_period:
            self._refreshed = now
            self._refresh()

    def _survey(self, now: int) -> None:
        """Measure one table entry, or a contact from the book that may be nearer than the entry of its slot."""
        view = self._view
        unmeasured = [c for c in view.table.entries() if view.table.rtt(c.id) is None]
        rivals = [c for c in view.book if not view.foreign(c) and view.table.get(c.id) is None]
        pool = unmeasured or rivals
        if pool:
            view.liveness.question(view.stream.choice(pool).id, now)

    def _refresh(self) -> None:
        view = self._view
        pool: list[Contact] = list(view.table.entries())
        if view.seeds and (not pool or view.stream.uniform() < _SEED_SHARE):
            pool = list(view.seeds)
        if pool:
            self._joiner.refresh(view.stream.choice(pool))

    # ---- healing ----

    def on_heal(self, now: int) -> None:
        self._heal_armed = False
        view, config = self._view, self._view.config
        view.ghosts.expire(now)
        sought = view.ghosts.sought()
        fresh = [ghost for ghost in sought if ghost.asked == ghost.since]
        alone = view.ready and len(view.leaves) == 0
        if sought:
            # The latest loss first: a process that restarts, a link that comes back.
            ghost = fresh.pop() if fresh else view.stream.choice(sought)
            ghost.ask(max(now, ghost.since + 1))
            self._joiner.refresh(ghost.contact)
        elif alone and view.seeds:
            self._joiner.refresh(view.stream.choice(view.seeds))
        if view.ghosts or (alone and view.seeds):
            self._heal_armed = True
            self._out.set_timer(HEAL, now + self._jitter(config.heal_first if fresh or alone else config.heal_period))
