"""What people call the nodes: each tells its label to whoever it gets a link with.

A label is what its operator wrote, or the host's name.  It proves nothing and decides nothing: whatever is addressed,
signed or counted goes by the id.
"""

from __future__ import annotations

from protocol.effects import Outbox
from protocol.ids import NodeId

from .messages import MAX_NAME, Label

MAX_LABELS = 1024
"""Peers whose label is remembered: more than have links."""


class Labels:
    """Of one node and its peers."""

    __slots__ = ("_known", "_out", "_own")

    def __init__(self, own: str, out: Outbox) -> None:
        """``own`` may be empty: then nothing is told."""
        self._own, self._out = own[:MAX_NAME], out
        self._known: dict[NodeId, str] = {}

    def greet(self, peer: NodeId) -> None:
        """There is a link with ``peer``."""
        if self._own:
            self._out.send(peer, Label(self._own))

    def heard(self, peer: NodeId, message: Label) -> None:
        self._known.pop(peer, None)
        self._known[peer] = message.name
        if len(self._known) > MAX_LABELS:
            del self._known[next(iter(self._known))]

    def of(self, peer: NodeId) -> str:
        """What ``peer`` calls itself; empty when it never said."""
        return self._known.get(peer, "")
