"""The control frames: what is encoded comes back, and no bytes do harm."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.messages import Record
from node import control_wire as wire
from node.control import NotRunningError
from node.service import DaemonService
from protocol import errors
from protocol.errors import CodecError, LimitError, MyceliaError, VersionError

from .fake_service import APP, EVENTS, STATUS, FakeService

RECORD = Record(1, b"a" * 16, 1, 2, b"k" * 32, b"body", b"s" * 64)


def body(frame: bytes) -> bytes:
    assert wire.body_length(frame[:4]) == len(frame) - 4
    return frame[4:]


def test_the_fake_is_a_service() -> None:
    service: DaemonService = FakeService()
    assert all(hasattr(service, name) for name in wire.METHODS)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("status", ()), ("submit", (RECORD,)), ("voters_for", (b"a" * 16, 5)), ("prepare", (b"code", ["lr=1"], ""))],
)
def test_requests_come_back(name: str, arguments: tuple[object, ...]) -> None:
    method, decoded = wire.decode_request(body(wire.encode_request(wire.METHODS[name], arguments)))
    assert method is wire.METHODS[name]
    assert decoded == arguments


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [("status", "result", STATUS), ("applications", "result", [APP]), ("follow", "item", EVENTS[0])],
)
def test_replies_come_back(name: str, kind: str, value: object) -> None:
    method = wire.METHODS[name]
    assert wire.decode_reply(method, body(wire.encode_reply(kind, value))) == (kind, value)  # type: ignore[arg-type]


def test_the_end_of_a_stream() -> None:
    assert wire.decode_reply(wire.METHODS["follow"], body(wire.encode_reply("end"))) == ("end", None)


ERRORS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, MyceliaError)]


@pytest.mark.parametrize("cls", ERRORS)
def test_an_error_is_raised_again_as_what_it_was(cls: type[MyceliaError]) -> None:
    with pytest.raises(MyceliaError) as caught:
        wire.decode_reply(wire.METHODS["status"], body(wire.encode_error(cls("what", "remedy"))))
    assert type(caught.value) is cls
    assert (str(caught.value), caught.value.remedy) == ("what", "remedy")


def test_an_error_from_outside_the_tree_becomes_its_nearest_base() -> None:
    with pytest.raises(errors.TransportError):
        wire.decode_reply(wire.METHODS["status"], body(wire.encode_error(NotRunningError("gone"))))


@pytest.mark.parametrize(
    ("request_", "error", "sentence"),
    [
        ([2, "status", []], VersionError, "the command speaks control version 2, the daemon 1"),
        ([1, "__class__", []], CodecError, "the daemon has no method '__class__'"),
        ([1, "status", [1]], CodecError, "status: "),
        ([1, "voters_for", [b"short", 5]], CodecError, "voters_for: "),
        ([1, "revoke", ["x" * 129]], CodecError, "revoke: "),
        ({"version": 1}, CodecError, "not a control request: "),
    ],
)
def test_a_request_that_does_not_fit_is_named(request_: object, error: type[MyceliaError], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        wire.decode_request(msgspec.msgpack.encode(request_))


def test_a_length_beyond_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(LimitError, match="4294967295 bytes was announced"):
        wire.body_length(b"\xff\xff\xff\xff")
    with pytest.raises(LimitError):
        wire.frame(bytes(wire.MAX_FRAME + 1))


NESTED = st.recursive(
    st.one_of(st.none(), st.integers(-(2**63), 2**63), st.text(max_size=8), st.binary(max_size=40), st.floats()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=10,
)
NAMES = st.one_of(st.sampled_from(sorted(wire.METHODS)), st.text(max_size=10))


@given(st.one_of(st.binary(max_size=200), st.tuples(st.just(1), NAMES, NESTED).map(msgspec.msgpack.encode)))
def test_any_bytes_are_a_request_or_an_error(data: bytes) -> None:
    with contextlib.suppress(MyceliaError):
        wire.decode_request(data)


@given(
    st.sampled_from(sorted(wire.METHODS)),
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.sampled_from(["result", "item", "end", "error"]), NESTED).map(msgspec.msgpack.encode),
    ),
)
def test_any_bytes_are_a_reply_or_an_error(name: str, data: bytes) -> None:
    with contextlib.suppress(MyceliaError):
        wire.decode_reply(wire.METHODS[name], data)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(CodecError):
        wire.decode_request(b"\x91" * 100_000)
