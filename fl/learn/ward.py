"""One worker, as its fork server watches over it.

A worker runs foreign code, so nothing that keeps it in bounds over time may run inside it: code in one memory can undo
whatever a thread there was to do.  The fork server ends a worker whose daemon hung up, decides about its threads
(:mod:`fl.learn.guard`), and measures now and then what the kernel does not bound: its memory
(:mod:`fl.learn.memory`), and on some machines its threads and files.  The daemon of a worker that is ended for what it
takes hears why, in place of the answer that it waits for.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from . import channel, guard, memory, scratch
from .errors import AppError

_HUNG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLONESHOT
_ONCE = select.EPOLLIN | select.EPOLLONESHOT
"""For what is closed when it has spoken.  To close a descriptor does not take it out of epoll while a child that was
forked meanwhile still holds a copy: it would go on to report, under a number that may be another's by then."""
MAX_REFUSED = 1000
"""Threads refused after which a worker is ended: it asks in a loop, and each question takes time from the others."""

_TOO_MANY_THREADS = AppError(
    f"the application makes threads beyond the {guard.MAX_THREADS} that it may have, and was ended",
    "have it use fewer; torch and numpy use as many as [worker] threads says",
)
_TOO_MANY_FILES = AppError(
    f"the application keeps more than {scratch.LIMIT >> 20} MiB, or {scratch.MAX_FILES} files, in its temporary "
    "directory, and was ended",
    "have it keep less there",
)


class Ward:
    """Owns all that the fork server holds of one worker: its process, its connection, its directory."""

    def __init__(self, pid: int, connection: socket.socket, announcement: socket.socket, directory: Path) -> None:
        """Copies both.  ``connection``: the one to the daemon.  ``announcement``: what the worker says when
        it is about to be locked in.  Raises OSError."""
        self.pid = pid
        self._announcement: socket.socket | None
        with ExitStack() as undo:
            self._process = os.pidfd_open(pid)
            undo.callback(os.close, self._process)
            self._connection = undo.enter_context(connection.dup())
            self._announcement = undo.enter_context(announcement.dup())
            undo.pop_all()
        self._listener = -1
        self._directory = directory
        self._bounded = False
        self._memory = 0
        """Bytes that it may take; 0 for no limit."""
        self._granted: set[int] = set()
        self._refused = 0
        self._why: AppError | None = None
        """What it was ended for."""

    @property
    def watched(self) -> dict[int, int]:
        """Descriptors → events of epoll that concern this worker, at the moment."""
        events = {self._process: select.EPOLLIN, self._connection.fileno(): _HUNG_UP}
        if self._announcement is not None:
            events[self._announcement.fileno()] = _ONCE
        if self._listener >= 0:
            events[self._listener] = select.EPOLLIN
        return events

    @property
    def measured(self) -> bool:
        """Whether :meth:`measure` has something to do."""
        return not self._bounded or self._listener < 0 or self._memory > 0

    def happened(self, descriptor: int, events: int) -> bool:
        """Deal with an event; True when the worker has ended."""
        if descriptor == self._process:
            return True
        if self._announcement is not None and descriptor == self._announcement.fileno():
            announcement, self._announcement = self._announcement, None
            self._bounded, self._listener = guard.heard(announcement)
            self._memory = memory.limit(self.pid)  # set by then, and whatever the worker does, it only gets less
        elif descriptor == self._listener:
            if not events & select.EPOLLIN:  # the last thread is gone, and nothing would be there to be received
                return False
            self._refused += not guard.decide(descriptor, self.pid, self._granted)
            if self._refused > MAX_REFUSED:
                self.end(_TOO_MANY_THREADS)
        else:
            self.end()  # the daemon hung up
        return False

    def measure(self) -> None:
        """End the worker if it has taken more than it may."""
        if self._listener < 0 and len(guard.threads(self.pid)) > guard.MAX_THREADS:
            self.end(_TOO_MANY_THREADS)
        elif not self._bounded and scratch.exceeded(self._directory, self.pid):
            self.end(_TOO_MANY_FILES)
        elif self._memory and (taken := memory.taken(self.pid, self._directory)) > self._memory:
            self.end(memory.exceeded(taken, self._memory))

    def end(self, why: AppError | None = None) -> None:
        """Kill it, and tell its daemon ``why``; its end is then heard of like any other."""
        self._why = self._why or why
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def reap(self) -> None:
        """After its end: forget it and what it left."""
        os.waitpid(self.pid, 0)
        if self._why is not None:  # nobody else speaks on this connection any more
            with suppress(OSError):
                self._connection.send(channel.frame(channel.failed(self._why)), socket.MSG_DONTWAIT)
        self.close()
        scratch.remove(self._directory)

    def close(self) -> None:
        """Close what is held."""
        for descriptor in self._owned():
            os.close(descriptor)

    def _owned(self) -> Iterator[int]:
        yield self._process
        yield self._connection.detach()
        if self._announcement is not None:
            yield self._announcement.detach()
        if self._listener >= 0:
            yield self._listener
