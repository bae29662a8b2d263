"""Decoding what liars, newer peers and broken links send: only errors that can be counted ever leave the codec."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example as case
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect as types

from dht.messages import Ping, RecordDigests, RowShare
from protocol import wire
from protocol.errors import CodecError, LimitError, PeerError, UnknownKindError, UsageError, VersionError
from protocol.messages import Contact, Message, Routed
from pubsub.messages import TreeJoin
from tests.protocol.instances import example, messages, registered, strategy

PING = Ping(5, b"12345678")
FRAMES = [wire.encode(example(cls), 1) for cls in registered()]
contacts = strategy(types.type_info(Contact))
routed = st.builds(Routed, st.binary(min_size=16, max_size=16), contacts, st.integers(0, wire.MAX_HOPS), messages())


def envelope(*parts: Any) -> bytes:
    packed: bytes = msgpack.packb(list(parts))
    return packed


def refuses(frame: bytes) -> PeerError | None:
    """The error that ``frame`` meets, None when it decodes; anything but a PeerError escapes and fails the test."""
    try:
        message, _ = wire.decode(frame)
    except PeerError as error:
        return error
    inner = message.message if isinstance(message, Routed) else message
    assert type(inner) in registered()
    return None


# ---- the layout ------------------------------------------------------------------------------------------------------


def test_a_direct_frame_has_four_parts_and_a_routed_one_five() -> None:
    origin = Contact(bytes(16), ("host:1",), 2)
    body = [5, b"12345678"]
    assert msgpack.unpackb(wire.encode(PING, 9)) == [1, 16, 9, body]
    frame = wire.encode(Routed(b"k" * 16, origin, 3, PING), 9)
    assert msgpack.unpackb(frame) == [1, 16, 9, body, [b"k" * 16, [bytes(16), ["host:1"], 2], 3]]


@given(routed, st.integers(0, (1 << 64) - 1))
def test_a_routed_message_survives_the_round_trip(message: Routed, trace: int) -> None:
    assert wire.decode(wire.encode(message, trace)) == (message, trace)


def test_a_frame_may_be_a_view_of_a_larger_buffer() -> None:
    frame = wire.encode(PING)
    assert wire.decode(memoryview(b"xx" + frame + b"yy")[2:-2])[0] == PING


def test_unknown_trailing_parts_of_the_envelope_are_ignored() -> None:
    assert wire.decode(envelope(1, 16, 0, [5], None, {"future": [1, 2]}))[0] == Ping(5)


# ---- typed refusals --------------------------------------------------------------------------------------------------


def test_an_unknown_version_is_told_from_garbage() -> None:
    with pytest.raises(VersionError, match="version 2"):
        wire.decode(envelope(2, 16, 0, [5]))


def test_an_unknown_kind_is_told_from_garbage() -> None:
    with pytest.raises(UnknownKindError, match="127"):
        wire.decode(envelope(1, 127, 0, [5]))


@pytest.mark.parametrize("frame", [b"", b"\xc0", b"\x90", b"\x94\x01\x10", b"\xc1", b"GET / HTTP/1.1\r\n"])
def test_what_is_no_envelope_is_malformed(frame: bytes) -> None:
    with pytest.raises(CodecError):
        wire.decode(frame)


def test_bytes_after_the_frame_are_malformed() -> None:
    with pytest.raises(CodecError):
        wire.decode(wire.encode(PING) + b"\x00")


def test_a_string_that_is_not_utf8_is_malformed() -> None:
    contact = b"\x93\xc4\x10" + bytes(16) + b"\x91\xa2\xff\xfe\x00"
    with pytest.raises(CodecError):
        wire.decode(b"\x94\x01\x13\x00\x91\x91" + contact)


@pytest.mark.parametrize("hops", [-1, wire.MAX_HOPS + 1, 1 << 63])
def test_hops_are_bounded(hops: int) -> None:
    header = [bytes(16), [bytes(16), [], 0], hops]
    with pytest.raises(LimitError):
        wire.decode(envelope(1, 16, 0, [5], header))


@pytest.mark.parametrize("body", [[5.0], ["5"], [True], [None], [1 << 64 - 1, 7], {"nonce": 5}, 5])
def test_a_body_of_the_wrong_type_is_malformed(body: Any) -> None:
    with pytest.raises(CodecError, match="Ping"):
        wire.decode(envelope(1, 16, 0, body))


# ---- limits come before decoding -------------------------------------------------------------------------------------


def test_a_frame_over_the_limit_is_not_looked_at() -> None:
    with pytest.raises(LimitError, match="frame"):
        wire.decode(b"\xc1" * (wire.MAX_FRAME + 1))


def test_a_body_over_the_limit_of_its_type_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_bodies", {Ping.KIND: None})
    with pytest.raises(LimitError, match="Ping"):
        wire.decode(envelope(1, 16, 0, [5, b"", b"x" * Ping.LIMIT]))


def test_a_message_over_its_own_limit_is_our_bug() -> None:
    with pytest.raises(UsageError, match="exceeds its own limit"):
        wire.encode(Ping(5, b"x" * 100))


def shortened(part: Any) -> Any:
    """The same with an integer of one byte for each float of nine, as a liar may write it."""
    if isinstance(part, list):
        return [shortened(item) for item in part]
    if isinstance(part, dict):
        return {key: shortened(item) for key, item in part.items()}
    return 1 if isinstance(part, float) else part


@given(messages(), st.data())
def test_whatever_is_taken_can_be_passed_on_however_short_it_came(message: Message, data: st.DataObject) -> None:
    body = shortened(msgpack.unpackb(wire.encode(message), strict_map_key=False)[3])
    fields = msgspec.structs.fields(type(message))
    least = sum(field.required for field in fields)
    body = body[: data.draw(st.integers(least, len(body)))]
    frame = envelope(1, message.KIND, 0, body)
    sent, written = (len(msgpack.packb(one)) for one in (body, written_anew(frame)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(message), "LIMIT", data.draw(st.integers(sent, max(sent, written) + 1)))
        refusal = refuses(frame)
        assert (isinstance(refusal, LimitError), refusal is None) == (written > message.LIMIT, written <= message.LIMIT)
        if refusal is None:
            wire.encode(wire.decode(frame)[0])


def written_anew(frame: bytes) -> Any:
    return msgpack.unpackb(wire.encode(wire.decode(frame)[0]), strict_map_key=False)[3]


def test_a_join_that_would_outgrow_its_limit_on_the_way_is_refused_where_it_arrives() -> None:
    """Integers for the metrics of its head, and what follows them left out: each hop would write 550 bytes more."""

    def body(padding: int) -> list[Any]:
        metrics = {f"m{number:02}": 1 for number in range(64)}
        contact = [bytes(16)]
        model = [padding, bytes(padding), b""]
        head = [bytes(16), 1, 1, contact, [contact] * 9, model, [0, b"", b""], [], metrics, 1]
        return [bytes(16), [bytes(16), ["127.0.0.1:1"], 5], 7, None, head, False, None, b""]

    room = TreeJoin.LIMIT - len(msgpack.packb(body(1))) - 4
    assert room > 60_000
    for padding, taken in ((room - 1000, True), (room, False)):
        assert len(msgpack.packb(body(padding))) <= TreeJoin.LIMIT
        refusal = refuses(envelope(1, TreeJoin.KIND, 0, body(padding), [bytes(16), [bytes(16)], 0]))
        assert (refusal is None) is taken
        assert refusal is None or "as we write it" in str(refusal)


@pytest.mark.parametrize("opener", [b"\x91", b"\x81\x00", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff\x00"])
@pytest.mark.parametrize("prefix", [b"", b"\x94\x01\x13\x00", b"\x96\x01\x10\x00\x91\x05\xc0", b"\x94\x01\x13\x00\x91"])
def test_a_bomb_of_nested_or_endless_containers_is_malformed(opener: bytes, prefix: bytes) -> None:
    with pytest.raises(CodecError):
        wire.decode(prefix + opener * ((wire.MAX_FRAME - len(prefix)) // len(opener)))


@pytest.mark.parametrize("cls", [RowShare, RecordDigests])
def test_a_length_that_the_frame_cannot_hold_allocates_nothing(cls: type[Message]) -> None:
    with pytest.raises(CodecError):
        wire.decode(b"\x94\x01" + bytes([cls.KIND]) + b"\x00\x91\xdd\xff\xff\xff\xff")


# ---- fuzzing ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_random_bytes_raise_peer_errors_only(frame: bytes) -> None:
    refuses(frame)


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.binary() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary() | st.integers(0, 9), inner),
    max_leaves=12,
)


@given(st.sampled_from([cls.KIND for cls in registered()]), nested, nested)
@case(16, [5], [bytes(16), [bytes(16), [], 0], 1 << 64 - 1])
def test_well_packed_nonsense_raises_peer_errors_only(kind: int, body: Any, header: Any) -> None:
    refuses(envelope(1, kind, 0, body, header))


@given(st.sampled_from(FRAMES), st.data())
def test_a_mutated_frame_raises_peer_errors_only(frame: bytes, data: st.DataObject) -> None:
    mutated = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at] = data.draw(st.integers(0, 255))
    refuses(bytes(mutated))


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_cut_anywhere_is_malformed(frame: bytes) -> None:
    for end in range(len(frame)):
        assert isinstance(refuses(frame[:end]), CodecError)
