"""A reduce over the tree, fenced by (epoch, round, wave).

The root opens a wave; it travels down; every member asks its own role for a contribution and waits for each child that
it forwarded to.  When all have answered, or the time that was handed down is over, it merges what came and hands *one*
partial, once, to its parent.  Three rules keep every contribution from being counted twice, whatever the tree does
meanwhile:

1.  A node that has handed in sits the wave out, whatever its new parent (``sent``).
2.  What arrives after a node has handed in, or belongs to another wave, is dropped, never forwarded.
3.  A node that restarted cannot know what an earlier life of it did, so it contributes nothing to the first wave
    that it hears of; it counts again from the next one.

So each node has at most one outgoing partial per wave and contributor sets are disjoint by construction.  Whoever is
missing when the root closes the wave is named in no partial and takes part in the next wave of the round.

Deadlines nest.  What travels down is remaining time; each node subtracts what it needs itself to merge and forward
(a running mean of its own measurements) and what the way to that child takes, which it learns when an answer comes too
late: what was cut off at the child's deadline and lost at its parent's would be a whole subtree.  Before there is
history there is no deadline, and the answers that are in decide how long the others are waited for (``pacing``).

Answers may be lost.  A parent says with each beat whether it still waits for the child; a child that handed in then
answers that it has nothing, since what it sent may be under way by another path, and one that cannot work because it
could not fetch the model tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec

from protocol.effects import Outbox
from protocol.ids import NodeId
from protocol.membership import Standing

from .claims import Inspector
from .config import SECOND, TreeConfig
from .heads import MAX_MEMBERS
from .holdings import Holdings
from .intake import Intake
from .messages import MAX_CLAIMS, NO_WAVE, Claim, Partial, WaveId, WaveOpen, WaveUp
from .pacing import Pacing, Step
from .partials import flaw
from .ports import Gathering, HandedIn, OpenWave, Roles
from .tree import Tree

_WAITING = object()

MAX_LAG = 2 * SECOND
"""Most that a child's deadline is put forward because it lies far away."""


class Waves:
    """The present wave of one application on one node."""

    __slots__ = (
        "_arriving", "_complete_at", "_config", "_count", "_deadline", "_expected", "_holdings", "_inspector",
        "_intake", "_lags", "_limit", "_margin", "_missing", "_open", "_out", "_own", "_pacing", "_ready", "_roles",
        "_since", "_tree", "amnesia", "collected", "current", "sent",
    )  # fmt: skip

    def __init__(
        self,
        tree: Tree,
        quorum: float,
        config: TreeConfig,
        *,
        roles: Roles,
        out: Outbox,
        holdings: Holdings,
        count: Callable[[str], None],
        inspector: Inspector,
        limit: int,
    ) -> None:
        """``limit``: bytes that the value of a partial may have."""
        self._inspector, self._limit = inspector, limit
        self._intake = Intake(tree.me.id, config.doubt, out=out, count=count)
        self._tree, self._config, self._pacing = tree, config, Pacing(config, quorum)
        self._roles, self._out, self._holdings, self._count = roles, out, holdings, count
        self.current = NO_WAVE
        self.sent: WaveId | None = None
        """The last wave that was handed in (at the root: closed)."""
        self.collected = False
        """Everything is in, or time is up: what is still missing will not be waited for."""
        self.amnesia = True
        """An earlier life of this node may have taken part in waves that it does not remember."""
        self._open: OpenWave | None = None
        self._deadline = 0
        """Said from above, or to those below; 0: not yet."""
        self._since = 0
        """When the first wave of the present round opened here, under whatever root."""
        self._expected: dict[NodeId, bool] = {}
        self._arriving: dict[NodeId, bool] = {}
        """Children whose answer is here, and is being checked, or its value is on its way."""
        self._own: object = None
        self._ready: WaveUp | None = None
        """Merged, waiting for a parent to hand it to."""
        self._missing = 0
        """Members below that should have answered and did not."""
        self._complete_at = 0
        self._margin = config.hop_margin
        self._lags: dict[NodeId, int] = {}
        """Child → by how much earlier it has to hand in than its time to merge tells, ns."""

    # ---- opening ----------------------------------------------------------------------------------------------------

    def open(self, message: WaveOpen, now: int, gathering: Gathering | None = None) -> None:
        """At the root: start a wave."""
        assert self._tree.is_root and message.wave > self.current
        self._begin(message, self._tree.me.id, now, gathering)

    def on_open(self, peer: NodeId, message: WaveOpen, now: int) -> None:
        """From the parent."""
        if message.wave > self.current:
            self._begin(message, peer, now)
        else:
            self.on_awaited(peer, message.wave, now)

    def on_awaited(self, parent: NodeId, wave: WaveId, now: int) -> None:
        """The parent, perhaps a new one, waits for the answer to ``wave``."""
        if wave != self.current:
            return
        if self._ready is not None:
            self._flush(now)
        elif self.sent == wave:
            self._out.send(parent, WaveUp(self._tree.app, wave, None, 1))
        elif self._open is not None and self._own is _WAITING:
            self._open = msgspec.structs.replace(self._open, source=parent)
            self._roles.wave_opened(self._tree.app, self._open, now)

    def _begin(self, message: WaveOpen, source: NodeId, now: int, gathering: Gathering | None = None) -> None:
        self._since = self._since if message.wave.round == self.current.round else now
        self._pacing.begin(now, self._since, gathering)
        self.current, self.collected, self._ready = message.wave, False, None
        self._drop_checks()
        self._own, self._arriving = _WAITING, {}
        self._intake.begin(message.closed, self._tree.children)
        may, self.amnesia = not self.amnesia, False
        self._set_deadline(now + message.remaining if message.remaining else 0)
        self._open = OpenWave(message, source, may)
        self._expected = dict.fromkeys(self._tree.children, False)
        self._lags = {child: lag for child, lag in self._lags.items() if child in self._expected}
        for child in self._expected:
            self._forward(child, now)
        self._missing = 0
        self._roles.wave_opened(self._tree.app, self._open, now)

    def _forward(self, child: NodeId, now: int) -> None:
        assert self._open is not None
        self._out.send(child, msgspec.structs.replace(self._open.opening, remaining=self._remaining(child, now)))

    def _remaining(self, child: NodeId, now: int) -> int:
        """What ``child`` gets of the time left, ns; 0 without a deadline."""
        if not self._deadline:
            return 0
        left = max(self._deadline - now, 1)
        return max(left - self._margin - self._lags.get(child, 0), left // 2, 1)

    def _was_late(self, child: NodeId, late: int) -> None:
        """``child`` handed in ``late`` ns after this node's deadline."""
        if child in self._tree.children:
            self._lags[child] = min(self._lags.get(child, 0) + late + self._config.hop_margin, MAX_LAG)

    def _was_in_time(self, child: NodeId, now: int) -> None:
        """Who waited for its deadline, and was early all the same, gets a little of that back."""
        lag, early = self._lags.get(child, 0), self._deadline - now - self._config.hop_margin
        if 0 < early < lag:
            self._lags[child] = lag - early // 8

    def replay_to(self, child: NodeId, handed_in: WaveId | None, now: int) -> None:
        """A child attached, or asks again: it gets the present wave, and is waited for if it may still answer."""
        if self._open is None or child not in self._tree.children:
            return
        if not self.collected:
            if handed_in != self.current:
                self._expected.setdefault(child, False)
                self._progress(now)
            elif self._expected.get(child) is False and child not in self._arriving:
                self.child_lost(child, now)
        self._forward(child, now)

    # ---- answers ----------------------------------------------------------------------------------------------------

    def contribute(self, wave: WaveId, partial: Partial | None, now: int) -> bool:
        """The local role's answer.  False when it comes too late for this wave."""
        if wave != self.current or self.collected or self._own is not _WAITING:
            return False
        self._own = partial
        self._progress(now)
        return True

    def on_up(self, peer: NodeId, message: WaveUp, now: int) -> None:
        """A child's answer: checked, fetched if its value is large, then counted."""
        wave, partial, absent = message.wave, message.partial, message.absent
        if peer in self._arriving or not self._waits(peer, wave):
            self._late(peer, wave, now)
        elif partial is None:
            self._answered(peer, absent, now)
        elif (code := flaw(partial)) is not None:
            self._out.penalize(peer, code, "partial")
            self._answered(peer, absent + max(len(partial.contributors), 1), now)
        else:
            self._arriving[peer] = True
            self._inspector.inspect(peer, message, lambda found, at: self._inspected(peer, message, found, at), now)

    def _inspected(self, peer: NodeId, message: WaveUp, found: Standing, now: int) -> None:
        """It is clear what the claims are worth; the wave may be over meanwhile."""
        partial = message.partial
        assert partial is not None
        if not self._waits(peer, message.wave):
            self._late(peer, message.wave, now)
        elif found is not Standing.MEMBER:
            self._intake.blame(peer, found, now)
            self._failed(peer, message, partial, now)
        else:
            self._holdings.ensure(
                partial.value,
                self._limit,
                (peer,),
                lambda at: self._arrived(peer, message, partial, at),
                now,
                failed=lambda at: self._failed(peer, message, partial, at),
            )

    def _waits(self, peer: NodeId, wave: WaveId) -> bool:
        return wave == self.current and not self.collected and self._expected.get(peer) is False

    def _late(self, peer: NodeId, wave: WaveId, now: int) -> None:
        """Dropped.  When it missed this node's deadline its own will be earlier."""
        self._count("late_partials")
        if wave == self.current and self._expected.get(peer) is False and 0 < self._deadline <= self._complete_at:
            self._expected[peer] = True
            self._was_late(peer, now - self._complete_at)

    def _arrived(self, peer: NodeId, message: WaveUp, partial: Partial, now: int) -> None:
        """The value is here; the wave may be over meanwhile."""
        named = dict(zip(partial.contributors, message.claims, strict=True))
        if not self._waits(peer, message.wave):
            self._late(peer, message.wave, now)
        elif self._intake.take(peer, partial, named):
            self._answered(peer, message.absent, now)
        else:
            self._failed(peer, message, partial, now)

    def _failed(self, peer: NodeId, message: WaveUp, partial: Partial, now: int) -> None:
        """The value will never be here, or cannot be counted: whoever stands behind it is absent."""
        if self._waits(peer, message.wave):
            self._answered(peer, message.absent + len(partial.contributors), now)
        else:
            self._late(peer, message.wave, now)

    def _answered(self, peer: NodeId, absent: int, now: int) -> None:
        self._arriving.pop(peer, None)
        self._expected[peer] = True
        self._was_in_time(peer, now)
        self._missing = min(self._missing + absent, MAX_MEMBERS)
        self._progress(now)

    @property
    def awaited(self) -> Collection[NodeId]:
        """Children whose answer is missing."""
        if self.collected:
            return ()
        return [child for child, here in self._expected.items() if not here and child not in self._arriving]

    def child_lost(self, peer: NodeId, now: int) -> None:
        """A child died or left; a partial that it had handed in stays counted."""
        self._arriving.pop(peer, None)
        self._inspector.drop(self._tree.app, peer)
        self._lags.pop(peer, None)
        if self._expected.pop(peer, None) is False:
            self._missing += 1
        if not self.collected and self._open is not None:
            self._progress(now)

    # ---- closing ----------------------------------------------------------------------------------------------------

    def _progress(self, now: int) -> None:
        """Close when nobody else is waited for; otherwise see how long those who are missing may take."""
        whole = self._own is not _WAITING and all(self._expected.values())
        if self._deadline and not whole:
            self._arm(self._deadline)
            return
        here = sum(self._expected.values()) + (self._own is not _WAITING)
        step, at = self._pacing.next(here, len(self._expected) + 1, self._contributors, now)
        if step is Step.CLOSE:
            self._close(now)
        elif step is Step.HURRY:
            self._hurry(at, now)
        else:
            self._arm(min(at, self._deadline) if at and self._deadline else at)

    @property
    def _contributors(self) -> int:
        return self._intake.contributors + isinstance(self._own, Partial)

    def on_hurry(self, remaining: int, now: int) -> None:
        """The parent got its quorum and will not wait longer than ``remaining`` ns."""
        if self._open is not None and not self.collected and not 0 < self._deadline <= now + remaining:
            self._hurry(now + remaining, now)

    def _hurry(self, deadline: int, now: int) -> None:
        self._set_deadline(deadline)
        for child in self.awaited:
            self._tree.hurry(child, self.current, self._remaining(child, now))

    def _set_deadline(self, at: int) -> None:
        self._deadline = at
        self._arm(at)

    def _arm(self, at: int) -> None:
        timer = ("tree.wave", self._tree.app)
        if at:
            self._out.set_timer(timer, at)
        else:
            self._out.cancel_timer(timer)

    def on_deadline(self, now: int) -> None:
        """Time is up for those who are missing; they are told so, unless they know.  When all have answered that are
        here, nobody else came."""
        if self._open is None or self.collected:
            return
        missing = len(self.awaited) + (self._own is _WAITING) + len(self._arriving)
        if missing and not self._deadline:
            self._hurry(now + self._config.grace, now)
            return
        if missing:
            self._count("deadlines_missed")
        self._close(now)

    def _close(self, now: int) -> None:
        """Whatever is here now is the answer of this subtree."""
        wave = self._open
        assert wave is not None
        self.collected, self._complete_at = True, now
        self._out.cancel_timer(("tree.wave", self._tree.app))
        self._missing += sum(not answered for answered in self._expected.values()) + (self._own is _WAITING)
        self._drop_checks()
        self._make_room(now)
        parts = self._in_order()
        if self._tree.is_root:
            self.sent = wave.id
            self._roles.wave_closed(self._tree.app, wave.id, parts, self._missing, now)
        elif not parts:
            self._ready = WaveUp(self._tree.app, wave.id, None, self._missing)
            self._flush(now)
        else:
            self._roles.combine(self._tree.app, wave.id, parts, now)

    def _drop_checks(self) -> None:
        """Whoever is still being looked at came too late: its own deadline will be earlier."""
        for child in self._arriving:
            if self._inspector.drop(self._tree.app, child):
                self._count("late_partials")
                self._was_late(child, 0)

    def _make_room(self, now: int) -> None:
        """What is handed on names so many contributors and no more."""
        assert self._open is not None
        most = MAX_MEMBERS - len(self._open.closed) if self._tree.is_root else MAX_CLAIMS
        lost = self._intake.choose(most - isinstance(self._own, Partial))
        if lost:
            self._missing = min(self._missing + lost, MAX_MEMBERS)
            self._roles.crowded(self._tree.app, self._open.id, lost, now)

    def _in_order(self) -> Sequence[HandedIn]:
        """Child-id order, so that a float sum does not depend on who answered first."""
        parts = dict(self._intake.parts)
        if isinstance(self._own, Partial):
            parts[self._tree.me.id] = self._own
        return [HandedIn(member, parts[member]) for member in sorted(parts)]

    def hand_in(self, wave: WaveId, partial: Partial | None, now: int, absent: int = 0) -> None:
        """The merged partial of this subtree is ready; None when nothing of it could be used."""
        if wave != self.current or self.sent == wave or self._tree.is_root or self._open is None:
            return
        self._missing = min(self._missing + absent, MAX_MEMBERS)
        self._ready = WaveUp(self._tree.app, wave, partial, self._missing)
        self._flush(now)

    def _flush(self, now: int) -> None:
        """Hand in, once, to the parent of this moment; without one, as soon as there is one."""
        parent, ready = self._tree.parent, self._ready
        if parent is None or ready is None:
            return
        self._ready, self.sent = None, ready.wave
        if ready.partial is not None:
            ready = msgspec.structs.replace(ready, claims=self._stated(ready.partial, ready.wave, parent))
        self._tree.handed_in(ready.wave)
        self._margin += (now - self._complete_at + self._config.hop_margin - self._margin) // 8
        self._out.send(parent, ready)

    def _stated(self, partial: Partial, wave: WaveId, parent: NodeId) -> tuple[Claim, ...]:
        """The statements of all whom ``partial`` names; one's own is made here and now."""
        me, own = self._tree.me.id, self._own
        mine = self._inspector.claim(self._tree.app, wave, own, parent) if isinstance(own, Partial) else None
        return tuple(
            mine if mine is not None and member == me else self._intake.claim(member) for member in partial.contributors
        )

    def doubt(self, amnesia: bool) -> None:
        """May an earlier life have taken part in waves that this one does not remember?"""
        self.amnesia = amnesia

    def stop(self) -> None:
        """The application is over on this node, or this node's reign is."""
        self.collected, self._ready, self._open = True, None, None
        self._drop_checks()
        self._expected, self._arriving = {}, {}
        self._intake.clear()
        self._set_deadline(0)

    @property
    def open_wave(self) -> OpenWave | None:
        return self._open
