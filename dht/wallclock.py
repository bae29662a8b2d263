"""What time it is: this machine's clock, corrected by what the others say.

Records expire by the wall clock, and a machine whose clock is days wrong would drop everybody's, or hold what is over.
So each pong carries its sender's clock, uncorrected, so that a mistake is not handed on.  A node takes the median of
what its neighbours say and of its own; when that differs from its own by more than minutes, it says so and goes by the
median.  One liar, or one other wrong clock, moves nothing: it takes half of those who are asked.

Two are enough to outvote one, and with fewer nobody can tell who is right.  When the operator sets the clock of this
machine the differences are shifted by as much: what others say does not change by that.
"""

from __future__ import annotations

from protocol.ids import NodeId

SECOND = 1_000_000_000
TOLERANCE = 300
"""Seconds of difference that nobody minds: records live for days."""
_SAMPLES = 24
"""Peers whose clocks are remembered: as many as a leaf set holds."""


class WallClock:
    """Unix time on a machine whose clock may be wrong."""

    __slots__ = ("_offset", "_samples", "correction")

    def __init__(self, offset: int) -> None:
        """``offset``: ns to add to the driver's ``now`` for this machine's Unix time."""
        self._offset = offset
        self._samples: dict[NodeId, int] = {}
        """Peer → seconds by which its clock is ahead of ours."""
        self.correction = 0
        """Seconds added to this machine's clock; 0 while it is right to a few minutes, or nobody can tell."""

    def own(self, now: int) -> int:
        """Unix seconds by this machine's clock."""
        return (now + self._offset) // SECOND

    def wall(self, now: int) -> int:
        """Unix seconds, as far as this node can tell."""
        return max(self.own(now) + self.correction, 0)

    @property
    def confirmed(self) -> bool:
        """Enough others were heard to know that :meth:`wall` is right."""
        return len(self._samples) > 1

    def heard(self, peer: NodeId, wall: int, now: int) -> bool:
        """``peer`` says that it is ``wall``, Unix seconds; true when that changes the correction, or confirms it."""
        if not wall:
            return False
        was = self.confirmed
        self._samples.pop(peer, None)
        self._samples[peer] = wall - self.own(now)
        if len(self._samples) > _SAMPLES:
            del self._samples[next(iter(self._samples))]
        return self._settle() or self.confirmed != was

    def set(self, offset: int) -> bool:
        """This machine's clock was set; true when that changes the correction."""
        shift = (offset - self._offset) // SECOND
        self._offset = offset
        self._samples = {peer: ahead - shift for peer, ahead in self._samples.items()}
        return self._settle()

    def _settle(self) -> bool:
        ordered = sorted([0, *self._samples.values()])
        # Of an even number there are two medians, and the nearer to our own counts: a tie moves nothing.
        median = min(ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2], key=abs)
        correction = median if abs(median) > TOLERANCE else 0
        if abs(correction - self.correction) <= TOLERANCE // 5 and bool(correction) == bool(self.correction):
            return False
        self.correction = correction
        return True
