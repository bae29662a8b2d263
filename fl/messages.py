"""What the roles say to one another: inside a wave, opaque to the tree; and beside it, when something goes wrong.

Kinds 80 to 111.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from protocol.messages import Id, Message, Natural, register
from protocol.signing import Seal
from protocol.wire import UNREADABLE

MAX_NAME = 64
MAX_SENTENCE = 400
MAX_TRACE = 1000
"""Characters of a traceback that travel, its end: what was raised stands in the last lines."""
MAX_COMPLAINTS = 8
"""Complaints that travel down a tree: of a thousand nodes that fail alike one is enough."""
MAX_DETAIL = 600


class Work(enum.IntEnum):
    """What a wave asks of its workers."""

    DESCRIBE = 1
    """Sum up the local data; also how the root counts who is there before the first round."""
    TRAIN = 2
    EVALUATE = 3
    """Measure the final model; nothing is trained."""


class Order(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The root's instruction to all workers of one wave."""

    work: Work
    beacon: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """Hash input by which workers select themselves when ``fraction`` is below 1."""


SKETCH = 256
"""Members that the sketch of a population names (:mod:`fl.stopping`)."""
Sketch = Annotated[bytes, msgspec.Meta(max_length=8 * SKETCH)]


class Track(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How a metric went, as one population measured it."""

    best: float | None = None
    best_round: Natural = 0
    """The round that made the best model."""
    stale_rounds: Natural = 0
    """Rounds since the best."""
    population: Sketch = b""
    rounds: Natural = 0
    """Rounds in a row that this population measured."""


class Report(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the coordinator must not forget from round to round; travels inside the head."""

    best: float | None = None
    best_round: int = 0
    stale_rounds: int = 0
    """Rounds since the best."""
    closing: bool = False
    """Training is over; only the final evaluation is left."""
    made: Natural = 0
    """In the last head: the round that made its model; 0 means the round before."""
    population: Sketch = b""
    """Who measured the best."""
    rival: Track | None = None
    """Another population, which has measured the last rounds."""


_encoder = msgspec.msgpack.Encoder()
_orders = msgspec.msgpack.Decoder(Order)
_reports = msgspec.msgpack.Decoder(Report)


def encode(item: Order | Report) -> bytes:
    return _encoder.encode(item)


def decode_order(data: bytes) -> Order | None:
    """None when it is not an order that we understand."""
    try:
        return _orders.decode(data)
    except UNREADABLE:
        return None


def decode_report(data: bytes) -> Report:
    """An empty report when there is none, or one that we do not understand: early stopping then starts afresh."""
    try:
        return _reports.decode(data) if data else Report()
    except UNREADABLE:
        return Report()


# ---- when something goes wrong --------------------------------------------------------------------------------------


class Ailment(enum.IntEnum):
    """What keeps a node from contributing."""

    FAILED = 1
    """Its work failed: user code raised, or what it made cannot be used."""
    REFUSED = 2
    """It has data of that name and does not work: the data do not fit, a package lacks, the owner is not trusted."""
    STEP = 3
    """The root's own: what came in cannot be made into the next model."""
    CROWDED = 4
    """It works, and more came from below it than what it hands on can name: some were left out."""


class Complaint(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is wrong on one node, in its own words."""

    node: Id
    kind: Ailment
    round: Natural
    name: Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
    """The node's label, for people."""
    sentence: Annotated[str, msgspec.Meta(max_length=MAX_SENTENCE)]
    trace: Annotated[str, msgspec.Meta(max_length=MAX_TRACE)] = ""
    """The traceback of the user's code, where it was that which raised."""


@register(80, 8 * 1024)
class Trouble(Message):
    """Up the tree, or routed towards the application by a node outside of it: I cannot contribute, and why.

    Passed on by each member to its parent, up to the root, which has no answer to it.
    """

    app: Id
    complaint: Complaint
    seal: Seal
    """Of the node that complains: a relay cannot put words into the mouth of another."""


@register(81, 64 * 1024)
class Condition(Message):
    """Down the tree, from the root, when it changes and to whoever attaches: how the application stands."""

    app: Id
    epoch: Natural
    serial: Natural
    """Counts the conditions of one epoch: the highest holds."""
    status: Annotated[str, msgspec.Meta(max_length=16)]
    detail: Annotated[str, msgspec.Meta(max_length=MAX_DETAIL)]
    complaints: Annotated[tuple[Complaint, ...], msgspec.Meta(max_length=MAX_COMPLAINTS)]
    seal: Seal
    """Of the root of that epoch, whom the committed head names."""


@register(82, 512)
class Label(Message):
    """To a peer with which there is a link now: what people call the sender.  It decides nothing."""

    name: Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
