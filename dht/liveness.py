"""Failure detection that counts the local node's own health first.

Any message is a sign of life.  A *watched* peer (somebody above depends on it) that stays silent for a second is
pinged; after two and a half it is dead.  The immediate ring neighbours are treated alike on a slower clock, and any
peer can be *questioned* once: by the slow rotation over the leaf set, after a failed send, or when others say that it
died.  Of two nodes that watch each other the one with the smaller id asks first and the other only if that fails, so
that a link carries one exchange a period.

Silence is measured in *attentive time*, which stands still while this process does: a timer that fires late by L
excuses a multiple of L (Lifeguard's local health multiplier: Dadgar, Phillips & Currey 2018, section III).  So a node
whose loop lags suspects nobody; after a gap of seconds (SIGSTOP, a closed lid) everybody gets a fresh chance.

One timer serves all peers; it sleeps until the nearest deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from protocol.effects import Outbox
from protocol.ids import NodeId

from .config import RingConfig
from .messages import Ping

TIMER = ("ring.live",)
_FIRST_NONCE_BITS = 32


class Monitor:
    """What is known of the silence of one peer.  Times but ``sent_at`` are attentive."""

    __slots__ = ("asked", "heard", "linked", "near", "nonce", "pinged", "purposes", "sent_at")

    def __init__(self, heard: int) -> None:
        self.heard = heard
        self.asked = -1
        """First ping since it was last heard; -1 when no answer is awaited."""
        self.pinged = 0
        self.sent_at = 0
        self.nonce = 0
        self.near = False
        """An immediate ring neighbour."""
        self.linked = False
        """Something was heard, or the driver reported a link: a dial cannot be what takes so long."""
        self.purposes: tuple[str, ...] = ()
        """Why it is watched."""


class Liveness:
    """Monitors of the peers whose death matters here."""

    __slots__ = (
        "_armed", "_config", "_digest", "_excused", "_judged", "_me", "_monitors", "_nonce", "_out", "_suspects",
    )  # fmt: skip

    def __init__(self, me: NodeId, config: RingConfig, out: Outbox, nonce: int, digest: Callable[[], bytes]) -> None:
        self._me = me
        self._config = config
        self._out = out
        self._nonce = nonce % (1 << _FIRST_NONCE_BITS)
        self._digest = digest
        self._monitors: dict[NodeId, Monitor] = {}
        self._suspects: dict[NodeId, None] = {}
        self._excused = 0
        self._judged = 0
        self._armed = 0
        """When the timer fires; 0 when it is not set."""

    # ---- what happens ----

    def heard(self, peer: NodeId, now: int) -> None:
        """Called for every message: must be cheap."""
        monitor = self._monitors.get(peer)
        if monitor is None:
            return
        monitor.heard = now - self._excused
        monitor.linked = True
        if monitor.asked >= 0:
            monitor.asked = -1
            self._suspects.pop(peer, None)
            if not monitor.near and not monitor.purposes:
                del self._monitors[peer]

    def pong(self, peer: NodeId, nonce: int, now: int) -> int | None:
        """Round trip in ns when ``nonce`` is that of the last ping; call it before ``heard``."""
        monitor = self._monitors.get(peer)
        if monitor is None or monitor.asked < 0 or monitor.nonce != nonce:
            return None
        return now - monitor.sent_at

    def linked(self, peer: NodeId, up: bool) -> None:
        monitor = self._monitors.get(peer)
        if monitor is not None:
            monitor.linked = up

    def clear(self) -> None:
        """Listen to nobody any more."""
        self._monitors.clear()
        self._suspects.clear()
        self._out.cancel_timer(TIMER)
        self._armed = 0

    def forget(self, peer: NodeId, now: int) -> int:
        """Drop ``peer``; for how many ns nothing was heard (0 when it was not monitored)."""
        self._suspects.pop(peer, None)
        monitor = self._monitors.pop(peer, None)
        return 0 if monitor is None else max(0, now - self._excused - monitor.heard)

    # ---- what is wanted ----

    def watch(self, peer: NodeId, purpose: str, now: int, *, linked: bool) -> None:
        monitor = self._monitors.get(peer)
        if monitor is None:
            monitor = self._monitors[peer] = Monitor(now - self._excused)
            monitor.linked = linked
        if purpose not in monitor.purposes:
            monitor.purposes += (purpose,)
        self._arm(self._deadline(peer, monitor) + self._excused, now)

    def unwatch(self, peer: NodeId, purpose: str) -> None:
        monitor = self._monitors.get(peer)
        if monitor is not None:
            monitor.purposes = tuple(p for p in monitor.purposes if p != purpose)
            self._release(peer, monitor)

    def watched(self, peer: NodeId) -> bool:
        monitor = self._monitors.get(peer)
        return monitor is not None and bool(monitor.purposes)

    def set_neighbours(self, peers: Iterable[NodeId], now: int) -> None:
        """These, and no others, are the immediate ring neighbours."""
        wanted = list(peers)
        for peer, monitor in list(self._monitors.items()):
            if monitor.near and peer not in wanted:
                monitor.near = False
                self._release(peer, monitor)
        for peer in wanted:
            monitor = self._monitors.setdefault(peer, Monitor(now - self._excused))
            if not monitor.near:
                monitor.near = True
                self._arm(self._deadline(peer, monitor) + self._excused, now)

    def question(self, peer: NodeId, now: int) -> None:
        """Ping ``peer`` now and declare it dead unless something comes back."""
        monitor = self._monitors.get(peer)
        if monitor is None:
            monitor = self._monitors[peer] = Monitor(now - self._excused)
        if monitor.asked < 0:
            self._ping(peer, monitor, now)
            self._arm(self._deadline(peer, monitor) + self._excused, now)

    def suspected(self, peer: NodeId) -> bool:
        return peer in self._suspects

    def suspect(self, peer: NodeId, now: int) -> None:
        """A send failed: route around ``peer`` and question it."""
        self._suspects[peer] = None
        self.question(peer, now)

    def refused(self, peer: NodeId, now: int) -> bool:
        """A ping could not be delivered: suspect ``peer``; True when that has been so long enough to call it dead."""
        monitor = self._monitors.get(peer)
        if monitor is None or monitor.asked < 0:
            return False
        self._suspects[peer] = None
        return now - self._excused - monitor.asked >= self._config.suspect_after

    def monitors(self, peer: NodeId) -> bool:
        return peer in self._monitors

    @property
    def monitored(self) -> list[NodeId]:
        return list(self._monitors)

    # ---- time ----

    def lagged(self, due: int, now: int) -> bool:
        """Take note of how late a timer of this node fired; True after a gap so long that the process was asleep.

        However many timers one stall makes late, it is excused once: no more than the time that really went by.
        """
        lag, elapsed, self._judged = now - due, now - self._judged, now
        if lag <= self._config.grain:
            return False
        self._excused += min(elapsed, lag * self._config.lag_weight)
        if lag < self._config.doze:
            return False
        for monitor in self._monitors.values():
            monitor.heard, monitor.asked = now - self._excused, -1
        self._suspects.clear()
        return True

    def tick(self, now: int) -> list[tuple[NodeId, int]]:
        """The timer fired: ping who is silent; return the dead with their silence in ns, still monitored."""
        self._armed = 0
        attentive = now - self._excused
        dead: list[tuple[NodeId, int]] = []
        next_deadline: int | None = None
        for peer, monitor in self._monitors.items():
            deadline = self._deadline(peer, monitor)
            if deadline <= attentive:
                if monitor.asked >= 0 and self._is_dead(monitor, attentive):
                    dead.append((peer, attentive - monitor.heard))
                    continue
                self._ping(peer, monitor, now)
                deadline = self._deadline(peer, monitor)
            if monitor.asked >= 0 and attentive - monitor.asked >= self._config.suspect_after:
                self._suspects[peer] = None
            if next_deadline is None or deadline < next_deadline:
                next_deadline = deadline
        if next_deadline is not None:
            self._arm(next_deadline + self._excused, now)
        return dead

    def _release(self, peer: NodeId, monitor: Monitor) -> None:
        if not monitor.near and not monitor.purposes and monitor.asked < 0:
            del self._monitors[peer]

    def _ping(self, peer: NodeId, monitor: Monitor, now: int) -> None:
        self._nonce += 1
        monitor.nonce, monitor.sent_at, monitor.pinged = self._nonce, now, now - self._excused
        if monitor.asked < 0:
            monitor.asked = monitor.pinged
        self._out.send(peer, Ping(self._nonce, self._digest()))

    def _death(self, monitor: Monitor) -> int:
        """Attentive time at which ``monitor``, being questioned, gives up."""
        config = self._config
        if not monitor.linked:
            return monitor.asked + config.dial_patience
        if monitor.purposes:
            # Never without a fair chance to answer, however long nobody listened before.
            fair = config.watch_patience - config.watch_period - config.watch_period // 4
            return max(monitor.heard + config.watch_patience, monitor.asked + fair)
        return monitor.asked + config.near_patience

    def _is_dead(self, monitor: Monitor, attentive: int) -> bool:
        return attentive >= self._death(monitor)

    def _deadline(self, peer: NodeId, monitor: Monitor) -> int:
        """Attentive time at which something must be done about ``peer``."""
        if monitor.asked >= 0:
            retry = self._config.ping_retry if monitor.purposes else self._config.near_patience // 4
            return min(monitor.pinged + retry, self._death(monitor))
        period = self._config.watch_period if monitor.purposes else self._config.near_period
        return monitor.heard + (period if self._me < peer else period + period // 4)

    def _arm(self, at: int, now: int) -> None:
        at = max(at, now + self._config.grain)
        if not self._armed or at < self._armed:
            self._armed = at
            self._out.set_timer(TIMER, at)
