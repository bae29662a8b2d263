"""Two sockets made one: what arrives on either leaves on the other, in the kernel.

Each direction moves through a pipe that it holds only while bytes are inside, so that a connection on which nothing
happens costs two descriptors and no buffer.  A side that does not read stops its direction after one pipe; an end of
stream is passed on; an error on either side ends both.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable

_PIPE = 1 << 20
"""Bytes that one pipe takes: a chunk of a transfer."""
_SPARE_PIPES = 16
_F_SETPIPE_SZ = 1031
_FLAGS = getattr(os, "SPLICE_F_NONBLOCK", 0) | getattr(os, "SPLICE_F_MOVE", 0)


class Pipes:
    """Empty pipes, made on demand and kept for the next who needs one."""

    def __init__(self) -> None:
        self._free: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        """Read end and write end.  Raises OSError when the system has no more."""
        if self._free:
            return self._free.pop()
        ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Beyond what one user may have in large pipes it stays as it is.
        with contextlib.suppress(OSError):
            fcntl.fcntl(ends[1], _F_SETPIPE_SZ, _PIPE)
        return ends

    def give(self, ends: tuple[int, int], *, empty: bool) -> None:
        if empty and len(self._free) < _SPARE_PIPES:
            self._free.append(ends)
            return
        for end in ends:
            os.close(end)

    def close(self) -> None:
        while self._free:
            self.give(self._free.pop(), empty=False)


class _Direction:
    __slots__ = ("_ends", "_inside", "_loop", "_moved", "_over", "_pipes", "_sink", "_source", "done")

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        pipes: Pipes,
        moved: Callable[[], None],
        over: Callable[[bool], None],
    ) -> None:
        """``moved`` is told of bytes, ``over`` of the end: True when it was an error."""
        self.done = False
        self._source = source
        self._sink = sink
        self._pipes = pipes
        self._moved = moved
        self._over = over
        self._ends: tuple[int, int] | None = None
        self._inside = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(source, self._read)

    def _read(self) -> None:
        try:
            self._ends = self._pipes.take()
            self._inside = os.splice(self._source.fileno(), self._ends[1], _PIPE, flags=_FLAGS)
        except BlockingIOError:
            self._release()
            return
        except OSError:
            self._over(True)
            return
        if not self._inside:
            self._end()
            return
        self._moved()
        if not self._write():
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._resume)

    def _write(self) -> bool:
        """Empty the pipe; False when the other side takes no more at the moment."""
        assert self._ends is not None
        try:
            while self._inside:
                self._inside -= os.splice(self._ends[0], self._sink.fileno(), self._inside, flags=_FLAGS)
        except BlockingIOError:
            return False
        except OSError:
            self._over(True)
            return True
        self._release()
        return True

    def _resume(self) -> None:
        if self._write() and not self.done:
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._source, self._read)

    def _end(self) -> None:
        self._release()
        self.done = True
        self._loop.remove_reader(self._source)
        with contextlib.suppress(OSError):
            self._sink.shutdown(socket.SHUT_WR)
        self._over(False)

    def _release(self) -> None:
        if self._ends is not None:
            self._pipes.give(self._ends, empty=not self._inside)
            self._ends, self._inside = None, 0

    def stop(self) -> None:
        self.done = True
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)
        self._release()


class Splice:
    """Owns two connected non-blocking sockets until both directions have ended, one has failed, or ``close``."""

    __slots__ = ("_closed", "_directions", "_ended", "_sockets")

    def __init__(
        self,
        outer: socket.socket,
        inner: socket.socket,
        pipes: Pipes,
        *,
        answered: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        """``answered`` is told, each time, of bytes from ``inner``; ``ended``, once, that both sockets are closed."""
        self._sockets = (outer, inner)
        self._ended = ended
        self._closed = False
        self._directions: tuple[_Direction, ...] = ()
        self._directions = (
            _Direction(outer, inner, pipes, lambda: None, self._over),
            _Direction(inner, outer, pipes, answered, self._over),
        )

    def _over(self, failed: bool) -> None:
        if failed or all(direction.done for direction in self._directions):
            self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._closed:
            return
        self._closed = True
        for direction in self._directions:
            direction.stop()
        for side in self._sockets:
            side.close()
        self._ended()
