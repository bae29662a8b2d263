"""Frames between daemon and worker, and memory that cannot change under a reader."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.data.binding import Binding
from fl.learn import channel
from fl.learn.errors import AppError, SandboxError
from fl.learn.inline import Job
from fl.spec import Field
from protocol.errors import (
    AggregationError,
    CodecError,
    ConfigError,
    LimitError,
    MyceliaError,
    UsageError,
)

MESSAGES = [
    channel.Open("n", 5, 1, 0, Binding(kind="digits", alpha=0.3), {"x": Field("float32", (64,))}),
    channel.Open("n", 5, 1, 0, None, {}),
    channel.Run("train", Job(1, 2, 3, {"lr": 0.5, "name": "a", "fast": True}, evaluate=True)),
]
REPLIES = [
    channel.Hello(3),
    channel.Ready(files_locked=True, samples=5),
    channel.Log("line"),
    channel.Done(2.0, {"a": 1.0}),
    channel.Failed("AppError", "a", "b", "c"),
]


def test_messages_survive_in_whatever_pieces_they_come() -> None:
    for replies, messages in ((False, MESSAGES), (True, REPLIES)):
        frames = channel.Frames(replies=replies)
        found = []
        for byte in b"".join(channel.frame(message) for message in messages):
            frames.feed(bytes([byte]), [])
            while (received := frames.next()) is not None:
                found.append(received[0])
        assert found == messages


def test_descriptors_come_with_their_frames_in_order() -> None:
    frames = channel.Frames(replies=True)
    first, second = os.memfd_create("a"), os.memfd_create("b")
    data = channel.frame(channel.Log("")) + channel.frame(channel.Done(), 1) + channel.frame(channel.Done(), 1)
    frames.feed(data, [first, second])
    assert [frames.next() for _ in range(4)] == [
        (channel.Log(""), None), (channel.Done(), first), (channel.Done(), second), None,
    ]  # fmt: skip
    os.close(first)
    os.close(second)


def test_descriptors_nobody_fetched_are_closed_and_bounded() -> None:
    frames = channel.Frames(replies=True)
    descriptors = [os.memfd_create("a") for _ in range(channel.MAX_PENDING + 1)]
    with pytest.raises(LimitError, match="descriptors without"):
        frames.feed(b"", descriptors)
    frames.close()
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x02\x00\x00\x00\x00", "2 descriptors"),
        (b"\x00\xff\xff\xff\xff", "frame of 4294967295 bytes"),
        (channel.frame(channel.Done(), 1), "without the descriptor"),
        (b"\x00\x00\x00\x00\x01\xc1", "not a message"),
        (b"\x00\x00\x00\x00\x01\x80", "not a message"),
        (channel.frame(MESSAGES[2]), "not a message"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, message: str) -> None:
    frames = channel.Frames(replies=True)
    frames.feed(data, [])
    with pytest.raises((CodecError, LimitError), match=message):
        frames.next()


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    frames = channel.Frames(replies=True)
    frames.feed(data, [])
    with contextlib.suppress(CodecError, LimitError):
        while frames.next() is not None:
            pass


@pytest.mark.parametrize(
    "error",
    [
        AppError("a", "b", "trace"), UsageError("a", "b"), ConfigError("a"), AggregationError("a"), SandboxError("a"),
    ],
)  # fmt: skip
def test_errors_keep_their_class(error: MyceliaError) -> None:
    again = channel.failed(error).error()
    assert type(again) is type(error)
    assert (str(again), again.remedy) == (str(error), error.remedy)
    assert getattr(again, "trace", "") == getattr(error, "trace", "")


def test_other_errors_become_their_nearest_class_and_long_ones_are_cut() -> None:
    class SpecialError(ConfigError):
        pass

    assert type(channel.failed(SpecialError("a")).error()) is ConfigError
    assert type(channel.failed(CodecError("a")).error()) is UsageError
    reply = channel.failed(AppError("€" * 10_000, trace="€" * 10_000))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(reply), type=channel.Failed) == reply


@contextmanager
def opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("content", [b"", b"abc", bytes(200_000)])
def test_sealed_memory_is_read_without_a_copy(content: bytes) -> None:
    descriptor = channel.sealed(content)
    channel.check_sealed(descriptor, len(content))
    with channel.mapped(descriptor) as view:
        assert view == content
        assert view.readonly
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


def test_what_could_change_or_is_too_large_is_not_read(tmp_path: Path) -> None:
    with opened(os.memfd_create("a", os.MFD_ALLOW_SEALING)) as loose, pytest.raises(CodecError, match="not sealed"):
        channel.check_sealed(loose, 10)
    plain = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
    with opened(plain), pytest.raises(CodecError, match="cannot be sealed"):
        channel.check_sealed(plain, 10)
    with opened(channel.sealed(b"12345")) as large, pytest.raises(LimitError, match="5 bytes, the limit is 4"):
        channel.check_sealed(large, 4)
