"""What a node tells the program above (``Emit``), and what that program may command (``Command``)."""

from __future__ import annotations

from typing import dataclass_transform

import msgspec

from dht.messages import Record
from protocol.ids import AppId, NodeId
from protocol.messages import Contact
from pubsub.heads import Head
from pubsub.messages import WaveId

from .messages import Complaint


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Notice(msgspec.Struct, frozen=True, gc=False):
    pass


class RingReady(Notice):
    """This node is a full member of the ring (or, outbound-only, has its active parent)."""


class PeerDead(Notice):
    """A peer was declared dead; ``why`` says how it was found out, ``silence`` for how many ns nothing was heard."""

    peer: NodeId
    why: str
    silence: int


class RoleChanged(Notice):
    """Where this node stands in the tree of ``app``: ``root``, ``aggregator``, ``worker``, ``observer`` or ``none``."""

    app: AppId
    role: str
    parent: NodeId | None
    depth: int
    children: tuple[NodeId, ...]


class StatusChanged(Notice):
    """``waiting``, ``running``, ``failing``, ``stalled``, ``finished``, ``stopped`` or ``refused``, with the reason.

    Members say what the root told them."""

    app: AppId
    status: str
    detail: str = ""


class Deposited(Notice):
    """Answer to ``Confirm``, after each word of a voter: ``held`` hold the descriptor, the code and the first model of
    ``app`` durably; ``coming`` are fetching them."""

    app: AppId
    held: tuple[NodeId, ...]
    coming: tuple[NodeId, ...]


class WaveStarted(Notice):
    app: AppId
    wave: WaveId


class RoundCommitted(Notice):
    """A committed head, as this node learned of it: once per round, the finished head in any case.

    ``metrics`` are sums with their weights beside them; rounds that were committed while this node was away are
    missing.
    """

    app: AppId
    head: Head
    contributors: tuple[NodeId, ...]
    metrics: dict[str, float]


class Concluded(Notice):
    """Others say that ``app`` has finished; ``head`` is its last one in outline.  The head itself may be missing."""

    app: AppId
    head: Head


class DataDescribed(Notice):
    """What the workers' data look like, at the root, before the first round: metric sums over ``workers`` nodes."""

    app: AppId
    sums: dict[str, float]
    workers: int


class WorkFailed(Notice):
    """The local training (or evaluation) failed; ``error`` is one sentence, ``trace`` the traceback of user code."""

    app: AppId
    error: str
    trace: str = ""


class Declined(Notice):
    """This node has data of the name and does not work for ``app``, and why; with an empty ``why``, it does."""

    app: AppId
    why: str


class Troubled(Notice):
    """Who cannot contribute, as the root told everybody: all whom it names now, other nodes as a rule."""

    app: AppId
    complaints: tuple[Complaint, ...]


class TookOver(Notice):
    """This node became root of ``app`` in ``epoch``."""

    app: AppId
    epoch: int


class SteppedDown(Notice):
    """This node was root and learned that it is no longer."""

    app: AppId
    epoch: int


class ReplicasFound(Notice):
    """Answer to ``FindVoters``."""

    token: int
    contacts: tuple[Contact, ...]


class RecordChanged(Notice):
    record: Record


class ClockChanged(Notice):
    """This machine's clock is ``error`` seconds ahead of its neighbours' (behind, when negative); 0: it is right.

    The node goes by theirs.
    """

    error: int


# ---- commands -------------------------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True, gc=False):
    """Enter the ring through any of ``seeds``; with none, be the first."""

    seeds: tuple[Contact, ...] = ()


class Leave(msgspec.Struct, frozen=True, gc=False):
    """Say goodbye to everyone who counts on this node."""


class SetClock(msgspec.Struct, frozen=True, gc=False):
    """The machine's wall clock was set."""

    offset: int
    """ns to add to the driver's ``now`` for Unix time."""


class FindVoters(msgspec.Struct, frozen=True, gc=False):
    """Ask for the ``count`` daemons closest to ``app``; ``ReplicasFound(token, …)`` answers."""

    token: int
    app: AppId
    count: int


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Put a signed record into the fabric."""

    record: Record


class Confirm(msgspec.Struct, frozen=True, gc=False):
    """Ask the voters of ``app`` whether they hold what its descriptor names; ``Deposited`` answers."""

    app: AppId


class Follow(msgspec.Struct, frozen=True, gc=False):
    """Be a member of the tree even without data, to see its commits and hold its models."""

    app: AppId


class Recover(msgspec.Struct, frozen=True, gc=False):
    """Ask ``voters`` for the last head of an application that is over; it comes as ``RoundCommitted``."""

    app: AppId
    voters: tuple[Contact, ...]


class Bind(msgspec.Struct, frozen=True, gc=False):
    """The operator offers data under these names; ``workers`` false means this node routes and aggregates only."""

    names: frozenset[str]
    workers: bool = True


class Refuse(msgspec.Struct, frozen=True, gc=False):
    """This node cannot work for ``app``, as the program above found out: its data or its packages do not fit.

    It goes on routing and aggregating for it.
    """

    app: AppId
    why: str


class Trust(msgspec.Struct, frozen=True, gc=False):
    """Owners (public keys) whose applications may run code here, and bundles approved by hash."""

    owners: frozenset[bytes]
    approved: frozenset[bytes] = frozenset()
