"""What one node knows of the troubles of one application, and what the root concludes from it (:mod:`fl.troubles`)."""

from __future__ import annotations

from collections.abc import Collection

from protocol.ids import NodeId, short

from .messages import MAX_COMPLAINTS, Ailment, Complaint, Condition, Trouble
from .spec import AppSpec

SECOND = 1_000_000_000

FAILING_WAVES = 5
"""Waves in a row without any contribution after which nobody is left; more when only a fraction is asked."""
FAILING_AFTER = 6 * SECOND
"""Since the first of them: nodes that have just started are still on their way into the tree."""
FAILING_STEPS = 3
"""Steps in a row that failed: what is added up is new each time, the reason is not."""
PER_PEER = 16
"""Complaints that one peer may bring in a window; also its places in the root's book."""
MAX_BOOK = 64
"""Nodes whose complaints the root remembers."""
OLD = 2
"""Rounds after which a complaint is history although its node has not contributed since."""
REPEAT = 1 * SECOND
"""After that a node which refuses says so again, then after twice as long, and so on: whoever is root may change."""


class Board:
    """What is known of one application's troubles on one node."""

    __slots__ = (
        "book", "condition", "empty", "own", "pending", "repeat", "said", "serial", "since", "stumbles", "telling",
        "told", "well",
    )  # fmt: skip

    def __init__(self) -> None:
        self.condition: Condition | None = None
        """The newest that the root said, or that was said as root."""
        self.pending: Condition | None = None
        """One whose root is not known here yet: the head that names it is on its way."""
        self.told: dict[NodeId, None] = {}
        """Children that have the condition."""
        self.own: Trouble | None = None
        """This node's last complaint."""
        self.repeat = REPEAT
        self.book: dict[NodeId, tuple[Complaint, NodeId]] = {}
        """At the root: who complains, and who brought it."""
        self.said = ("running", "")
        """At the root: what the coordinator says."""
        self.empty, self.since, self.stumbles = 0, 0, 0
        self.well: dict[NodeId, None] = {}
        """At the root: who contributed to the round under way."""
        self.serial = 0
        self.telling = False


def nobody_left(board: Board, spec: AppSpec, now: int) -> bool:
    """Is it shown that no node is left which could do what the round lacks?"""
    often = board.empty >= FAILING_WAVES / min(spec.fraction, 1.0) and now - board.since >= FAILING_AFTER
    would_do = not board.well or len(board.well) + len(board.book) >= spec.min_workers
    return often and bool(board.book) and would_do


def outdated(board: Board, round_: int) -> list[NodeId]:
    """Whose complaints are history once ``round_`` is committed."""
    return [
        node for node, (one, _) in board.book.items()
        if one.kind is not Ailment.REFUSED and one.round + OLD * (one.kind is Ailment.FAILED) <= round_
    ]  # fmt: skip


def heals(complaint: Complaint, round_: int) -> bool:
    """Does a contribution to ``round_`` show that the node is well again?"""
    return complaint.kind is not Ailment.STEP and complaint.round <= round_


def place(board: Board, source: NodeId) -> bool:
    """Is there room in the book for one more whom ``source`` brings?"""
    return len(board.book) < MAX_BOOK and sum(by == source for _, by in board.book.values()) < PER_PEER


def words(complaint: Complaint) -> tuple[NodeId, int, str, str]:
    """What makes a complaint news: not the round, in which it comes again and again."""
    return complaint.node, complaint.kind, complaint.sentence, complaint.trace


def who(complaint: Complaint) -> str:
    return complaint.name or short(complaint.node)


def chosen(complaints: Collection[Complaint]) -> tuple[Complaint, ...]:
    """As many as travel; of those that say the same, the first before the others."""
    first: dict[tuple[int, str], Complaint] = {}
    for complaint in complaints:
        first.setdefault((complaint.kind, complaint.sentence), complaint)
    kept = {complaint.node: complaint for complaint in [*first.values(), *complaints]}
    return tuple(kept.values())[:MAX_COMPLAINTS]
