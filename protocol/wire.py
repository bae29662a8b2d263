"""The envelope: one frame, one message.

    frame  = MessagePack array [version, kind, trace, body]                       direct
           = MessagePack array [version, kind, trace, body, [key, origin, hops]]  routed towards a key

Decoding is in two steps so that limits are checked before anything of the body is built: the outer array is read
with the body left raw, the kind is looked up, the raw length compared with the type's ``LIMIT``, and only then is
the body decoded against its type.  Trailing fields that we do not know are ignored; an unknown kind or version is a
typed error that the caller counts.  Nothing here can build anything but the registered types.

A body can be shorter than the one that we would write: an integer for a float, defaults that are left out.  Whoever
passes it on writes it our way, so that size must not exceed the limit either: what is taken here can be sent from here,
and who is blamed for a message that is too large is who sent it, not who passed it on.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .errors import CodecError, LimitError, UnknownKindError, UsageError, VersionError
from .messages import KINDS, Contact, Id, Message, Routed

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""All that a msgspec decoder raises on bytes from outside: not its type, not UTF-8, or nested without end."""

VERSION = 1
MAX_FRAME = 1 << 20
"""Largest frame on a control link, bytes."""

MAX_HOPS = 64


class _Header(msgspec.Struct, frozen=True, gc=False, array_like=True):
    key: Id
    origin: Contact
    hops: int


class _Direct(msgspec.Struct, frozen=True, gc=False, array_like=True):
    version: int
    kind: int
    trace: int
    body: msgspec.Raw


class _Envelope(_Direct, frozen=True, gc=False, array_like=True):
    header: _Header | None = None


_encoder = msgspec.msgpack.Encoder()
_envelopes = msgspec.msgpack.Decoder(_Envelope)
_bodies: dict[int, msgspec.msgpack.Decoder[Any]] = {}


def encode(message: Message | Routed, trace: int = 0) -> bytes:
    """The frame for ``message``.  ``trace`` is an opaque number that follows a causal chain through the logs.

    Raises UsageError for a message beyond its own limit.
    """
    inner = message.message if isinstance(message, Routed) else message
    body = _encoder.encode(inner)
    if len(body) > inner.LIMIT:
        raise UsageError(f"{type(inner).__name__} of {len(body)} bytes exceeds its own limit")
    if isinstance(message, Routed):
        header = _Header(message.key, message.origin, message.hops)
        return _encoder.encode(_Envelope(VERSION, inner.KIND, trace, msgspec.Raw(body), header))
    return _encoder.encode(_Direct(VERSION, inner.KIND, trace, msgspec.Raw(body)))


def decode(frame: bytes | memoryview) -> tuple[Message | Routed, int]:
    """The message in ``frame`` and its trace number.

    Raises LimitError, VersionError, UnknownKindError, CodecError; each names what was wrong.
    """
    if len(frame) > MAX_FRAME:
        raise LimitError(f"frame of {len(frame)} bytes, the limit is {MAX_FRAME}")
    try:
        envelope = _envelopes.decode(frame)
    except UNREADABLE as error:
        raise CodecError(f"not an envelope: {error}") from None
    if envelope.version != VERSION:
        raise VersionError(f"envelope version {envelope.version}, we speak {VERSION}")
    cls = KINDS.get(envelope.kind)
    if cls is None:
        raise UnknownKindError(f"message kind {envelope.kind}")
    body = memoryview(envelope.body)
    if len(body) > cls.LIMIT:
        raise LimitError(f"{cls.__name__} body of {len(body)} bytes, the limit is {cls.LIMIT}")
    message = _decode_body(cls, body)
    header = envelope.header
    if header is None:
        return message, envelope.trace
    if not 0 <= header.hops <= MAX_HOPS:
        raise LimitError(f"{header.hops} hops, the limit is {MAX_HOPS}")
    return Routed(header.key, header.origin, header.hops, message), envelope.trace


def _decode_body(cls: type[Message], body: memoryview) -> Message:
    decoder = _bodies.get(cls.KIND)
    if decoder is None:
        decoder = _bodies[cls.KIND] = msgspec.msgpack.Decoder(cls)
    try:
        message: Message = decoder.decode(body)
    except UNREADABLE as error:
        raise CodecError(f"{cls.__name__}: {error}") from None
    if (written := len(_encoder.encode(message))) > cls.LIMIT:
        raise LimitError(f"{cls.__name__} body of {written} bytes as we write it, the limit is {cls.LIMIT}")
    return message


def size(message: Message | Routed) -> int:
    """Bytes that the frame takes; the simulator charges links with it."""
    return len(encode(message))
