"""What the forest needs from the ring below and from the roles above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from protocol.ids import AppId, NodeId
from protocol.messages import EMPTY, Contact, Message, Value

from . import sizes
from .heads import Head
from .messages import Partial, WaveId, WaveOpen


class Genesis(msgspec.Struct, frozen=True, gc=False):
    """What the forest must know of an application's descriptor."""

    app: AppId
    voters: tuple[Contact, ...]
    fan_out: int
    quorum: float
    initial: Value
    home: Contact
    """Where ``initial`` can be fetched when it is not inline."""
    bundle: Value = EMPTY
    """The code, which every member holds and hands on, so that workers anywhere below get it from their parent."""

    def head(self) -> Head:
        """The head before any root: epoch 0, round 0."""
        return Head(self.app, 0, 0, self.home, self.voters, self.initial)

    @property
    def limit(self) -> int:
        """Bytes that a model, a sum of updates or a server's state of this application may have."""
        return sizes.limit(self.initial)

    def sources(self, me: NodeId, *first: NodeId, voters: Sequence[NodeId] = ()) -> tuple[NodeId, ...]:
        """From whom ``me`` fetches what the descriptor or a head names: ``first``, then home, then the voters of now,
        then those of the beginning."""
        every = (*first, self.home.id, *voters, *(voter.id for voter in self.voters))
        return tuple(dict.fromkeys(node for node in every if node != me)) or (self.home.id,)


class OpenWave(msgspec.Struct, frozen=True, gc=False):
    """A wave as a member sees it."""

    opening: WaveOpen
    """What was sent, and is handed on."""
    source: NodeId
    """Who sent it, and from whom the model can be fetched."""
    may_contribute: bool
    """False for a node that cannot know whether an earlier life of it already handed in its part."""

    @property
    def id(self) -> WaveId:
        return self.opening.wave

    @property
    def order(self) -> bytes:
        return self.opening.order

    @property
    def closed(self) -> tuple[NodeId, ...]:
        return self.opening.closed

    @property
    def model(self) -> Value:
        """What this wave works on."""
        return self.opening.model


class HandedIn(NamedTuple):
    """A partial, and who answers for it."""

    sender: NodeId
    """The child that sent it; this node for its own contribution."""
    partial: Partial


class Gathering(NamedTuple):
    """What the first waves of a reign wait for.  Times in ns."""

    least: int
    """Contributors that are likely to come: with so many nothing is waited for."""
    calm: int
    """When all have answered, and nobody else came for so long, there is nobody else."""
    limit: int
    """How long, at most, nobody but newcomers is waited for."""


class Overlay(Protocol):
    """The ring, as far as the forest uses it."""

    @property
    def ready(self) -> bool: ...
    def route(self, key: bytes, message: Message, now: int) -> None: ...
    def is_closest(self, key: bytes) -> bool: ...
    def closest(self, key: bytes, count: int) -> list[Contact]: ...
    def contact(self, peer: NodeId) -> Contact | None: ...
    def learn(self, contact: Contact) -> None: ...
    def alive(self, peer: NodeId) -> bool: ...
    def show(self, peer: NodeId, app: AppId) -> None:
        """Send ``peer`` what records say of ``app``; the signatures in them prove it."""
        ...

    def watch(self, peer: NodeId, purpose: str, now: int) -> None: ...
    def unwatch(self, peer: NodeId, purpose: str) -> None: ...


class Roles(Protocol):
    """The federated roles (``fl``), called by the forest."""

    def wave_opened(self, app: AppId, wave: OpenWave, now: int) -> None:
        """Work, then call ``Forest.contribute`` with a partial or None."""
        ...

    def combine(self, app: AppId, wave: WaveId, parts: Sequence[HandedIn], now: int) -> None:
        """Merge ``parts`` (child-id order), then call ``Forest.hand_in``."""
        ...

    def wave_closed(self, app: AppId, wave: WaveId, parts: Sequence[HandedIn], absent: int, now: int) -> None:
        """At the root: all that the wave brought."""
        ...

    def crowded(self, app: AppId, wave: WaveId, members: int, now: int) -> None:
        """So many contributors below this node are left out of ``wave``: what it hands on cannot name more."""
        ...

    def committed(self, app: AppId, head: Head, now: int) -> None:
        """A head is known to be committed; told once per (epoch, round), in order."""
        ...

    def rooted(self, app: AppId, head: Head, now: int) -> None:
        """This node is root in ``head.epoch``; ``head`` is the last committed one: news, when a root has merely gone on
        to a newer epoch."""
        ...

    def unrooted(self, app: AppId, epoch: int, now: int) -> None:
        """A newer epoch exists: whatever this node still does as root is refused."""
        ...

    def tree_changed(self, app: AppId, now: int) -> None: ...

    def status(self, app: AppId, status: str, detail: str, now: int) -> None: ...

    def forgotten(self, app: AppId) -> None:
        """The application is over and nothing of it is left in the forest."""
        ...

    def deposited(self, app: AppId, held: tuple[NodeId, ...], coming: tuple[NodeId, ...], now: int) -> None:
        """A voter has answered the question of ``Forest.confirm``: ``held`` hold code and first model durably, to
        ``coming`` they are on their way."""
        ...

    def voters_changed(self, head: Head, now: int) -> None:
        """Make the new guardians known beyond the tree (a record)."""
        ...
