"""Frames of the control socket, derived from :class:`node.service.DaemonService`.

    connection = one request, then replies
    frame      = length (4 bytes, big-endian) ‖ MessagePack
    request    = [version, method, [argument, ...]]
    reply      = ["result", value] | ["item", value]* ["end", nil] | ["error", failure]

The Python signatures are the interface definition: argument and result types are read off the annotations once, at
import, and msgspec validates against them, so a request that does not fit is refused before any code of the daemon
sees it.  Lengths are checked before memory is taken for them.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from protocol import errors
from protocol.errors import CodecError, LimitError, MyceliaError, VersionError
from protocol.wire import UNREADABLE

from .service import DaemonService

VERSION = 1
MAX_FRAME = 4 << 20
"""Bytes.  A chunk of an artifact is 1 MiB; a list of a few thousand peers or models fits as well."""
LENGTH_BYTES = 4


@dataclass(frozen=True)
class Method:
    """One method of the service: how its arguments and its results are read."""

    name: str
    signature: inspect.Signature
    arguments: msgspec.msgpack.Decoder[Any]
    result: msgspec.msgpack.Decoder[Any]
    streams: bool


class Request(msgspec.Struct, frozen=True, array_like=True):
    version: int
    method: str
    arguments: msgspec.Raw


class Reply(msgspec.Struct, frozen=True, array_like=True):
    kind: Literal["result", "item", "end", "error"]
    body: msgspec.Raw


class Failure(msgspec.Struct, frozen=True):
    """An error on its way to the caller, who raises it again as what it was."""

    kind: str
    message: str
    remedy: str


_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply)
_failures = msgspec.msgpack.Decoder(Failure)


def _method(name: str, function: Callable[..., Any]) -> Method:
    hints = typing.get_type_hints(function, include_extras=True)
    returns = hints.pop("return")
    streams = typing.get_origin(returns) is AsyncIterator
    signature = inspect.signature(function)
    bare = signature.replace(parameters=list(signature.parameters.values())[1:])
    return Method(
        name=name,
        signature=bare,
        arguments=msgspec.msgpack.Decoder(tuple[tuple(hints.values())]),  # type: ignore[misc]
        result=msgspec.msgpack.Decoder(typing.get_args(returns)[0] if streams else returns),
        streams=streams,
    )


METHODS = {
    name: _method(name, function)
    for name, function in vars(DaemonService).items()
    if inspect.isfunction(function) and not name.startswith("_")
}

_ERRORS: dict[str, type[MyceliaError]] = {
    cls.__name__: cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, MyceliaError)
}


def frame(body: bytes) -> bytes:
    """``body`` with its length in front.  Raises LimitError."""
    if len(body) > MAX_FRAME:
        raise LimitError(f"a control frame of {len(body)} bytes exceeds the limit of {MAX_FRAME}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def body_length(head: bytes) -> int:
    """The length that the first four bytes of a frame announce.  Raises LimitError."""
    length = int.from_bytes(head, "big")
    if length > MAX_FRAME:
        raise LimitError(f"a control frame of {length} bytes was announced, the limit is {MAX_FRAME}")
    return length


def encode_request(method: Method, arguments: tuple[Any, ...]) -> bytes:
    return frame(_encoder.encode(Request(VERSION, method.name, msgspec.Raw(_encoder.encode(arguments)))))


def decode_request(body: bytes) -> tuple[Method, tuple[Any, ...]]:
    """Raises CodecError for what is no request, VersionError for one of another version."""
    try:
        request = _requests.decode(body)
    except UNREADABLE as error:
        raise CodecError(f"not a control request: {error}") from None
    if request.version != VERSION:
        raise VersionError(
            f"the command speaks control version {request.version}, the daemon {VERSION}",
            "restart the daemon after an upgrade: mycelia stop, then mycelia up",
        )
    method = METHODS.get(request.method)
    if method is None:
        raise CodecError(f"the daemon has no method {request.method[:40]!r}")
    try:
        return method, method.arguments.decode(request.arguments)
    except UNREADABLE as error:
        raise CodecError(f"{method.name}: {error}") from None


def encode_reply(kind: Literal["result", "item", "end"], value: Any = None) -> bytes:
    return frame(_encoder.encode(Reply(kind, msgspec.Raw(_encoder.encode(value)))))


def encode_error(error: MyceliaError) -> bytes:
    kind = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _ERRORS)
    failure = Failure(kind, str(error)[:4096], error.remedy[:4096])
    return frame(_encoder.encode(Reply("error", msgspec.Raw(_encoder.encode(failure)))))


def decode_reply(method: Method, body: bytes) -> tuple[str, Any]:
    """The kind and the value of a reply to ``method``.

    Raises the error that the daemon answered with, or CodecError for what is no reply.
    """
    try:
        reply = _replies.decode(body)
        if reply.kind == "error":
            failure = _failures.decode(reply.body)
            raise _ERRORS.get(failure.kind, MyceliaError)(failure.message, failure.remedy)
        return reply.kind, None if reply.kind == "end" else method.result.decode(reply.body)
    except UNREADABLE as error:
        raise CodecError(
            f"the daemon's answer to {method.name} makes no sense: {error}",
            "restart the daemon after an upgrade: mycelia stop, then mycelia up",
        ) from None
