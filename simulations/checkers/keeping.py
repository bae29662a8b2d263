"""What must not be lost is held by those who promised to hold it.

A voter that says ``Accepted`` has the head's model and state on its own disk, whole, and keeps them for as long as that
head is the one that it holds.  When an application is accepted, a majority of the voters that its descriptor names has
its code and its first model on disk and pinned; a majority of as many nodes has the code, pinned, until it is over: any
one machine may burn, the submitter's as well.
"""

from __future__ import annotations

from typing import Any

from fl.notices import Deposited
from protocol.ids import AppId, BlobId, short
from pubsub.heads import Head
from pubsub.messages import Accepted

from ..clock import SECOND
from ..developer import Submission
from ..host import Host, State
from ..world import World
from .base import Report, who
from .heads import Heads

CODE_NS = 30 * SECOND
"""Time that the code has to get to the disks of voters that are new."""


class Keeping:
    """Looks into the stores of those who hold something for others."""

    def __init__(self, world: World, report: Report, heads: Heads) -> None:
        self._world, self._report, self._heads = world, report, heads
        self._told: dict[tuple[int, AppId, tuple[int, int, int]], None] = {}
        """(Host, application, head) of which something was reported already."""
        self._scattered: dict[AppId, int] = {}
        """Application → since when its code has been on too few disks."""
        self._checked: dict[AppId, None] = {}
        """Applications whose voters were looked at when they were accepted."""
        world.engine.tap(Accepted, self._accepted)
        world.engine.tap(Deposited, self._deposited)

    def sample(self, now: int) -> None:
        """Every voter still holds what it accepted, and every application's code is in several places."""
        for host in self._world.running():
            for app, voter in self._world.core(host).forest.voters.items():
                if voter.ballot.accepted is not None and not voter.over:
                    self._held(host, app, voter.ballot.accepted, now, "lost the content of")
        for submission in self._world.submissions:
            self._code(submission, now)

    def finish(self, now: int) -> None:
        """As at any other time."""
        self.sample(now)

    def _deposited(self, now: int, host: Host, effect: Any) -> None:
        """The developer, who hears of it first, may have called the application accepted at this word."""
        submission = self._world.by_app.get(effect.notice.app)
        if submission is None or submission.spec is None or not submission.accepted or submission.app in self._checked:
            return
        self._checked[submission.app] = None
        spec, hosts = submission.spec, self._world.engine.by_id
        for value in (spec.bundle, spec.initial):
            holders = sum(self._keeps(hosts[voter.id], value.blob) for voter in spec.voters)
            if value.blob and 2 * holders <= len(spec.voters):
                text = f"{short(submission.app)} is accepted, and {holders} of its voters hold what it names"
                self._report.add("code-has-holders", now, text)

    def _accepted(self, now: int, host: Host, effect: Any) -> None:
        message: Accepted = effect.message
        accepted = self._heads.accepted_by(host, message.app)
        if accepted is not None and accepted.order == message.order:
            self._held(host, message.app, accepted, now, "accepts, without its content,")

    def _held(self, host: Host, app: AppId, head: Head, now: int, does: str) -> None:
        artifacts = self._world.artifacts
        absent = [value for value in (head.model, head.state) if value.blob and not artifacts.holds(host, value.blob)]
        name = (host.index, app, head.order)
        if absent and name not in self._told:
            self._told[name] = None
            self._report.add("voter-holds-model", now, f"{who(host)} {does} head {head.order} of {short(app)}")

    def _code(self, submission: Submission, now: int) -> None:
        spec = submission.spec
        if spec is None or not spec.bundle.blob or not submission.accepted or self._over(submission):
            self._scattered.pop(submission.app, None)
            return
        chain = self._heads.chains.get(submission.app)
        newest = chain.newest if chain is not None else None
        if not self._world.has_majority(newest.voters if newest is not None else spec.voters):
            self._scattered.pop(submission.app, None)  # nobody can be elected to hold it instead
            return
        wanted = min(len(spec.voters) // 2 + 1, len(self._world.running()))
        holders = self._holders(spec.bundle.blob)
        since = self._scattered.setdefault(submission.app, now)
        if holders >= wanted:
            self._scattered[submission.app] = now
        elif now - since >= CODE_NS:
            self._scattered[submission.app] = now
            few = f"{short(submission.app)}: its code is on {holders} running nodes, on {wanted} it ought to be"
            self._report.add("code-has-holders", now, few)

    def _holders(self, blob: BlobId) -> int:
        return sum(self._keeps(host, blob) for host in self._world.members if host.state is not State.OFF)

    def _keeps(self, host: Host, blob: BlobId) -> bool:
        """Whole, and safe from the garbage collector."""
        return self._world.artifacts.holds(host, blob) and blob in (host.pins or {})

    def _over(self, submission: Submission) -> bool:
        chain = self._heads.chains.get(submission.app)
        return submission.stopped is not None or (chain is not None and chain.finished)
