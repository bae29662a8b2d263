"""Guardians: a voter that is gone for long is replaced, so that the next deaths do not cost the majority.

Asked only where it can be done: the application has a root that runs, the majority lives, the network is calm, there
are nodes enough, and all of that has been so for a while.
"""

from __future__ import annotations

from protocol.ids import AppId, NodeId, short
from protocol.messages import Contact

from ..clock import SECOND
from ..developer import Submission
from ..host import State
from ..world import World
from .base import Report
from .heads import Heads

PATIENCE_NS = 60 * SECOND
"""Time in which a dead voter is removed and another one added: its death is noticed in seconds, and each of the two
steps is a commit."""


class Guardians:
    """Looks at the voters of every application at intervals."""

    def __init__(self, world: World, report: Report, heads: Heads) -> None:
        self._world, self._report, self._heads = world, report, heads
        self._since: dict[tuple[AppId, NodeId], int] = {}
        """(Application, dead voter) → since when it could have been replaced."""

    def sample(self, now: int) -> None:
        """Find who is dead, could be replaced, and has been for too long."""
        found: dict[tuple[AppId, NodeId], None] = {}
        for submission in self._world.submissions:
            for voter in self._replaceable(submission):
                found[submission.app, voter.id] = None
        self._since = {key: self._since.get(key, now) for key in found}
        for (app, node), since in self._since.items():
            if now - since >= PATIENCE_NS:
                self._since[app, node] = now
                text = f"{short(app)}: {short(node)} has been dead since {since / SECOND:.0f} s and still votes"
                self._report.add("dead-voter-replaced", now, text)

    def finish(self, now: int) -> None:
        """As at any other time."""
        self.sample(now)

    def _replaceable(self, submission: Submission) -> list[Contact]:
        chain, world = self._heads.chains.get(submission.app), self._world
        if chain is None or chain.newest is None or chain.finished or submission.stopped is not None:
            return []
        voters = chain.newest.voters
        # An addition that some have accepted and no majority has is under way: no other change before it is decided.
        able = world.weather.calm_since() is not None and world.has_majority(voters) and self._has_root(submission)
        spare = [host for host in world.running() if host.contact.dialable and all(v.id != host.id for v in voters)]
        return [voter for voter in voters if not self._exists(voter)] if able and spare else []

    def _has_root(self, submission: Submission) -> bool:
        return any(self._world.engine.hosts[index].state is State.RUNNING for index in submission.roots)

    def _exists(self, voter: Contact) -> bool:
        host = self._world.engine.by_id.get(voter.id)
        return host is not None and host.alive
