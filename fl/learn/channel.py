"""Between daemon and worker process: control as MessagePack, tensors as memory that is lent for one answer.

    frame = descriptors (1 byte) ‖ length (4 bytes, big-endian) ‖ body

*Down.*  A request brings as many descriptors as its kind has (:func:`carries`), by SCM_RIGHTS: the bundle or the model,
an anonymous file (memfd) that can only be read or a file of the daemon's artifact store, and *slots*: memory that the
daemon made, as large as the answer may be and unable to grow, into which the worker writes its tensors.

*Up.*  No descriptor ever comes from a worker.  The worker runs foreign code, and each descriptor that it could attach
would be one that the daemon has to find and close.  The daemon therefore receives without room for any: the kernel
drops what is attached and says so (MSG_CTRUNC), and the worker is ended for it.  A worker is not even let to send one
(:mod:`fl.learn.syscalls`).  When the worker says how much it has written, the daemon copies the slot, compares the size
of the copy with that word, and looks at the copy alone (:func:`taken`).

*Back.*  A worker can keep copies of every descriptor that it was given, and the kernel charges what is behind them to
nobody.  So the daemon takes its memory back with the answer (:func:`reclaim`): it makes these files empty, and their
seals, put on before they were lent, keep everybody from making them larger again or from forbidding it.

The worker may write anything at all into the socket, so the daemon decodes its answers against their types and limits,
as it does with peers.  This module is without I/O but for the few calls on descriptors.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec

from fl.data.binding import Binding
from fl.spec import Field
from protocol.errors import AggregationError, CodecError, ConfigError, LimitError, MyceliaError, PeerError, UsageError

from .errors import AppError, SandboxError
from .inline import Job

MAX_BODY = 1 << 20
"""Bytes of one control frame; log lines and tracebacks are far below."""
MAX_DESCRIPTORS = 2
"""Most that a frame carries: a model and a slot."""
_PREFIX = struct.Struct(">BI")
_SLOT = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_GROW
_LENT = _SLOT | fcntl.F_SEAL_WRITE
_WITH = {"initial": 1, "train": 2, "evaluate": 1, "describe": 0}

Text = Annotated[str, msgspec.Meta(max_length=8192)]


class Request(msgspec.Struct, frozen=True, gc=False, tag=True):
    """From the daemon."""


class Open(Request, frozen=True, gc=False):
    """Become the worker of one application.  Brings the bundle; answered by ``Ready`` or ``Failed``."""

    node: str
    nice: int
    threads: int
    memory: int
    """Bytes of address space; 0 for no limit."""
    binding: Binding | None
    """None for a worker that only makes the initial model."""
    schema: dict[str, Field]
    private: tuple[str, ...] = ()
    """Paths that must not be readable from inside the sandbox: the node's keys, data of others."""


class Run(Request, frozen=True, gc=False):
    """Call user code.  ``train`` and ``evaluate`` bring the model, ``initial`` and ``train`` a slot; answered by
    ``Done`` or ``Failed``."""

    what: Literal["initial", "train", "evaluate", "describe"]
    job: Job


class Declare(Request, frozen=True, gc=False):
    """What does the application say of itself, after ``key=value`` settings?  Answered by ``Declared``."""

    settings: Annotated[tuple[Text, ...], msgspec.Meta(max_length=128)] = ()


class Reply(msgspec.Struct, frozen=True, gc=False, tag=True):
    """From the worker."""


class Hello(Reply, frozen=True, gc=False):
    """First word of a new process.  ``directory`` is where its temporary files will be."""

    pid: int
    directory: Annotated[str, msgspec.Meta(max_length=4096)]


class Ready(Reply, frozen=True, gc=False):
    """The code is loaded, the sandbox is shut, the data is there."""

    landlock: int
    """Version of Landlock that keeps the file system out of reach; 0 for none."""
    samples: int


class Declared(Reply, frozen=True, gc=False):
    """An encoded ``AppSpec`` (``fl.sdk.outline``)."""

    spec: Annotated[bytes, msgspec.Meta(max_length=256 * 1024)]


class Log(Reply, frozen=True, gc=False):
    """A line that user code wrote."""

    text: Text


class Done(Reply, frozen=True, gc=False):
    """After ``initial`` and ``train`` the slot holds ``size`` bytes of tensors."""

    weight: float = 0.0
    metrics: Annotated[dict[Annotated[str, msgspec.Meta(max_length=64)], float], msgspec.Meta(max_length=64)] = {}
    size: Annotated[int, msgspec.Meta(ge=0)] = 0


class Failed(Reply, frozen=True, gc=False):
    """``kind`` is the name of the error's class."""

    kind: Annotated[str, msgspec.Meta(max_length=64)]
    message: Text
    remedy: Text = ""
    trace: Text = ""

    def error(self) -> MyceliaError:
        """The error to raise on this side."""
        cls = _ERRORS.get(self.kind, AppError)
        return AppError(self.message, self.remedy, self.trace) if cls is AppError else cls(self.message, self.remedy)


def failed(error: MyceliaError) -> Failed:
    """The answer that carries ``error``, as the nearest of its classes that we tell apart."""
    kind = next((cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _ERRORS), UsageError.__name__)
    trace = error.trace if isinstance(error, AppError) else ""
    return Failed(kind, str(error)[:_CUT], error.remedy[:_CUT], trace[-_CUT:])


_CUT = 2000  # characters, of up to four bytes each
_ERRORS: dict[str, type[MyceliaError]] = {
    cls.__name__: cls for cls in (AppError, UsageError, ConfigError, SandboxError, AggregationError)
}


_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Open | Run | Declare)
_replies = msgspec.msgpack.Decoder(Hello | Ready | Declared | Log | Done | Failed)


def carries(message: Request | Reply) -> int:
    """Descriptors that come with ``message``: as many as its kind has, never any other number."""
    if isinstance(message, Run):
        return _WITH[message.what]
    return int(isinstance(message, Open))


def frame(message: Request | Reply) -> bytes:
    """The bytes of one frame."""
    body = _encoder.encode(message)
    assert len(body) <= MAX_BODY, f"{type(message).__name__} of {len(body)} bytes"
    return _PREFIX.pack(carries(message), len(body)) + body


class Frames:
    """Cuts a stream of bytes and descriptors into messages.  Owns the descriptors until they are handed out.

    Descriptors belong to the frame that began in the bytes with which they came: the kernel never hands out more bytes
    together with descriptors than the send that carried them, and whatever was sent before it.
    """

    def __init__(self, *, replies: bool) -> None:
        self._decoder: msgspec.msgpack.Decoder[Any] = _replies if replies else _requests
        self._carry = 0 if replies else MAX_DESCRIPTORS
        self._buffer = bytearray()
        self._fetched = 0
        """Bytes of the stream that ``next`` has consumed."""
        self._descriptors: list[int] = []
        self._end = 0
        """Where in the stream the bytes end with which the descriptors came."""

    def feed(self, data: bytes, descriptors: Sequence[int] = (), *, truncated: bool = False) -> None:
        """Take what one ``recvmsg`` brought.

        Raises LimitError, with all descriptors closed, when there are more than a frame carries, or came before those
        of the last frame were fetched, or ``truncated`` (MSG_CTRUNC) says that some were dropped.
        """
        self._buffer += data
        waiting = bool(self._descriptors)
        self._descriptors += descriptors
        if truncated or len(self._descriptors) > self._carry or (waiting and descriptors):
            self.close()
            raise LimitError("more descriptors than a frame carries")
        if descriptors:
            self._end = self._fetched + len(self._buffer)

    def next(self) -> tuple[Any, list[int]] | None:
        """The next message and its descriptors, which are then the caller's; None when more bytes are needed.

        Raises CodecError, LimitError, with all descriptors closed.
        """
        try:
            return self._next()
        except PeerError:
            self.close()
            raise

    def _next(self) -> tuple[Any, list[int]] | None:
        if len(self._buffer) < _PREFIX.size:
            return None
        count, length = _PREFIX.unpack_from(self._buffer)
        if count > self._carry or length > MAX_BODY:
            raise LimitError(f"frame of {length} bytes with {count} descriptors")
        if len(self._buffer) < _PREFIX.size + length:
            return None
        body = bytes(self._buffer[_PREFIX.size : _PREFIX.size + length])
        del self._buffer[: _PREFIX.size + length]
        self._fetched += _PREFIX.size + length
        try:
            message = self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CodecError(f"not a message: {error}") from None
        if count != carries(message):
            raise CodecError(f"{type(message).__name__} with {count} descriptors")
        if not count:
            if self._descriptors and self._fetched >= self._end:
                raise CodecError(f"descriptors on a frame that carries none, {type(message).__name__}")
            return message, []
        if len(self._descriptors) != count:
            raise CodecError(f"{count} descriptors announced, {len(self._descriptors)} came")
        descriptors, self._descriptors = self._descriptors, []
        return message, descriptors

    def close(self) -> None:
        """Close what was not handed out."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def lent(content: bytes | memoryview) -> int:
    """A descriptor of anonymous memory that holds ``content``, to be read.  The caller closes it."""
    return _memory(_LENT, lambda descriptor: _write(descriptor, content))


def slot(limit: int) -> int:
    """A descriptor of anonymous memory for an answer of at most ``limit`` bytes; pages are made as they are written.
    The caller closes it."""
    return _memory(_SLOT, lambda descriptor: os.ftruncate(descriptor, limit))


def _memory(seals: int, make: Callable[[int], None]) -> int:
    descriptor = os.memfd_create("mycelia", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        make(descriptor)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def fill(descriptor: int, content: bytes) -> int:
    """Write an answer into a slot, and return its size.  Raises LimitError when it does not fit."""
    limit, size = os.fstat(descriptor).st_size, len(content)
    if size > limit:
        raise LimitError(f"tensors of {size} bytes, the limit is {limit}")
    os.ftruncate(descriptor, size)
    # Written and not mapped: fresh pages cost half as much.
    _write(descriptor, content)
    return size


def taken(descriptor: int, size: int) -> bytes:
    """A copy of the answer in a slot.  Raises CodecError when it does not hold ``size`` bytes.

    The worker may write on meanwhile; it is the copy that is looked at, and that nobody changes.
    """
    if (found := os.fstat(descriptor).st_size) == size:
        # Opened anew, because the worker shares the position in this one.
        with open(f"/proc/self/fd/{descriptor}", "rb", buffering=0) as file:  # noqa: PTH123 - no path
            content = file.readall()
        if (found := len(content)) == size:
            return content
    raise CodecError(f"tensors of {size} bytes announced, {found} came")


def reclaim(descriptor: int) -> None:
    """Take back what was lent: the file of :func:`lent` or :func:`slot` is empty from now on, in all copies."""
    os.ftruncate(descriptor, 0)


def _write(descriptor: int, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def mapped(descriptor: int) -> Iterator[memoryview]:
    """The content behind ``descriptor``, read-only and without a copy.  Closes the descriptor."""
    try:
        size = os.fstat(descriptor).st_size
        content = mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else None
    finally:
        os.close(descriptor)
    if content is None:
        yield memoryview(b"")
        return
    # Views of it may outlive the task, and the mapping then goes with the last of them.
    yield memoryview(content)
