"""Accepting connections where strangers may open them: in bursts, and without ever running dry.

A listener that is out of descriptors must neither end nor spin.  One descriptor is kept in reserve: when the system has
no other, it is given up for long enough to accept the next connection and close it, so that whoever waits learns at
once that there is no room, instead of filling the queue.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable

from protocol.errors import ConfigError

from .channels import split_address

log = logging.getLogger("mycelia.node.links")

_BACKLOG = 512
_BURST = 64
"""Connections taken in one turn of the loop, which has other things to do."""
_PAUSE = 0.5
"""Seconds until the next try when even the reserve does not help."""
_EMPTY = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """One listening TCP socket, from its making to ``close``.  All methods are called on the loop."""

    def __init__(self, address: str, setting: str, accepted: Callable[[socket.socket, str], None]) -> None:
        """Listen on ``address`` (``HOST:PORT``), which the operator sets as ``setting``.

        ``accepted`` gets each connection, non-blocking, and the host at its other end.  Raises ConfigError.
        """
        self._accepted = accepted
        self._socket = _bind(address, setting)
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self.port = int(self._socket.getsockname()[1])
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Idempotent."""
        if self._socket.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if self._spare >= 0:
            os.close(self._spare)

    def _accept(self) -> None:
        for _ in range(_BURST):
            try:
                connection, (host, *_) = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _EMPTY:
                    continue  # gone before it was accepted
                if not self._turn_away():
                    log.warning("cannot accept connections: %s", error.strerror)
                    self._loop.remove_reader(self._socket)
                    self._pause = self._loop.call_later(_PAUSE, self._resume)
                    return
                continue
            connection.setblocking(False)
            self._accepted(connection, host)
            if self._socket.fileno() < 0:
                return

    def _turn_away(self) -> bool:
        """Accept one connection with the descriptor in reserve and close it; False when that is not possible."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            self._socket.accept()[0].close()
        except OSError as error:
            if error.errno in _EMPTY:
                return False
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        return True

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)


def _bind(address: str, setting: str) -> socket.socket:
    host, port = split_address(address)
    dual = host == "::"
    if dual and not socket.has_dualstack_ipv6():
        host, dual = "0.0.0.0", False  # noqa: S104 - what `[::]` means on a host without IPv6
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"cannot listen on {address}: port {port} is in use", f"set {setting} to another port"
            ) from None
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}", f"check {setting}") from error
    listening.setblocking(False)
    return listening
