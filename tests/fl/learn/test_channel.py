"""Frames between daemon and worker, and memory that is lent and taken back."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

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
    channel.Run("describe", Job(1, 2, 3, {"lr": 0.5, "name": "a", "fast": True}, evaluate=True)),
    channel.Declare(("a=b",)),
]
OPEN = channel.Open("n", 5, 1, 0, Binding(kind="digits", alpha=0.3), {"x": Field("float32", (64,))})
TRAIN = channel.Run("train", Job(1))
REPLIES = [
    channel.Hello(3, "/run/scratch"),
    channel.Ready(landlock=7, samples=5),
    channel.Log("line"),
    channel.Done(2.0, {"a": 1.0}),
    channel.Failed("AppError", "a", "b", "c"),
]


def test_messages_survive_in_whatever_pieces_they_come() -> None:
    for replies, messages in ((False, MESSAGES), (True, REPLIES)):
        frames = channel.Frames(replies=replies)
        found = []
        for byte in b"".join(channel.frame(message) for message in messages):
            frames.feed(bytes([byte]))
            while (received := frames.next()) is not None:
                found.append(received[0])
        assert found == messages


def anonymous(count: int) -> list[int]:
    return [os.memfd_create("a") for _ in range(count)]


def all_closed(descriptors: list[int]) -> bool:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            return False
    return True


def test_descriptors_come_with_their_frames() -> None:
    frames = channel.Frames(replies=False)
    one, two = anonymous(1), anonymous(2)
    first = channel.frame(MESSAGES[0]) + channel.frame(OPEN)
    frames.feed(first[:-1], one)
    assert frames.next() == (MESSAGES[0], [])
    assert frames.next() is None
    frames.feed(first[-1:] + channel.frame(MESSAGES[1]))
    assert frames.next() == (OPEN, one)
    frames.feed(channel.frame(TRAIN), two)
    assert [frames.next(), frames.next(), frames.next()] == [(MESSAGES[1], []), (TRAIN, two), None]
    for descriptor in one + two:
        os.close(descriptor)


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_no_descriptor_comes_from_a_worker_on_any_frame(reply: channel.Reply) -> None:
    frames, came = channel.Frames(replies=True), anonymous(1)
    with pytest.raises(LimitError, match="more descriptors"):
        frames.feed(channel.frame(reply), came)
    assert all_closed(came)
    frames = channel.Frames(replies=True)
    frames.feed(b"\x01" + channel.frame(reply)[1:])
    with pytest.raises(LimitError, match="with 1 descriptors"):
        frames.next()


def test_descriptors_that_the_kernel_dropped_are_noticed() -> None:
    for replies in (False, True):
        came = [] if replies else anonymous(1)
        with pytest.raises(LimitError, match="more descriptors"):
            channel.Frames(replies=replies).feed(b"", came, truncated=True)
        assert all_closed(came)


def test_descriptors_on_the_wrong_frame_are_closed_at_once() -> None:
    too_many, came, more, missing = anonymous(3), anonymous(1), anonymous(1), anonymous(1)
    with pytest.raises(LimitError, match="more descriptors"):
        channel.Frames(replies=False).feed(b"", too_many)
    frames = channel.Frames(replies=False)
    frames.feed(channel.frame(MESSAGES[0]), came)
    with pytest.raises(CodecError, match="carries none, Run"):
        frames.next()
    frames = channel.Frames(replies=False)
    frames.feed(channel.frame(TRAIN), missing)
    with pytest.raises(CodecError, match="2 descriptors announced, 1 came"):
        frames.next()
    frames = channel.Frames(replies=False)
    frames.feed(b"\x01" + channel.frame(TRAIN)[1:], more)
    with pytest.raises(CodecError, match="Run with 1 descriptors"):
        frames.next()
    assert all_closed(too_many + came + more + missing)


def test_descriptors_do_not_pile_up_before_their_frame() -> None:
    frames = channel.Frames(replies=False)
    first, second = anonymous(1), anonymous(1)
    frames.feed(channel.frame(TRAIN)[:5], first)
    with pytest.raises(LimitError, match="more descriptors"):
        frames.feed(channel.frame(TRAIN)[5:], second)
    assert all_closed(first + second)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x01\x00\x00\x00\x00", "1 descriptors"),
        (b"\x00\xff\xff\xff\xff", "frame of 4294967295 bytes"),
        (b"\x00\x00\x00\x00\x01\xc1", "not a message"),
        (b"\x00\x00\x00\x00\x01\x80", "not a message"),
        (channel.frame(MESSAGES[0]), "not a message"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, message: str) -> None:
    frames = channel.Frames(replies=True)
    frames.feed(data)
    with pytest.raises((CodecError, LimitError), match=message):
        frames.next()


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    frames = channel.Frames(replies=True)
    frames.feed(data)
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
def test_lent_memory_is_read_without_a_copy_and_cannot_be_changed(content: bytes) -> None:
    descriptor = channel.lent(content)
    for change in (lambda: os.pwrite(descriptor, b"x", 0), lambda: os.ftruncate(descriptor, len(content) + 9)):
        with pytest.raises(PermissionError):
            change()
    with channel.mapped(descriptor) as view:
        assert view == content
        assert view.readonly
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


@pytest.mark.parametrize("content", [b"", b"abc", bytes(200_000)])
def test_an_answer_fills_its_slot_and_cannot_change_once_it_is_taken(content: bytes) -> None:
    with opened(channel.slot(300_000)) as slot:
        assert channel.fill(slot, content) == len(content)
        os.lseek(slot, 1, os.SEEK_SET)  # the worker shares the position
        answer = channel.taken(slot, len(content))
        if content:
            os.pwrite(slot, b"x", 0)
        assert answer == content


@pytest.mark.parametrize("kind", ["lent", "slot"])
def test_what_is_taken_back_is_empty_in_all_copies_and_stays_so(kind: str) -> None:
    size = 1 << 20
    made = channel.lent(bytes(size)) if kind == "lent" else channel.slot(size)
    with opened(made) as descriptor, opened(os.dup(descriptor)) as copy:
        kept = mmap.mmap(copy, size, prot=mmap.PROT_READ)
        if kind == "slot":
            os.pwrite(copy, bytes(size), 0)
        assert 512 * os.fstat(copy).st_blocks >= size
        # Whoever has a copy must be able neither to forbid it nor to undo it.
        for seals in (fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SEAL):
            with pytest.raises(PermissionError):
                fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
        channel.reclaim(descriptor)
        assert (os.fstat(copy).st_size, os.fstat(copy).st_blocks) == (0, 0)
        for undo in (
            lambda: os.ftruncate(copy, size), lambda: os.pwrite(copy, b"x", 0), lambda: os.posix_fallocate(copy, 0, 1),
        ):  # fmt: skip
            with pytest.raises(PermissionError):
                undo()
        kept.close()


def test_a_slot_does_not_grow() -> None:
    with opened(channel.slot(4)) as slot:
        with pytest.raises(LimitError, match="5 bytes, the limit is 4"):
            channel.fill(slot, b"12345")
        with pytest.raises(PermissionError):
            os.pwrite(slot, b"12345", 0)


def test_what_has_another_size_is_not_looked_at() -> None:
    for said in (0, 9, 11):
        with opened(channel.slot(10)) as slot, pytest.raises(CodecError, match=f"{said} bytes announced, 10 came"):
            channel.taken(slot, said)
