"""Bugs of the trees: loops, and parents with too many children."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from protocol.ids import NodeId
from protocol.messages import Contact
from pubsub.tree import Tree

from .planting import patched


def short_path() -> AbstractContextManager[None]:
    """A parent hands down only itself, not the path to the root, so nobody recognises an ancestor."""

    def my_path(self: Tree) -> tuple[NodeId, ...]:
        return (self.me.id,)

    return patched(Tree, "my_path", property(my_path))


def no_fan_out_cap() -> AbstractContextManager[None]:
    """A node takes whoever asks."""

    def has_slot(self: Tree, joiner: Contact) -> bool:
        return True

    return patched(Tree, "_has_slot", has_slot)


def stale_path() -> AbstractContextManager[None]:
    """A node keeps the path that it was given when it joined, whatever the beats say."""
    original = Tree.on_beat

    def on_beat(self: Tree, peer: NodeId, path: Sequence[NodeId], now: int) -> bool:
        return original(self, peer, self.path if peer == self.parent else path, now)

    return patched(Tree, "on_beat", on_beat)
