"""A ring that does nothing but say who is there."""

from __future__ import annotations

from protocol.ids import NodeId
from protocol.messages import Contact, Message


class QuietRing:
    """Everybody in ``near`` who is not in ``dead`` is alive; nearest first."""

    ready = True

    def __init__(self, near: tuple[Contact, ...]) -> None:
        self.near = near
        self.dead: list[NodeId] = []
        self.watched: list[tuple[NodeId, str]] = []

    def closest(self, key: bytes, count: int) -> list[Contact]:
        return [contact for contact in self.near if contact.id not in self.dead][:count]

    def alive(self, peer: NodeId) -> bool:
        return peer not in self.dead

    def is_closest(self, key: bytes) -> bool:
        return True

    def contact(self, peer: NodeId) -> Contact | None:
        return None

    def route(self, key: bytes, message: Message, now: int) -> None: ...
    def learn(self, contact: Contact) -> None: ...
    def show(self, peer: NodeId, app: bytes) -> None: ...

    def watch(self, peer: NodeId, purpose: str, now: int) -> None:
        if (peer, purpose) not in self.watched:
            self.watched.append((peer, purpose))

    def unwatch(self, peer: NodeId, purpose: str) -> None:
        if (peer, purpose) in self.watched:
            self.watched.remove((peer, purpose))
