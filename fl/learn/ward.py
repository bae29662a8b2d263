"""One worker, as its fork server watches over it.

A worker runs foreign code, so nothing that keeps it in bounds over time may run inside it: code in one memory can undo
whatever a thread there was to do.  The fork server ends a worker whose daemon hung up, decides about its threads
(:mod:`fl.learn.guard`), and, where the kernel does not bound them, measures its threads and files now and then.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from . import guard, scratch

_HUNG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLONESHOT
_ONCE = select.EPOLLIN | select.EPOLLONESHOT
"""For what is closed when it has spoken.  To close a descriptor does not take it out of epoll while a child that was
forked meanwhile still holds a copy: it would go on to report, under a number that may be another's by then."""
MAX_REFUSED = 1000
"""Threads refused after which a worker is ended: it asks in a loop, and each question takes time from the others."""


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
        self._refused = 0

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
        return not self._bounded or self._listener < 0

    def happened(self, descriptor: int, events: int) -> bool:
        """Deal with an event; True when the worker has ended."""
        if descriptor == self._process:
            return True
        if self._announcement is not None and descriptor == self._announcement.fileno():
            announcement, self._announcement = self._announcement, None
            self._bounded, self._listener = guard.heard(announcement)
        elif descriptor == self._listener:
            if not events & select.EPOLLIN:  # the last thread is gone, and nothing would be there to be received
                return False
            self._refused += not guard.decide(descriptor, self.pid)
            if self._refused > MAX_REFUSED:
                self.end()
        else:
            self.end()  # the daemon hung up
        return False

    def measure(self) -> None:
        """End the worker if it has taken more than it may."""
        if guard.threads(self.pid) > guard.MAX_THREADS or scratch.exceeded(self._directory, self.pid):
            self.end()

    def end(self) -> None:
        """Kill it; its end is then heard of like any other."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def reap(self) -> None:
        """After its end: forget it and what it left."""
        os.waitpid(self.pid, 0)
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
