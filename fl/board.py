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
MAX_REPEAT = 3600 * SECOND


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

    # ---- this node's own ----

    def complain(self, trouble: Trouble) -> None:
        self.own = trouble

    def recover(self) -> None:
        """There is nothing to complain of any more."""
        self.own = None

    def pause(self, *, again: bool) -> int:
        """How long (ns) until a refusal is said ``again``, or once more after the first time."""
        self.repeat = min(self.repeat * 2, MAX_REPEAT) if again else REPEAT
        return self.repeat

    # ---- at the root ----

    def enter(self, complaint: Complaint, source: NodeId) -> bool | None:
        """Write down what ``source`` brought: is it news?  None when there is no room for one more from there."""
        known = self.book.get(complaint.node)
        room = len(self.book) < MAX_BOOK and sum(by == source for _, by in self.book.values()) < PER_PEER
        if known is None and not room:
            return None
        self.book[complaint.node] = complaint, source
        return known is None or words(known[0]) != words(complaint)

    def stumbled(self) -> None:
        """The step to the next model could not be taken."""
        self.stumbles += 1

    def brought(self, well: Collection[NodeId], absent: int, round_: int, now: int) -> bool:
        """A wave brought the contributions of ``well``.  True when a complaint is history by that."""
        self.well.update(dict.fromkeys(well))
        if not well:
            if not absent:
                self.since = self.since if self.empty else now
                self.empty += 1
            return False
        self.empty = 0
        # A node that described its data may still fail to train on them: that is round 0.
        return self._strike([node for node in well if node in self.book and _heals(self.book[node][0], round_)])

    def decided(self, round_: int) -> bool:
        """``round_`` is committed.  True when complaints are history by that."""
        self.empty, self.stumbles, self.well = 0, 0, {}
        return self._strike([node for node, (one, _) in self.book.items() if _outdated(one, round_)])

    def _strike(self, nodes: Collection[NodeId]) -> bool:
        for node in nodes:
            del self.book[node]
        return bool(nodes)

    def say(self, status: str, detail: str) -> bool:
        """What the coordinator says.  True when nobody is about to tell it yet: that is for the caller."""
        self.said = status, detail
        first, self.telling = not self.telling, True
        return first

    def told_all(self) -> None:
        """What was said is told now."""
        self.telling = False

    def number(self) -> int:
        """Of the next condition."""
        self.serial += 1
        return self.serial

    def succeed(self, me: NodeId) -> None:
        """This node, ``me``, is root from now on, and begins with what its predecessor had told everybody."""
        self.serial, self.empty, self.stumbles, self.well = 0, 0, 0, {}
        if self.condition is not None:
            self.book = {one.node: (one, me) for one in self.condition.complaints}

    # ---- conditions ----

    def take(self, condition: Condition) -> None:
        """It holds from now on, and no child has it."""
        self.condition, self.told = condition, {}

    def hand_to(self, children: Collection[NodeId]) -> list[NodeId]:
        """All ``children`` get the condition: which of them do not have it?"""
        without = [child for child in children if child not in self.told]
        self.told = dict.fromkeys(children)
        return without

    def await_root(self, condition: Condition) -> None:
        """The head that names its root is on its way."""
        self.pending = condition

    def take_pending(self) -> Condition | None:
        pending, self.pending = self.pending, None
        return pending


def nobody_left(board: Board, spec: AppSpec, now: int) -> bool:
    """Is it shown that no node is left which could do what the round lacks?"""
    often = board.empty >= FAILING_WAVES / min(spec.fraction, 1.0) and now - board.since >= FAILING_AFTER
    would_do = not board.well or len(board.well) + len(board.book) >= spec.min_workers
    return often and bool(board.book) and would_do


def _outdated(complaint: Complaint, round_: int) -> bool:
    """Is it history once ``round_`` is committed?"""
    return (
        complaint.kind is not Ailment.REFUSED and complaint.round + OLD * (complaint.kind is not Ailment.STEP) <= round_
    )


def _heals(complaint: Complaint, round_: int) -> bool:
    """Does a contribution to ``round_`` show that the node is well again?"""
    return complaint.kind not in (Ailment.STEP, Ailment.CROWDED) and complaint.round <= round_


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
