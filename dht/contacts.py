"""Addresses of peers beside those in the tables, and the memory of departed ones.

A contact is only a claim until its owner is heard from.  Among hearsay the newer incarnation wins; what a peer says
of itself over its authenticated link beats all hearsay, so that nobody can lock a node out by inventing a larger
incarnation for it.

*Ghosts* are peers that were declared dead.  They are remembered for a while because death and partition look alike
from here: now and then one of them is asked, and if it answers the two halves of the ring find each other
(FreePastry's ``PartitionHandler``).  While a peer is a ghost, hearsay does not bring it back.
"""

from __future__ import annotations

from collections.abc import Iterator

from protocol.ids import NodeId
from protocol.messages import Contact


class AddressBook:
    """The ``capacity`` contacts last learned or confirmed."""

    __slots__ = ("_capacity", "_entries")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: dict[NodeId, Contact] = {}

    def get(self, peer: NodeId) -> Contact | None:
        return self._entries.get(peer)

    def put(self, contact: Contact, *, direct: bool = False) -> None:
        """``direct``: said by the peer itself, which replaces anything."""
        held = self._entries.pop(contact.id, None)
        if held is not None and not direct and not supersedes(contact, held):
            contact = held
        self._entries[contact.id] = contact
        if len(self._entries) > self._capacity:
            del self._entries[next(iter(self._entries))]

    def forget(self, peer: NodeId) -> None:
        self._entries.pop(peer, None)

    def __iter__(self) -> Iterator[Contact]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)


def supersedes(new: Contact, old: Contact) -> bool:
    """Is hearsay ``new`` better than ``old``?  A later life wins; within one, an address beats none."""
    return (new.incarnation, bool(new.addresses)) > (old.incarnation, bool(old.addresses))


class Ghost:
    """A departed peer."""

    __slots__ = ("asked", "contact", "final", "since")

    def __init__(self, contact: Contact, since: int, final: bool) -> None:
        self.contact = contact
        self.since = since
        self.final = final
        """It left on purpose or was revoked: do not look for it."""
        self.asked = since
        """When it was last looked for, ns."""

    def moved(self, contact: Contact) -> None:
        """It may be found elsewhere by now."""
        self.contact = contact

    def departed(self, *, final: bool) -> None:
        """It is gone, once more; ``final``: on purpose."""
        self.final |= final

    def ask(self, at: int) -> None:
        """It is looked for now."""
        self.asked = at

    @property
    def sought(self) -> bool:
        """Worth asking whether it lives."""
        return not self.final and self.contact.dialable


class Ghosts:
    """The ``capacity`` peers that departed last, each for at most ``life`` ns."""

    __slots__ = ("_capacity", "_entries", "_life")

    def __init__(self, capacity: int, life: int) -> None:
        self._capacity = capacity
        self._life = life
        self._entries: dict[NodeId, Ghost] = {}

    def add(self, contact: Contact, now: int, *, final: bool = False) -> None:
        self._entries.pop(contact.id, None)
        self._entries[contact.id] = Ghost(contact, now, final)
        if len(self._entries) > self._capacity:
            # Those that nobody will look for make room first, so that a crowd of passers-by erases no partition.
            idle = (peer for peer, ghost in self._entries.items() if not ghost.sought and peer != contact.id)
            del self._entries[next(idle, next(iter(self._entries)))]

    def get(self, peer: NodeId) -> Ghost | None:
        return self._entries.get(peer)

    def pop(self, peer: NodeId) -> Ghost | None:
        return self._entries.pop(peer, None)

    def __contains__(self, peer: NodeId) -> bool:
        return peer in self._entries

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def sought(self) -> list[Ghost]:
        """Those worth asking, oldest first."""
        return [ghost for ghost in self._entries.values() if ghost.sought]

    def recent(self, since: int, limit: int) -> tuple[NodeId, ...]:
        """Ids of those that departed at ``since`` or later, at most the ``limit`` latest."""
        ids = [peer for peer, ghost in self._entries.items() if ghost.since >= since]
        return tuple(ids[-limit:])

    def expire(self, now: int) -> None:
        for peer in [peer for peer, ghost in self._entries.items() if now - ghost.since > self._life]:
            del self._entries[peer]
