"""Bugs that need a liar: what a member says is believed, or others are punished for it."""
# ruff: noqa: SLF001 - a planted bug has the body of the method that it replaces

from __future__ import annotations

from contextlib import AbstractContextManager

from protocol.errors import Code
from protocol.ids import NodeId
from protocol.membership import Roll, Standing
from pubsub.intake import Intake
from pubsub.joins import Joins
from pubsub.messages import TreeAccept, TreeJoin, WaveUp
from pubsub.tree import Tree
from pubsub.waves import Waves

from .planting import patched, together


def blame_without_proof() -> AbstractContextManager[None]:
    """Whoever is named as a contributor without a statement is punished for it, not only who named it."""
    original = Waves._inspected

    def inspected(self: Waves, peer: NodeId, message: WaveUp, found: Standing, now: int) -> None:
        assert message.partial is not None
        for member in () if found is Standing.MEMBER else message.partial.contributors:
            self._out.penalize(member, Code.OVERLAP, "handed in by somebody else as well")
        original(self, peer, message, found, now)

    return patched(Waves, "_inspected", inspected)


def every_key_is_a_member() -> AbstractContextManager[None]:
    """Whoever seals is counted, endorsed or not."""

    def standing(self: Roll, node: NodeId, voucher: bytes) -> Standing:
        return Standing.MEMBER

    return patched(Roll, "standing", standing)


def forgers_unblamed() -> AbstractContextManager[None]:
    """What is not proven is not counted, and costs nobody anything."""

    def blame(self: Intake, peer: NodeId, standing: Standing, now: int) -> None:
        self._count("contributors_unproven")

    return patched(Intake, "blame", blame)


def uninvited_accept_believed() -> AbstractContextManager[None]:
    """A node becomes the child of whoever says so."""
    original = Tree.on_accept

    def on_accept(self: Tree, peer: NodeId, message: TreeAccept, now: int) -> bool:
        if self.me.id not in message.path and not self.is_root and peer != self.parent:
            self.lose_parent(now)
            message = TreeAccept(self.app, self._attempt, message.path)
        return original(self, peer, message, now)

    return patched(Tree, "on_accept", on_accept)


def join_in_anothers_name() -> AbstractContextManager[None]:
    """A join that others carried is taken for the joiner's own word, whoever made it."""

    def sound(self: Joins, relay: NodeId, join: TreeJoin, now: int) -> bool:
        return True

    return together(patched(Joins, "_sound", sound), place_for_a_carried_join())


def place_for_a_carried_join() -> AbstractContextManager[None]:
    """A join that its joiner made gives it a place, whenever and wherever it arrives, and through whomever."""

    def arrived(self: Joins, relay: NodeId, join: TreeJoin, now: int) -> None:
        self._parts.ring.learn(join.joiner)
        self._asked(join, now)

    return patched(Joins, "arrived", arrived)
