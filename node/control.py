"""The control API: a unix socket in the state directory, served by the daemon, called by the ``mycelia`` command.

Whoever may connect may do everything, so the socket is as private as the keys beside it: mode 0600 in a directory of
mode 0700, and the kernel's word for the caller's user id is checked on top.  A connection carries one call.  That
makes every rule simple: a call is cancelled by closing, a slow reader of a stream is held back by its own socket and
nobody else's, and a stuck client costs one of :data:`MAX_CONNECTIONS` slots until it goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, cast

from protocol.errors import CodecError, MyceliaError, TransportError, UsageError

from . import control_wire as wire
from .service import DaemonService

log = logging.getLogger("mycelia.node.control")

MAX_CONNECTIONS = 64
"""Calls in progress at once; more are told to come back."""
REQUEST_TIMEOUT_S = 30.0
"""Seconds a caller has to send its whole request."""


class NotRunningError(TransportError):
    """No daemon answers on the control socket."""

    exit_code = 8


class ControlServer:
    """Serves one :class:`DaemonService` on one unix socket, from ``start`` to ``close``."""

    def __init__(self, service: DaemonService, path: Path) -> None:
        self._service = service
        self._path = path
        self._server: asyncio.Server | None = None
        self._calls: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self) -> None:
        """Bind the socket.  Raises UsageError when a daemon already answers there, ConfigError when it cannot be."""
        if await is_running(self._path):
            raise UsageError(f"a daemon already answers on {self._path}", "stop it with `mycelia stop`")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.fspath(self._path))
            # Nobody can connect before listen(), so there is no moment at which the mode is too wide.
            self._path.chmod(0o600)
            self._server = await asyncio.start_unix_server(self._accept, sock=listener)
        except OSError as error:
            listener.close()
            raise TransportError(f"cannot open the control socket {self._path}: {error.strerror}") from None

    async def close(self) -> None:
        """Stop listening, end the calls in progress, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        calls = dict(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, *(writer.wait_closed() for writer in calls.values()), return_exceptions=True)
        await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._calls[call] = writer
        call.add_done_callback(self._finished)

    def _finished(self, call: asyncio.Task[None]) -> None:
        # Here and not in the task: one that is cancelled before its first step runs nothing of its own.
        self._calls.pop(call).close()
        if not call.cancelled() and call.exception() is not None:
            log.error("a control call failed", exc_info=call.exception())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._admit(writer)
            body = await asyncio.wait_for(_read_frame(reader), REQUEST_TIMEOUT_S)
            method, arguments = wire.decode_request(body)
            await _until_hang_up(reader, self._answer(method, arguments, writer))
        except MyceliaError as error:
            writer.write(wire.encode_error(error))
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            log.debug("a control connection ended early")

    def _admit(self, writer: asyncio.StreamWriter) -> None:
        if len(self._calls) > MAX_CONNECTIONS:
            raise TransportError("the daemon has too many commands in progress", "wait for one of them to end")
        uid = _peer_uid(writer.get_extra_info("socket"))
        if uid not in (0, os.geteuid()):
            raise UsageError(f"user {uid} may not control this node", "run the command as the user of the daemon")

    async def _answer(self, method: wire.Method, arguments: tuple[Any, ...], writer: asyncio.StreamWriter) -> None:
        outcome = getattr(self._service, method.name)(*arguments)
        if method.streams:
            async for item in outcome:
                writer.write(wire.encode_reply("item", item))
                await writer.drain()
            writer.write(wire.encode_reply("end"))
        else:
            writer.write(wire.encode_reply("result", await outcome))
        await writer.drain()


async def _until_hang_up(reader: asyncio.StreamReader, work: Any) -> None:
    """Run ``work``, but not for a caller who has gone."""
    task = asyncio.ensure_future(work)
    hang_up = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({task, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        for pending in (task, hang_up):
            pending.cancel()
        await asyncio.gather(task, hang_up, return_exceptions=True)


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(wire.LENGTH_BYTES)
    return await reader.readexactly(wire.body_length(head))


# ---- the caller's side -----------------------------------------------------------------------------------------------


def connect(path: Path) -> DaemonService:
    """The daemon behind the socket at ``path``.  Its methods raise what the daemon raises, and NotRunningError."""
    return cast(DaemonService, _Remote(path))


async def is_running(path: Path) -> bool:
    """Whether a daemon listens at ``path``."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


class _Remote:
    """Every method of :class:`DaemonService`, by way of the socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Callable[..., Any]:
        try:
            method = wire.METHODS[name]
        except KeyError:
            raise AttributeError(name) from None

        def call(*args: Any, **kwargs: Any) -> Any:
            bound = method.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = bound.args
            return self._stream(method, arguments) if method.streams else self._result(method, arguments)

        return call

    async def _result(self, method: wire.Method, arguments: tuple[Any, ...]) -> Any:
        async with contextlib.aclosing(self._stream(method, arguments)) as replies:
            async for value in replies:
                return value
        raise CodecError(f"the daemon answered {method.name} with nothing")

    async def _stream(self, method: wire.Method, arguments: tuple[Any, ...]) -> AsyncGenerator[Any, None]:
        reader, writer = await self._open()
        try:
            writer.write(wire.encode_request(method, arguments))
            await writer.drain()
            while True:
                kind, value = wire.decode_reply(method, await _read_frame(reader))
                if kind == "end":
                    return
                yield value
        except (OSError, asyncio.IncompleteReadError):
            raise TransportError("the daemon closed the connection", "look into `mycelia logs`") from None
        finally:
            writer.close()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_unix_connection(self._path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunningError(f"no daemon answers on {self._path}", "start it with `mycelia up`") from None
        except PermissionError:
            raise UsageError(f"{self._path} belongs to another user", "run the command as that user") from None
        except OSError as error:
            raise TransportError(f"cannot reach the daemon on {self._path}: {error.strerror}") from None
