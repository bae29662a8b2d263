"""Between daemon and worker process: control as MessagePack, tensors as sealed memory.

    frame = descriptors (1 byte: 0 or 1) ‖ length (4 bytes, big-endian) ‖ body

A frame that carries a model or a bundle brings one descriptor along (SCM_RIGHTS): an anonymous file (memfd) that is
*sealed*, so that the receiver can map it: a file that could still shrink would kill whoever reads it, and one that
could still change would defeat every check.  The daemon may also pass a file of its artifact store.

The worker runs foreign code and may write anything at all into the socket, so the daemon decodes its answers against
their types and limits, as it does with peers.  This module is without I/O but for the few calls on descriptors.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec

from fl.data.binding import Binding
from fl.spec import Field
from protocol.errors import AggregationError, CodecError, ConfigError, LimitError, MyceliaError, UsageError

from .errors import AppError, SandboxError
from .inline import Job

MAX_BODY = 1 << 20
"""Bytes of one control frame; log lines and tracebacks are far below."""
MAX_PENDING = 4
"""Descriptors that may wait for their frame."""
_PREFIX = struct.Struct(">BI")
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

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


class Run(Request, frozen=True, gc=False):
    """Call user code.  ``train`` and ``evaluate`` bring the model; answered by ``Done`` or ``Failed``."""

    what: Literal["initial", "train", "evaluate", "describe"]
    job: Job


class Declare(Request, frozen=True, gc=False):
    """What does the application say of itself, after ``key=value`` settings?  Answered by ``Declared``."""

    settings: Annotated[tuple[Text, ...], msgspec.Meta(max_length=128)] = ()


class Reply(msgspec.Struct, frozen=True, gc=False, tag=True):
    """From the worker."""


class Hello(Reply, frozen=True, gc=False):
    """First word of a new process."""

    pid: int


class Ready(Reply, frozen=True, gc=False):
    """The code is loaded, the sandbox is shut, the data is there."""

    files_locked: bool
    """Whether the file system is out of reach too (Landlock)."""
    samples: int


class Declared(Reply, frozen=True, gc=False):
    """An encoded ``AppSpec`` (``fl.sdk.outline``)."""

    spec: Annotated[bytes, msgspec.Meta(max_length=256 * 1024)]


class Log(Reply, frozen=True, gc=False):
    """A line that user code wrote."""

    text: Text


class Done(Reply, frozen=True, gc=False):
    """``initial`` and ``train`` bring tensors."""

    weight: float = 0.0
    metrics: Annotated[dict[Annotated[str, msgspec.Meta(max_length=64)], float], msgspec.Meta(max_length=64)] = {}


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


def frame(message: Request | Reply, descriptors: int = 0) -> bytes:
    """The bytes of one frame."""
    body = _encoder.encode(message)
    assert len(body) <= MAX_BODY, f"{type(message).__name__} of {len(body)} bytes"
    return _PREFIX.pack(descriptors, len(body)) + body


class Frames:
    """Cuts a stream of bytes and descriptors into messages.  Owns the descriptors until they are handed out."""

    def __init__(self, *, replies: bool) -> None:
        self._decoder: msgspec.msgpack.Decoder[Any] = _replies if replies else _requests
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()

    def feed(self, data: bytes, descriptors: list[int]) -> None:
        """Take what one ``recvmsg`` brought.  Raises LimitError when descriptors pile up."""
        self._buffer += data
        self._descriptors.extend(descriptors)
        if len(self._descriptors) > MAX_PENDING:
            raise LimitError(f"{len(self._descriptors)} descriptors without a frame")

    def next(self) -> tuple[Any, int | None] | None:
        """The next message and its descriptor, which is then the caller's; None when more bytes are needed.

        Raises CodecError, LimitError.
        """
        if len(self._buffer) < _PREFIX.size:
            return None
        count, length = _PREFIX.unpack_from(self._buffer)
        if count > 1 or length > MAX_BODY:
            raise LimitError(f"frame of {length} bytes with {count} descriptors")
        if len(self._buffer) < _PREFIX.size + length:
            return None
        body = bytes(self._buffer[_PREFIX.size : _PREFIX.size + length])
        del self._buffer[: _PREFIX.size + length]
        if count and not self._descriptors:
            raise CodecError("frame without the descriptor that it announces")
        try:
            message = self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CodecError(f"not a message: {error}") from None
        return message, self._descriptors.popleft() if count else None

    def close(self) -> None:
        """Close what was not handed out."""
        while self._descriptors:
            os.close(self._descriptors.popleft())


def sealed(content: bytes | memoryview) -> int:
    """A descriptor of anonymous memory that holds ``content`` and can never change.  The caller closes it."""
    descriptor = os.memfd_create("mycelia", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_sealed(descriptor: int, limit: int) -> None:
    """Refuse to read what the other side could still change.  Raises CodecError, LimitError."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        raise CodecError("tensors came in something that cannot be sealed") from None
    if seals & _SEALS != _SEALS:
        raise CodecError("tensors came in memory that is not sealed")
    size = os.fstat(descriptor).st_size
    if size > limit:
        raise LimitError(f"tensors of {size} bytes, the limit is {limit}")


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
    # Arrays that user code keeps may outlive the task; the mapping then goes with the last of them.
    yield memoryview(content)
