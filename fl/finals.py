"""The last head of an application that is over, for a node that missed it.

A node that slept through the end of a run hears from a record that it has finished, and after which round;
contributors, metrics and model stand in the head, which its voters keep.  So they are asked, when somebody here wants
to know, and the first last head that one of them has, with its proof, is taken.  Nobody else's answer counts, and
nothing of a run that goes on.
"""

from __future__ import annotations

from protocol.ids import AppId, NodeId
from protocol.messages import Contact
from pubsub.messages import HeadAnswer, HeadQuery

from .notices import RoundCommitted
from .ports import Host

MAX_ASKED = 16
"""Applications that may be asked about at a time; the oldest question is given up for a new one."""


class Finals:
    """Questions about the end, on one node."""

    __slots__ = ("_asked", "_host")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._asked: dict[AppId, dict[NodeId, None]] = {}

    def recover(self, app: AppId, voters: tuple[Contact, ...], now: int) -> None:
        """Ask all ``voters``; what comes is told as ``RoundCommitted``."""
        self._asked.pop(app, None)
        while len(self._asked) >= MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        others = [voter for voter in voters if voter.id != self._host.me.id]
        self._asked[app] = dict.fromkeys(voter.id for voter in others)
        for voter in others:
            self._host.forest.ring.learn(voter)
            self._host.out.send(voter.id, HeadQuery(app, full=True))

    def answered(self, peer: NodeId, answer: HeadAnswer, now: int) -> bool:
        """True when the answer was to a question of ours."""
        asked = self._asked.get(answer.app)
        if asked is None or peer not in asked:
            return False
        del asked[peer]
        head, host = answer.head, self._host.forest
        if head is not None and head.app == answer.app and head.finished and head.whole and host.proven(head):
            del self._asked[answer.app]
            self._host.out.emit(RoundCommitted(answer.app, head, head.contributors, head.metrics))
        elif not asked:
            del self._asked[answer.app]
        return True
