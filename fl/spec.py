"""The descriptor of an application: what its owner signs and every member checks.

Code never travels unsigned: the bundle's bytes or its digest stand inside the signed descriptor.  The id is a hash of
name, owner and salt, so a descriptor proves by itself that it belongs to the id under which it is published.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocol import ids
from protocol.messages import EMPTY, Contact, Contacts, Natural, Value
from pubsub.heads import MAX_VOTERS

MAX_BUNDLE = 1 << 20
"""Bytes of code.  It is small; data and weights have their own ways to travel."""

MAX_INITIAL = 1 << 36
"""Bytes of an initial model: 64 GiB.  All else that an application may name follows from it (``pubsub.sizes``), within
the quota of each node."""

Scalar = bool | int | float | str
Options = Annotated[dict[str, Scalar], msgspec.Meta(max_length=128)]


class Field(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One array of the data set: first axis is the sample, ``shape`` is that of one sample."""

    dtype: Annotated[str, msgspec.Meta(max_length=16)]
    shape: Annotated[tuple[int, ...], msgspec.Meta(max_length=8)] = ()
    classes: int = 0
    """Labels lie in ``[0, classes)``; 0 for a field that is not a class label."""


class Stop(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Stop early when ``metric`` has not improved by ``delta`` for ``patience`` rounds."""

    metric: Annotated[str, msgspec.Meta(max_length=64)]
    patience: int = 5
    delta: float = 0.0
    maximise: bool = True


class AppSpec(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Everything that members must agree on about one application."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    owner: Annotated[bytes, msgspec.Meta(max_length=64)]
    """Ed25519 public key."""
    salt: Annotated[bytes, msgspec.Meta(max_length=16)]
    zone: int
    voters: Contacts
    """The daemons that guard the head at first, fixed here so that there is one beginning only."""
    rounds: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    initial: Value
    """The model of round 0, made by the submitter."""
    home: Contact
    """The submitter's daemon, from which large values of this descriptor can be fetched."""
    data: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Name under which each node's operator binds local data."""
    schema: Annotated[dict[str, Field], msgspec.Meta(max_length=16)] = {}
    bundle: Value = EMPTY
    """The code: see ``fl.bundle``.  Empty in the simulator."""
    strategy: Annotated[str, msgspec.Meta(max_length=32)] = "fedavg"
    options: Options = {}
    """Handed to the user's functions as ``ctx.config`` and to the strategy."""
    seed: int = 0
    fan_out: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    fraction: float = 1.0
    """Share of workers that select themselves in a round, by hash of the round's beacon."""
    min_workers: int = 1
    """A round with fewer contributors is not committed; the root opens further waves."""
    quorum: float = 0.5
    """Share of expected answers from which a node without history starts its own grace period."""
    stop: Stop | None = None
    evaluate: bool = True
    """Workers measure the incoming model on their own held-out data before they train."""
    parent_model: str = ""
    """NAME@VERSION that this run continues from, for the lineage."""
    base: Natural = 0
    """Versions of the model that the owner's earlier runs of this name have made: round r makes version base + r."""
    layout: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """SHA-256 of the header of the initial model: names and shapes of all tensors.  Every update is compared with it,
    on nodes that hold no model too; without it only an initial model that rides along tells what an update must be."""

    @property
    def id(self) -> ids.AppId:
        return ids.app_id(self.zone, self.name, self.owner, self.salt)

    @property
    def sound(self) -> bool:
        """Can members act on it?  What the types cannot say; an owner's slip must not trip anybody's machine."""
        voters = {voter.id for voter in self.voters}
        return (
            0 <= self.zone < 1 << 8 * ids.ZONE_BYTES
            and 1 <= len(self.voters) == len(voters) <= MAX_VOTERS
            and self.initial.well_formed
            and self.bundle.well_formed
            and self.initial.size <= MAX_INITIAL
            and self.bundle.size <= MAX_BUNDLE
            and 0 <= self.quorum <= 1
            and 0 < self.fraction <= 1
        )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AppSpec)


def encode(spec: AppSpec) -> bytes:
    """Canonical bytes, the ones that are signed: fields in order, no maps with free order but ``options`` and
    ``schema``, whose insertion order is the owner's."""
    return _encoder.encode(spec)


def decode(body: bytes) -> AppSpec:
    """Raises msgspec.MsgspecError when ``body`` is not a descriptor."""
    return _decoder.decode(body)
