"""What must have happened in the end: whoever could finish has finished, and nobody else claims to have."""

from __future__ import annotations

from typing import Any

from fl.notices import StatusChanged
from protocol.ids import AppId, short
from pubsub.heads import Head

from ..developer import Submission
from ..host import Host, State
from ..world import World
from .base import Report
from .heads import Heads


class Liveness:
    """Compares what the applications did with what the survivors allowed."""

    def __init__(self, world: World, report: Report, heads: Heads) -> None:
        self._world, self._report, self._heads = world, report, heads
        self._status: dict[tuple[AppId, int], str] = {}
        world.engine.tap(StatusChanged, self._changed)

    def _changed(self, now: int, host: Host, effect: Any) -> None:
        self._status[effect.notice.app, host.index] = effect.notice.status

    def sample(self, now: int) -> None:
        """Only the end counts."""

    def finish(self, now: int) -> None:
        """Every application is finished, or has lost the majority of its voters and says so."""
        for submission in self._world.submissions:
            spec = submission.spec
            if spec is None:
                self._report.add("submitted", now, f"{submission.data} never found its voters")
                continue
            finished = self.finished(submission)
            if finished and submission.stopped is None:
                self._news(submission, "finished", now)
            if submission.stopped is not None:
                self._news(submission, "stopped", now)
            elif self.can_finish(submission):
                self._report.require(finished, "finishes", now, self._describe(submission))
            elif not finished and not self._world.liars:
                silent = f"{short(spec.id)} lacks voters or workers and nobody says so"
                self._report.require(self._owns_up(submission), "says-stalled", now, silent)

    def _news(self, submission: Submission, outcome: str, now: int) -> None:
        """Every node knows that it is over: the record reaches all, whatever their clocks say.  Of an application that
        finished and was stopped at about the same time some may know the one and some the other."""
        ignorant = [host.index for host in self._informed() if not self._knows(host, submission, outcome)]
        some = (
            f"{short(submission.app)}: {len(ignorant)} nodes do not know that it is {outcome}, such as {ignorant[:5]}"
        )
        self._report.require(not ignorant, "news-reach-all", now, some)

    def _informed(self) -> list[Host]:
        return [host for host in self._world.running() if self._world.takes_part(host)]

    def _knows(self, host: Host, submission: Submission, outcome: str) -> bool:
        said = self._world.core(host).apps.outcome(submission.app)
        return said == outcome or (said is not None and self.finished(submission))

    def finished(self, submission: Submission) -> bool:
        chain = self._heads.chains.get(submission.app)
        return chain is not None and chain.finished

    def can_finish(self, submission: Submission) -> bool:
        """A majority of the newest voters runs, and enough workers do.

        A change of the voters that some have accepted and no majority has is undecided: whether it was made cannot be
        known without the new set, so a majority of that one must run as well.
        """
        chain, spec = self._heads.chains.get(submission.app), submission.spec
        sets = [spec.voters] if spec is not None else []
        if chain is not None and chain.newest is not None:
            newest = chain.newest
            undecided = [slot.head for slot in chain.slots.values() if slot.head.order > newest.order]
            sets = [head.voters for head in (newest, *undecided)]
        running = sum(self._world.members[index].state is State.RUNNING for index in submission.workers)
        enough = running >= self._world.scenario.applications.min_workers
        return enough and bool(sets) and all(map(self._world.has_majority, sets))

    def settled(self) -> bool:
        """Nothing is left to wait for."""
        return all(self._at_rest(submission) for submission in self._world.submissions)

    def _at_rest(self, submission: Submission) -> bool:
        if submission.stopped is not None:
            return all(self._knows(host, submission, "stopped") for host in self._informed())
        return self.finished(submission) or not self.can_finish(submission)

    def _owns_up(self, submission: Submission) -> bool:
        """Some running node reports it ``stalled``, or ``waiting`` for workers."""
        return any(
            app == submission.app and status in ("stalled", "waiting") and self._world.engine.hosts[index].alive
            for (app, index), status in self._status.items()
        )

    def _newest(self, submission: Submission) -> Head | None:
        chain = self._heads.chains.get(submission.app)
        return chain.newest if chain is not None else None

    def _describe(self, submission: Submission) -> str:
        head = self._newest(submission)
        reached = "no round" if head is None else f"head {head.order}"
        statuses = sorted({status for (app, _), status in self._status.items() if app == submission.app})
        return f"{short(submission.app)} has voters and workers but is at {reached}; its nodes say {statuses}"
