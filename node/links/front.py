"""The door of a node: who may begin a handshake, how many at once, and which connection belongs to whom.

gRPC accepts whatever comes and cannot be asked how many of its connections have shown a certificate, so it does not
listen where strangers are.  It listens on a socket without a name, which only this module can reach; this module
accepts, and hands over what deserves it.  A connection

    waits      until its first TLS record, a ClientHello, is here, which honest peers send at once;
    is ready   until it is its turn: parties take turns, and one handshake is *begun* at a time, so that gRPC, which
               replaces its credentials without a lock, never does so while another thread reads them;
    shakes     hands with gRPC, bytes moving in the kernel (``splice``);
    is known   once a call on it came from a member whom the node admits.

Each state has its places (``slots``) and, but for the last, a deadline.  What a stranger costs before its hello is one
descriptor and some hundred bytes; before its certificate, one of few handshakes.  The last descriptors of the process
are for addresses from which a member has called.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from node import descriptors
from protocol.ids import NodeId

from .accepting import Acceptor
from .slots import Slots, party
from .splice import Pipes, Splice

SETTING = "[node] listen"

MAX_HELLO = 8192
"""Bytes of a ClientHello; the largest in use, with keys against quantum computers, have two thousand."""
_RECORD = 5
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_RESERVE = 64
"""Descriptors that are left to the node itself and to addresses that are known."""
_KNOWN = 1024
"""Addresses that are remembered as those of members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontConfig:
    """Places and patience."""

    waiting: int = 256
    """Connections without a hello, in total."""
    waiting_each: int = 64
    """The same, per address."""
    handshakes: int = 128
    """Connections with a hello and without a known peer, in total; as many may be ready."""
    handshakes_each: int = 32
    """The same, per address."""
    known: int = 512
    """Connections of members, in total."""
    known_each: int = 8
    """Connections of one member: a link and a bulk connection, and those that they replace."""
    hello_timeout: float = 3.0
    """Seconds for the hello."""
    handshake_timeout: float = 10.0
    """Seconds from the hello to the first admitted call."""
    start_timeout: float = 1.0
    """Seconds for which the next handshake waits for gRPC's first answer to the one before."""


class Door:
    """A unix socket without a name in the file system, and the way to connect to it."""

    def __init__(self, bind: Callable[[str], None]) -> None:
        """``bind`` makes somebody listen on the path that it is given."""
        with tempfile.TemporaryDirectory(prefix="mycelia-") as directory:
            path = Path(directory) / "door"
            bind(os.fspath(path))
            self._inode = os.open(path, os.O_PATH | os.O_CLOEXEC)

    def connect(self) -> tuple[socket.socket, str]:
        """A connection, and the name by which whoever accepts it knows it.  Raises OSError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.bind("")  # the kernel finds a name that nobody has
            connection.connect(f"/proc/self/fd/{self._inode}")
            name = connection.getsockname()
        except OSError:
            connection.close()
            raise
        return connection, name[1:].decode("ascii")

    def close(self) -> None:
        os.close(self._inode)


class _Visitor:
    """One accepted connection."""

    __slots__ = ("deadline", "hello", "name", "outer", "party", "splice")

    def __init__(self, outer: socket.socket, host: str) -> None:
        self.outer = outer
        self.party = party(host)
        self.hello = bytearray()
        self.name = ""
        self.splice: Splice | None = None
        self.deadline: asyncio.TimerHandle | None = None


class Front:
    """See the module.  All methods are called on the loop."""

    def __init__(self, door: Door, config: FrontConfig) -> None:
        """``door`` becomes the front's."""
        self.counters = dict.fromkeys(("accepted", "dropped", "late", "handshakes", "known"), 0)
        """``dropped``: lost their place, sent no hello, or came when descriptors were short."""
        self._door = door
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._pipes = Pipes()
        self._acceptors: list[Acceptor] = []
        self._closed = False
        self._waiting: Slots[str, _Visitor] = Slots(config.waiting, config.waiting_each)
        self._ready: Slots[str, _Visitor] = Slots(config.handshakes, config.handshakes_each)
        self._shaking: Slots[str, _Visitor] = Slots(config.handshakes, config.handshakes_each)
        self._known: Slots[NodeId, _Visitor] = Slots(config.known, config.known_each)
        self._by_name: dict[str, _Visitor] = {}
        self._addresses: OrderedDict[str, None] = OrderedDict()
        self._starting: _Visitor | None = None
        self._impatient: asyncio.TimerHandle | None = None

    def listen(self, address: str) -> str:
        """Accept on ``address`` (``HOST:PORT``) as well; port 0 takes a free one.  Returns the address bound.

        Raises ConfigError.
        """
        acceptor = Acceptor(address, SETTING, self._accept)
        self._acceptors.append(acceptor)
        return f"{address.rpartition(':')[0]}:{acceptor.port}"

    def close(self) -> None:
        """Stop listening and drop every connection.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        for acceptor in self._acceptors:
            acceptor.close()
        for visitor in (*self._ready, *self._waiting, *self._shaking, *self._known):
            self._close(visitor)
        self._pipes.close()
        self._door.close()

    def standing(self) -> dict[str, int]:
        """How many connections are in which state."""
        return {
            "waiting": len(self._waiting),
            "ready": len(self._ready),
            "shaking": len(self._shaking),
            "members": len(self._known),
        }

    def admit(self, caller: str, peer: NodeId) -> None:
        """A call of ``peer``, admitted, came on the connection that gRPC calls ``caller`` (``context.peer()``)."""
        visitor = self._by_name.get(caller.partition(":")[2])
        if visitor is None or visitor in self._known:
            return
        self._shaking.leave(visitor)
        self._expire(visitor, None)
        self.counters["known"] += 1
        self._addresses[visitor.party] = None
        self._addresses.move_to_end(visitor.party)
        if len(self._addresses) > _KNOWN:
            self._addresses.popitem(last=False)
        self._drop(self._known.take(peer, visitor))

    def expel(self, peer: NodeId) -> None:
        """Drop every connection of ``peer``."""
        for visitor in self._known.of(peer):
            self._close(visitor)

    # ---- waiting ----------------------------------------------------------------------------------------------------

    def _accept(self, outer: socket.socket, host: str) -> None:
        self.counters["accepted"] += 1
        visitor = _Visitor(outer, host)
        if visitor.party not in self._addresses and outer.fileno() >= descriptors.limit() - _RESERVE:
            self._drop(visitor)
            return
        self._drop(self._waiting.take(visitor.party, visitor))
        self._expire(visitor, self._config.hello_timeout)
        self._loop.add_reader(outer, self._listen_to, visitor)
        # Mostly it is here already.
        self._listen_to(visitor)

    def _listen_to(self, visitor: _Visitor) -> None:
        try:
            got = visitor.outer.recv(MAX_HELLO + _RECORD - len(visitor.hello))
        except BlockingIOError:
            return
        except OSError:
            got = b""
        visitor.hello += got
        if not got or not _plausible(visitor.hello):
            self._drop(visitor)
        elif _complete(visitor.hello):
            self._loop.remove_reader(visitor.outer)
            self._waiting.leave(visitor)
            self._drop(self._ready.take(visitor.party, visitor))
            self._start_next()

    # ---- handshakes -------------------------------------------------------------------------------------------------

    def _start_next(self) -> None:
        while self._starting is None and (visitor := self._ready.next()) is not None:
            self._starting = visitor
            self._impatient = self._loop.call_later(self._config.start_timeout, self._started, visitor)
            self._drop(self._shaking.take(visitor.party, visitor))
            self._expire(visitor, self._config.handshake_timeout)
            try:
                self._hand_over(visitor)
            except OSError:
                self._drop(visitor)

    def _hand_over(self, visitor: _Visitor) -> None:
        """Give the connection and what it has said to gRPC.  Raises OSError."""
        inner, visitor.name = self._door.connect()
        try:
            if inner.send(visitor.hello) < len(visitor.hello):
                raise BlockingIOError
            _keep_alive(visitor.outer)
        except OSError:
            inner.close()
            raise
        visitor.hello.clear()
        self._by_name[visitor.name] = visitor
        self.counters["handshakes"] += 1
        visitor.splice = Splice(
            visitor.outer,
            inner,
            self._pipes,
            answered=lambda: self._started(visitor),
            ended=lambda: self._close(visitor),
        )

    def _started(self, visitor: _Visitor) -> None:
        """The server has begun with ``visitor``, or is done with it, or takes its time."""
        if self._starting is not visitor:
            return
        self._starting = None
        if self._impatient is not None:
            self._impatient.cancel()
            self._impatient = None
        # Not from inside: whoever calls is in the middle of closing or moving bytes.
        self._loop.call_soon(self._start_next)

    # ---- ends -------------------------------------------------------------------------------------------------------

    def _expire(self, visitor: _Visitor, after: float | None) -> None:
        if visitor.deadline is not None:
            visitor.deadline.cancel()
        visitor.deadline = None if after is None else self._loop.call_later(after, self._late, visitor)

    def _late(self, visitor: _Visitor) -> None:
        self.counters["late"] += 1
        self._close(visitor)

    def _drop(self, visitor: _Visitor | None) -> None:
        if visitor is not None:
            self.counters["dropped"] += 1
            self._close(visitor)

    def _close(self, visitor: _Visitor) -> None:
        """Close everything of ``visitor``, whatever its state.  Idempotent."""
        self._expire(visitor, None)
        for place in (self._waiting, self._ready, self._shaking):
            place.leave(visitor)
        self._known.leave(visitor)
        self._by_name.pop(visitor.name, None)
        if visitor.splice is not None:
            visitor.splice.close()
        elif visitor.outer.fileno() >= 0:
            self._loop.remove_reader(visitor.outer)
            visitor.outer.close()
        self._started(visitor)


def _plausible(hello: bytes | bytearray) -> bool:
    """Whether this can be the beginning of a TLS ClientHello of an acceptable size."""
    if hello[0] != _HANDSHAKE or hello[1:2] not in (b"", b"\x03"):
        return False
    if len(hello) < _RECORD:
        return True
    return 4 <= _length(hello) <= MAX_HELLO and hello[_RECORD : _RECORD + 1] in (b"", bytes([_CLIENT_HELLO]))


def _complete(hello: bytes | bytearray) -> bool:
    return len(hello) >= _RECORD and len(hello) >= _RECORD + _length(hello)


def _length(record: bytes | bytearray) -> int:
    return int.from_bytes(record[3:_RECORD])


def _keep_alive(outer: socket.socket) -> None:
    """Small writes leave at once, and a peer that vanished without a word does not hold its connection for ever."""
    outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    outer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 120), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 4)):
        with contextlib.suppress(AttributeError, OSError):
            outer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
