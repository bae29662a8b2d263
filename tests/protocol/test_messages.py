"""The wire format of every registered message: golden vectors, limits, and what may grow."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect as types

from protocol import wire
from protocol.errors import CodecError, LimitError
from protocol.messages import INLINE_LIMIT, KINDS, Contact, Message, Value, register
from tests.protocol.describe import plain
from tests.protocol.instances import containers, example, largest, registered, strategy
from tests.protocol.make_vectors import ROUTED, TRACE, VECTORS, routed_example, stem, vectors

ALL = registered()
every_type = pytest.mark.parametrize("cls", ALL, ids=stem)

PACKED_BY_SIZE = {
    "RecordPush": "its sender fills it record by record and stops at the limit",
    "Stale": "its head is an outline",
    "Reign": "its head is an outline",
    "TreeJoin": "its head is an outline, without the values that make a head large",
    "WaveOpen": "its head is lean: the model, and neither the server's state nor the contributors",
}


ECHOED = ("nonce", "token", "remaining")
"""Integers that are sent back as they came, or only ever added to a clock."""


# ---- golden vectors --------------------------------------------------------------------------------------------------


def test_every_kind_has_a_vector_and_no_vector_is_orphaned() -> None:
    present = {path.name for path in VECTORS.iterdir()}
    wanted = {f"{name}.{suffix}" for name in [*map(stem, ALL), ROUTED] for suffix in ("bin", "json")}
    assert present == wanted, "run: python -m tests.protocol.make_vectors"


@pytest.mark.parametrize("name", [*map(stem, ALL), ROUTED])
def test_vector_is_unchanged(name: str) -> None:
    frame, description = vectors()[name]
    assert (VECTORS / f"{name}.bin").read_bytes() == frame
    assert (VECTORS / f"{name}.json").read_text() == description


@pytest.mark.parametrize("name", [*map(stem, ALL), ROUTED])
def test_vector_is_what_msgpack_makes_of_its_description(name: str) -> None:
    frame = (VECTORS / f"{name}.bin").read_bytes()
    description = json.loads((VECTORS / f"{name}.json").read_text())
    assert msgpack.packb(plain(description)) == frame
    assert msgpack.unpackb(frame) == plain(description)


@every_type
def test_vector_decodes_to_its_instance(cls: type[Message]) -> None:
    assert wire.decode((VECTORS / f"{stem(cls)}.bin").read_bytes()) == (example(cls), TRACE)


def test_routed_vector_decodes_to_its_instance() -> None:
    assert wire.decode((VECTORS / f"{ROUTED}.bin").read_bytes()) == (routed_example(), TRACE)


# ---- what may grow ---------------------------------------------------------------------------------------------------


def frame_of(cls: type[Message], body: Any) -> bytes:
    packed: bytes = msgpack.packb([wire.VERSION, cls.KIND, TRACE, body])
    return packed


def body_of(message: Message) -> list[Any]:
    body: list[Any] = msgpack.unpackb(wire.encode(message))[3]
    return body


@every_type
def test_unknown_trailing_fields_are_ignored(cls: type[Message]) -> None:
    body = body_of(example(cls))
    assert wire.decode(frame_of(cls, [*body, "new", [1]]))[0] == example(cls)


@every_type
def test_missing_trailing_fields_take_their_defaults(cls: type[Message]) -> None:
    fields = msgspec.structs.fields(cls)
    required = sum(field.required for field in fields)
    body = body_of(example(cls))
    assert all(field.required for field in fields[:required]), "a field with a default stands before one without"
    for length in range(required, len(fields)):
        decoded = wire.decode(frame_of(cls, body[:length]))[0]
        assert body_of(msgspec.convert(decoded, cls))[:length] == body[:length]
    for length in range(required):
        with pytest.raises(CodecError):
            wire.decode(frame_of(cls, body[:length]))


# ---- bounds ----------------------------------------------------------------------------------------------------------


@every_type
def test_the_largest_legal_instance_fits_the_limit(cls: type[Message]) -> None:
    """Otherwise a liar who fills a field to its bound makes an honest node choke when it passes the value on."""
    if cls.__name__ not in PACKED_BY_SIZE:
        assert largest(types.type_info(cls)) <= cls.LIMIT


@every_type
def test_a_limit_leaves_room_for_the_envelope(cls: type[Message]) -> None:
    assert cls.LIMIT + largest(types.type_info(Contact)) + 64 <= wire.MAX_FRAME


@every_type
def test_a_container_one_too_long_is_refused(cls: type[Message]) -> None:
    body = body_of(example(cls))
    for longer, what in containers(types.type_info(cls), lambda x: x, body):
        try:
            wire.decode(frame_of(cls, longer))
        except (CodecError, LimitError):
            continue
        pytest.fail(f"{cls.__name__} with {what} was accepted")


@every_type
def test_whatever_is_counted_up_has_a_bound(cls: type[Message]) -> None:
    """Otherwise one more than what a liar sent could not be encoded."""
    for field in types.type_info(cls).fields:  # type: ignore[attr-defined]
        if isinstance(field.type, types.IntType) and field.name not in ECHOED:
            assert (field.type.ge, field.type.le) == (0, 1 << 62), field.name


@given(st.data())
@every_type
def test_any_instance_survives_the_round_trip(cls: type[Message], data: st.DataObject) -> None:
    message = data.draw(strategy(types.type_info(cls)))
    frame = wire.encode(message, TRACE)
    assert wire.decode(frame) == (message, TRACE)
    assert wire.size(message) == len(wire.encode(message))
    assert msgpack.packb(msgpack.unpackb(frame, strict_map_key=False)) == frame


# ---- the registry and the shared types -------------------------------------------------------------------------------


@every_type
def test_a_kind_lies_in_the_range_of_its_package(cls: type[Message]) -> None:
    ranges = {"protocol": (1, 15), "dht": (16, 47), "pubsub": (48, 79), "fl": (80, 111), "node": (112, 127)}
    low, high = ranges[cls.__module__.split(".")[0]]
    assert low <= cls.KIND <= high
    assert KINDS[cls.KIND] is cls


def test_a_kind_cannot_be_taken_twice() -> None:
    taken = next(iter(KINDS))
    with pytest.raises(AssertionError, match="is taken by"):
        register(taken)(Message)


def test_messages_are_frozen() -> None:
    for cls in ALL:
        for field in cls.__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(example(cls), field, None)


def test_a_node_without_addresses_is_not_dialable() -> None:
    assert not Contact(bytes(16)).dialable
    assert Contact(bytes(16), ("host:1",)).dialable


@pytest.mark.parametrize("address", ["", "a b", "host:1\n", "h\x1b[2J", "höst:1", "x" * 129])
def test_an_address_is_printable_ascii(address: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert([bytes(16), [address]], Contact)


@pytest.mark.parametrize(
    ("value", "good"),
    [
        (Value(), True),
        (Value(3, b"abc"), True),
        (Value(1 << 40, blob=bytes(32)), True),
        (Value(2, b"abc"), False),
        (Value(3, b"abc", bytes(32)), False),
        (Value(3, blob=bytes(31)), False),
        (Value(0, blob=bytes(32)), False),
        (Value(INLINE_LIMIT), False),
    ],
)
def test_a_value_is_inline_or_named(value: Value, good: bool) -> None:
    assert value.well_formed is good
