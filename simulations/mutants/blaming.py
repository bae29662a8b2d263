"""Bugs of blame and fences: honest nodes that are punished, epochs that are skipped."""
# ruff: noqa: SLF001 - a planted bug has the body of the method that it replaces

from __future__ import annotations

from contextlib import AbstractContextManager

from protocol.errors import Code
from protocol.ids import NodeId
from pubsub.heads import Head
from pubsub.proposer import Proposer
from pubsub.voter import Voter

from .planting import patched


def sleeper_blamed() -> AbstractContextManager[None]:
    """Who speaks in an epoch that is over is punished for it, though it may have slept."""
    original = Voter._refuse

    def refuse(self: Voter, peer: NodeId) -> None:
        self._out.penalize(peer, Code.UNEXPECTED, "a dead epoch")
        original(self, peer)

    return patched(Voter, "_refuse", refuse)


def epochs_skipped() -> AbstractContextManager[None]:
    """A candidate leaves some epochs out, to be on the safe side."""
    original = Proposer.stand

    def stand(self: Proposer, known: Head, now: int, *, beyond: int = 0) -> None:
        self.epoch += 8
        original(self, known, now, beyond=beyond)

    return patched(Proposer, "stand", stand)
