"""What rides inside a wave: opaque to the tree, read by the roles."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from protocol.wire import UNREADABLE


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


class Report(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the coordinator must not forget from round to round; travels inside the head."""

    best: float | None = None
    best_round: int = 0
    stale_rounds: int = 0
    """Rounds since the best."""
    closing: bool = False
    """Training is over; only the final evaluation is left."""


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
