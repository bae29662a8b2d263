"""What the voters promised and reported to a candidate: which head it has to take over.

The newest head that any of a majority had accepted may have been committed, so it is the one.  There is one exception,
*a head that nobody can give*: it may have been accepted by a minority whose last holder died with the content.  The
candidate then goes on as if those who reported it had never answered.  When the others alone are a majority, none of
them accepted that head before promising and none will afterwards, so no majority ever did or will.  Paxos lets a
candidate decide by any majority, and this is one.  While the others are no majority the candidate keeps asking.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from protocol.ids import NodeId
from protocol.messages import Contact

from .heads import Head, Statement, Vote
from .proofs import majority


class Report(NamedTuple):
    """One voter's promise, checked."""

    head: Head | None
    statement: Statement | None
    vote: Vote


def ids(contacts: Iterable[Contact]) -> tuple[NodeId, ...]:
    return tuple(contact.id for contact in contacts)


def electorate(known: Head, best: Report | None) -> tuple[Contact, ...]:
    """The voters of the newest head that has shown itself so far: the proven one, or one that was reported."""
    newer = best is not None and best.head is not None and best.head.order >= known.order
    return best.head.voters if newer and best is not None and best.head is not None else known.voters


class Tally:
    """The promises of one candidacy."""

    __slots__ = ("_hopeless", "_reports")

    def __init__(self) -> None:
        self._reports: dict[NodeId, Report] = {}
        self._hopeless: dict[Statement, None] = {}
        """Reported heads whose content none of those who reported them could give."""

    def __contains__(self, peer: NodeId) -> bool:
        return peer in self._reports

    def add(self, peer: NodeId, report: Report) -> None:
        self._reports[peer] = report

    def knows(self, statement: Statement | None) -> bool:
        """Was this head reported before, and found to be a head that its root might propose?"""
        return any(report.statement == statement for report in self._reports.values())

    def counted(self) -> dict[NodeId, Report]:
        """Promises that count: not those for a head that nobody can give."""
        return {peer: one for peer, one in self._reports.items() if one.statement not in self._hopeless}

    def best(self) -> Report | None:
        """The newest head among those that count."""
        reported = [one for one in self.counted().values() if one.statement is not None]
        return max(reported, key=lambda one: one.statement.order if one.statement else (), default=None)

    def holders(self, best: Report | None) -> list[NodeId]:
        """Who reported it."""
        return [peer for peer, one in self._reports.items() if best is not None and one.statement == best.statement]

    def give_up(self, best: Report, known: Head) -> bool:
        """Nobody could give ``best``.  True when it is set aside, because the others are a majority without it."""
        assert best.statement is not None
        self._hopeless[best.statement] = None
        if majority(ids(electorate(known, self.best())), self.counted()):
            return True
        del self._hopeless[best.statement]
        return False
