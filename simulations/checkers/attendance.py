"""Attendance: nobody who could have taken part is left out of a round.

A worker is *expected* in a round when it was well, and had been for a while, before the round was opened and until it
was decided.  An expected worker that is missing is excused when it is a straggler: its training took much longer than
that of most others, and the round did not wait for it.  Anything else is a contribution that the tree has lost.

Rounds in whose time nothing went wrong must be complete.  In a round during which some node died, one in ten may be
missing: orphans find a new parent within the round as a rule, not by necessity.  While the network itself misbehaves
nothing is asked of a round here; the other checkers watch it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fl.notices import WaveStarted
from fl.tasks import Evaluate, Finish, Train
from protocol.ids import AppId, NodeId, short
from pubsub.heads import Head

from ..clock import MILLISECOND, SECOND
from ..developer import Submission
from ..host import Host
from ..scenario import ns
from ..world import World
from .base import Report, who
from .heads import Heads

SETTLE_NS = 15 * SECOND
"""For how long a node must have been well to be expected: it has to enter the ring, hear of the application, find a
parent, and sit out one wave.  Those who were there before the application was submitted are expected from the start."""
TRAVEL_NS = 1500 * MILLISECOND
"""Longest way of a contribution to the root, merges included."""
STRAGGLE = 1.5
"""Whose training takes so many times as long as that of the quorum's slowest may be missing."""
SHARE = 0.9
"""Of those expected in a round during which somebody died, the least share that must be there."""


@dataclass(frozen=True, slots=True)
class Attendance:
    """Who was in one round."""

    app: AppId
    round: int
    epoch: int
    opened: int
    decided: int
    expected: tuple[NodeId, ...]
    missing: tuple[NodeId, ...]
    """Of those expected; stragglers are not."""
    contributors: int
    new_root: bool
    """The first round that its root has decided, and not the first root."""

    @property
    def share(self) -> float:
        """Of those expected who were there."""
        return 1.0 - len(self.missing) / len(self.expected) if self.expected else 1.0


class Attendances:
    """Takes the roll of every round."""

    def __init__(self, world: World, report: Report, heads: Heads) -> None:
        self._world, self._report, self._heads = world, report, heads
        self.rolls: list[Attendance] = []
        self._opened: dict[tuple[AppId, int], dict[int, int]] = {}
        """(Application, round) → epoch → when its first wave was opened."""
        self._closed: dict[tuple[AppId, int], int] = {}
        """When the root went on to merge and finish."""
        self._trainings: dict[tuple[AppId, int], dict[int, tuple[int, int]]] = {}
        """(Application, round) → host → begin and end of its newest training."""
        self._deaths: list[int] = []
        world.engine.tap(WaveStarted, self._started)
        world.engine.on_job.append(self._job)
        world.weather.on_unwell.append(self._unwell)
        heads.on_round.append(self._decided)

    def sample(self, now: int) -> None:
        """Everything is checked as it happens."""

    def finish(self, now: int) -> None:
        """Everything was checked as it happened."""

    # ---- what happens ----

    def _unwell(self, host: Host) -> None:
        self._deaths.append(self._world.engine.now)

    def _started(self, now: int, host: Host, effect: Any) -> None:
        notice: WaveStarted = effect.notice
        epochs = self._opened.setdefault((notice.app, notice.wave.round), {})
        epochs.setdefault(notice.wave.epoch, now)

    def _job(self, now: int, host: Host, task: Any, took: int) -> None:
        if isinstance(task, Train | Evaluate):
            self._trainings.setdefault((task.app, task.round), {})[host.index] = now, now + took
        elif isinstance(task, Finish):
            self._closed[task.app, task.round] = now

    def _decided(self, app: AppId, head: Head, before: Head, now: int) -> None:
        submission = self._world.by_app.get(app)
        opened = [at for epoch, at in self._opened.get((app, head.round), {}).items() if epoch <= head.epoch]
        if submission is None or submission.spec is None or submission.spec.fraction < 1 or not opened:
            return
        settled = min(opened[-1] - SETTLE_NS, *self._opened.get((app, before.round), {0: opened[-1]}).values())
        since = max(settled, ns(self._world.scenario.nodes.join_s))
        expected = tuple(self._world.members[index] for index in submission.workers)
        expected = tuple(host for host in expected if self._well(host, since))
        present = dict.fromkeys(head.contributors, True)
        excused = self._excuse(submission, head, now)
        missing = [host for host in expected if host.id not in present and not excused(host)]
        roll = Attendance(
            app, head.round, head.epoch, opened[-1], now, tuple(host.id for host in expected),
            tuple(host.id for host in missing), len(head.contributors),
            new_root=head.epoch > before.epoch and before.round > 0,
        )  # fmt: skip
        self.rolls.append(roll)
        self._judge(roll, missing)

    def _well(self, host: Host, since: int) -> bool:
        well = self._world.weather.well_since(host)
        return well is not None and well <= since and self._world.takes_part(host)

    def _excuse(self, submission: Submission, head: Head, now: int) -> Callable[[Host], bool]:
        """Who of the missing is a straggler?"""
        assert submission.spec is not None
        trainings = self._trainings.get((submission.app, head.round), {})
        closed = self._closed.get((submission.app, head.round), now) - TRAVEL_NS
        durations = sorted(end - begin for begin, end in trainings.values())
        quorum = durations[int(submission.spec.quorum * (len(durations) - 1))] if durations else 0

        def excused(host: Host) -> bool:
            begin, end = trainings.get(host.index, (0, 0))
            return end - begin > STRAGGLE * quorum and end > closed

        return excused

    def _judge(self, roll: Attendance, missing: list[Host]) -> None:
        calm = self._world.weather.calm_since()
        if calm is None or calm > roll.opened - SETTLE_NS:
            return
        quiet = not any(roll.opened - SETTLE_NS <= at <= roll.decided for at in self._deaths)
        allowed = 0 if quiet else max(1, int((1 - SHARE) * len(roll.expected)))
        few = f"{len(missing)} of {len(roll.expected)} who could be there are not"
        names = ", ".join(who(host) for host in missing[:3])
        self._report.require(
            len(missing) <= allowed, "nobody-left-out", roll.decided,
f"{short(roll.app)} round {roll.round}: {few}: {names}",
        )  # fmt: skip
