"""How long a voter stays with the candidate that it promised, and who has to wait for a turn.

A promise that the next question takes back protects nobody: one member that keeps asking would leave an application
without a root for ever.  So whoever is promised something gets a *lease*: while it runs, the voter promises nothing to
anybody else.  It runs for as long as an honest candidate needs to propose, and proof that a candidate has won prolongs
it: a head that its root had a right to propose, or the word of a root whose commits are proven.  It ends at once when
its holder is noticed to be dead, or to live anew, steps down or gives up.

Leases are not free.  Who lets one run out without having won anything sits out for twice as long as it kept others
away, then for four times as long, and so on; a candidate that sees that it has lost gives its lease back at once and
waits for little, but not for nothing: otherwise asking and giving back would drive up the epochs faster than others
can follow.  A member that does nothing but ask is thus in the way for a few seconds, and then ever more rarely;
in between the voter is free for whoever stands in earnest.

A voter that begins a new life remembers whom it followed, but not when it last heard it.  It stays with that root as
with one that it has just heard: otherwise restarts one after the other would hand a living root's voters to whoever
asks first.
"""

from __future__ import annotations

from typing import NamedTuple

from protocol.ids import NodeId
from protocol.messages import Contact

from .config import TreeConfig
from .paces import Paces
from .ports import Overlay

MAX_CANDIDATES = 64
"""Candidates whose pace, and whose failures, are remembered."""
MAX_DOUBLINGS = 16


class _Failures(NamedTuple):
    """What a candidate made of its last leases."""

    times: int
    until: int
    """It sits out until then, ns."""


class Lease:
    """Whom one voter stays with.  Times in ns."""

    __slots__ = (
        "_config", "_failures", "_grants", "_paces", "_recalled", "_ring", "_since", "_until", "_won", "holder",
        "purpose",
    )  # fmt: skip

    def __init__(self, purpose: str, config: TreeConfig, ring: Overlay) -> None:
        """``purpose``: why the holder is watched."""
        self.purpose, self._config, self._ring = purpose, config, ring
        self.holder: Contact | None = None
        self._since = self._until = 0
        self._won = False
        self._grants = 0
        """Promises that the holder got by this lease."""
        self._recalled = False
        """The holder is that of an earlier life, and the time has not been asked since."""
        self._failures: dict[NodeId, _Failures] = {}
        self._paces = Paces(config.epoch_burst, config.epoch_pause, MAX_CANDIDATES)
        """Candidate → questions that it may still ask."""

    # ---- questions --------------------------------------------------------------------------------------------------

    def bars(self, peer: NodeId, now: int) -> bool:
        """Would this voter promise ``peer`` nothing more: because it stays with another, because ``peer`` sits out, or
        because it got enough by this lease?"""
        if self.other(peer, now):
            return True
        if self.holder is not None and self.holder.id == peer:
            return not self._won and self._grants >= self._config.climb
        failures = self._failures.get(peer)
        return failures is not None and now < failures.until

    def other(self, peer: NodeId, now: int) -> bool:
        """Is there a holder, and is it another than ``peer``?"""
        self._settle(now)
        return self.holder is not None and self.holder.id != peer and self._ring.alive(self.holder.id)

    def in_pace(self, peer: NodeId, now: int) -> bool:
        """May ``peer`` have an answer, whatever that will be?"""
        return self._paces.take(peer, now)

    # ---- what happens -----------------------------------------------------------------------------------------------

    def recall(self, holder: Contact) -> None:
        """An earlier life of this voter followed ``holder``."""
        self.holder, self._recalled = holder, True

    def take(self, candidate: Contact, now: int) -> None:
        """``candidate`` is promised something.  Who holds the lease already gets no more time by it."""
        self._settle(now)
        if self.holder is None or self.holder.id != candidate.id:
            self._close(now)
            self._open(candidate, now, self._config.candidacy)
        self.holder = candidate
        self._grants += 1

    def prolong(self, root: Contact, now: int) -> None:
        """It is proven that ``root`` has won."""
        self._settle(now)
        if self.holder is None or self.holder.id != root.id:
            self._close(now)
            self._open(root, now, 0)
        self.holder, self._won = root, True
        self._until = max(self._until, now + self._config.reign_patience)
        self._failures.pop(root.id, None)

    def give_back(self, peer: NodeId, now: int) -> None:
        """``peer`` steps down, or sees that it cannot win."""
        if self.holder is not None and self.holder.id == peer:
            self._settle(now)
            self._close(now)

    def end(self) -> None:
        """There is nothing any more to be root of."""
        if self.holder is not None:
            self._ring.unwatch(self.holder.id, self.purpose)
            self.holder = None

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _open(self, holder: Contact, now: int, duration: int) -> None:
        self.holder, self._won, self._grants = holder, False, 0
        self._since, self._until = now, now + duration
        self._ring.watch(holder.id, self.purpose, now)

    def _settle(self, now: int) -> None:
        """A lease of an earlier life begins anew; one that has run out is closed."""
        if self._recalled and self.holder is not None:
            self._ring.learn(self.holder)
            self._open(self.holder, now, self._config.reign_patience)
            self._won = True
        self._recalled = False
        if now > self._until:
            self._close(self._until)
        elif self.holder is not None and self._is_reborn(self.holder):
            self.end()

    def _is_reborn(self, holder: Contact) -> bool:
        """Has it begun a new life?  That is neither root nor candidate until it asks again."""
        known = self._ring.contact(holder.id)
        return known is not None and known.incarnation > holder.incarnation

    def _close(self, at: int) -> None:
        """The lease is over at ``at``.  Who died has not kept anybody away for long."""
        holder = self.holder
        if holder is None:
            return
        self.end()
        if not self._won and self._ring.alive(holder.id):
            before = self._failures.pop(holder.id, None)
            times = min(before.times + 1 if before is not None else 1, MAX_DOUBLINGS)
            held = max(at - self._since, self._config.answer_wait)
            pause = min(held << times, self._config.sit_out_limit)
            self._failures[holder.id] = _Failures(times, at + pause)
            if len(self._failures) > MAX_CANDIDATES:
                del self._failures[next(iter(self._failures))]
