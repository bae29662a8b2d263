"""What a message is, and the types that every package shares.

A message is a frozen :class:`msgspec.Struct` encoded as a MessagePack array: a field added at the end with a
default is invisible to older peers and defaulted by newer ones.  ``KIND`` numbers the type on the wire, ``LIMIT``
bounds its body *before* anything is decoded, and container fields carry their own bounds in their annotations.

Kinds: 1–15 protocol, 16–47 ``dht``, 48–79 ``pubsub``, 80–111 ``fl``, 112–127 drivers.  Never reuse a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, TypeVar, dataclass_transform

import msgspec

from .ids import NodeId

INLINE_LIMIT = 64 * 1024
"""Bytes up to which a value rides in the message itself (DESIGN section 4)."""

Id = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
"""A number that is counted up: whatever a liar sends, one more still fits what MessagePack can carry."""

Address = Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[!-~]+\Z")]
"""Printable ASCII without blanks: 128 bytes at most, and nothing that could forge a line of a log."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Base of all that travels."""

    KIND: ClassVar[int] = 0
    LIMIT: ClassVar[int] = 4096


M = TypeVar("M", bound=type[Message])
KINDS: dict[int, type[Message]] = {}


def register(kind: int, limit: int = 4096) -> Callable[[M], M]:
    """Give a message type its number and the largest body, in bytes, that a decoder will look at."""

    def decorate(cls: M) -> M:
        assert kind not in KINDS, f"kind {kind} is taken by {KINDS[kind].__name__}"
        cls.KIND, cls.LIMIT = kind, limit
        KINDS[kind] = cls
        return cls

    return decorate


class Contact(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How to reach a node.  No address means that it only dials out: a *leaf member* (DESIGN section 5)."""

    id: Id
    addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=8)] = ()
    incarnation: Natural = 0
    """Grows with each start of the daemon, so that the newest addresses win and ghosts are known as such."""

    @property
    def dialable(self) -> bool:
        return bool(self.addresses)


Contacts = Annotated[tuple[Contact, ...], msgspec.Meta(max_length=64)]


class Value(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Bytes that ride along when small, or the name of an artifact that the sender holds.

    Exactly one of ``inline`` and ``blob`` is set, except for the empty value (size 0, neither).
    """

    size: Natural = 0
    inline: Annotated[bytes, msgspec.Meta(max_length=INLINE_LIMIT)] = b""
    blob: Annotated[bytes, msgspec.Meta(max_length=32)] = b""

    @property
    def well_formed(self) -> bool:
        if self.blob:
            return len(self.blob) == 32 and not self.inline and self.size > 0
        return self.size == len(self.inline)


EMPTY = Value()


class Routed(msgspec.Struct, frozen=True, gc=False):
    """A message on its way to whoever is closest to ``key``.  Not a message itself: the envelope carries it."""

    key: NodeId
    origin: Contact
    hops: int
    message: Message
