"""What the children of a node have handed in to its present wave, and whose part of it finds room.

*Overlap.*  Contributor sets are disjoint by construction (``waves``), and are compared all the same when a partial has
been proven: of two that name the same contributor the second is left out.

*Room.*  A message names so many contributors and no more, and so does a head.  When more have come, haste must not
decide who is in: a child that is first with as many as fit would keep out all its siblings.  So the choice is made when
the wave closes, from all that came, smallest first.  Every child whose partial names no more than its share, the room
divided by the children, is therefore in, whatever the others do; what some do not use is there for those who need more;
and the order of arrival decides nothing.  A partial is in or out as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from protocol.effects import Outbox
from protocol.errors import Code
from protocol.ids import NodeId
from protocol.membership import Standing

from .claims import perjurers
from .messages import Claim, Partial


def fitting(sizes: Mapping[NodeId, int], room: int) -> list[NodeId]:
    """Whose partials are counted when there is room for ``room`` contributors.  ``sizes``: child → how many it names.

    Nobody is left out who names no more than ``room`` divided by the children.
    """
    chosen: list[NodeId] = []
    for child in sorted(sizes, key=lambda one: (sizes[one], one)):
        room -= sizes[child]
        if room < 0:
            break
        chosen.append(child)
    return chosen


class Intake:
    """See the module."""

    __slots__ = ("_claims", "_closed", "_count", "_doubts", "_me", "_out", "_patience", "parts")

    def __init__(self, me: NodeId, patience: int, *, out: Outbox, count: Callable[[str], None]) -> None:
        """``patience``: ns for which a child may go on naming contributors whose authority is not known here."""
        self._me, self._patience, self._out, self._count = me, patience, out, count
        self.parts: dict[NodeId, Partial] = {}
        self._claims: dict[NodeId, Claim] = {}
        """Statements of all who are named in ``parts``."""
        self._closed: Collection[NodeId] = ()
        self._doubts: dict[NodeId, int] = {}
        """Child → since when it has named contributors of whom nobody here can say whether they are members."""

    def begin(self, closed: Collection[NodeId], children: Collection[NodeId]) -> None:
        """Another wave, in which nobody of ``closed`` takes part."""
        self.parts, self._claims, self._closed = {}, {}, closed
        self._doubts = {child: since for child, since in self._doubts.items() if child in children}

    def clear(self) -> None:
        self.begin((), ())

    @property
    def contributors(self) -> int:
        """How many are named in all that came."""
        return len(self._claims)

    def claim(self, member: NodeId) -> Claim:
        """The statement of one who is named in ``parts``."""
        return self._claims[member]

    def blame(self, peer: NodeId, standing: Standing, now: int) -> None:
        """The claims of ``peer`` did not hold.  Only what it could have known is its fault."""
        if standing is Standing.FORGED:
            self._out.penalize(peer, Code.BAD_SIGNATURE, "a contributor that is not proven")
            return
        self._count(f"contributors_{standing.value}")
        if standing is Standing.STRANGE:
            since = self._doubts.setdefault(peer, now)
            if now - since >= self._patience:
                self._out.penalize(peer, Code.UNAUTHORISED, "contributors of an authority that nobody knows")

    def take(self, peer: NodeId, partial: Partial, named: dict[NodeId, Claim]) -> bool:
        """Count the proven ``partial`` of ``peer``; False when somebody whom it names is counted already.

        Only what is proven is blamed: the child, that somebody hands in who is done with the round, which it was told;
        a contributor, that it made two statements.
        """
        self._doubts.pop(peer, None)
        if not named.keys().isdisjoint(self._closed):
            self._out.penalize(peer, Code.OVERLAP, "contributors counted already")
            return False
        if self._me in named or not named.keys().isdisjoint(self._claims):
            self._count("partials_overlapping")
            for liar in perjurers(self._claims.items(), named.items()):
                self._out.penalize(liar, Code.OVERLAP, "two statements about one wave")
            return False
        self.parts[peer] = partial
        self._claims.update(named)
        return True

    def choose(self, room: int) -> int:
        """Keep the parts for which there is ``room``; how many contributors stand behind the others."""
        chosen = fitting({child: len(part.contributors) for child, part in self.parts.items()}, room)
        left_out = [child for child in self.parts if child not in chosen]
        lost = 0
        for child in left_out:
            self._count("partials_overflow")
            lost += len(self.parts.pop(child).contributors)
        return lost
