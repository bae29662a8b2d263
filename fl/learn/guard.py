"""A bound on the threads of a worker, kept by its fork server.

RLIMIT_NPROC counts all processes of a user, and does not bind root; cgroups have to be delegated first.  So the worker
hands its fork server the right to decide about ``clone``: a second filter whose verdict is "ask" (seccomp_unotify(2),
Linux 5.5).  The filter of the sandbox has checked the flags by then, and its refusals go before.  The fork server
counts the threads that there are, lets the call go on, or fails it with EAGAIN as the kernel does at a limit.

The listener's descriptor goes over a socket that both ends close afterwards, while the worker still runs our own code.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from . import bpf
from .sandbox import fprog
from .syscalls import Machine

MAX_THREADS = 256
"""Threads of one worker.  Torch, OpenMP and BLAS make one for each core that they are given; [worker] threads is far
below."""
_SECCOMP = (317, 277)
_SET_FILTER, _NEW_LISTENER, _CONTINUE = 1, 1 << 3, 1
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION, _RESPONSE = "QII64x", "QqiI"


def listen(libc: ctypes.CDLL, machine: Machine) -> int:
    """Have ``clone`` of this process decided by whoever holds the descriptor returned; -1 where the kernel cannot."""
    program = bpf.notifier(machine, "clone")
    code = ctypes.create_string_buffer(program, len(program))
    return int(libc.syscall(_SECCOMP[machine.column], _SET_FILTER, _NEW_LISTENER, fprog(code)))


def announce(connection: socket.socket, listener: int, *, bounded: bool) -> None:
    """Tell the fork server, once, whether files in the scratch directory are ``bounded``, and hand it the ``listener``.

    Closes both.
    """
    with connection:
        socket.send_fds(connection, [bytes([bounded])], [listener] if listener >= 0 else [])
    if listener >= 0:
        os.close(listener)


def heard(connection: socket.socket) -> tuple[bool, int]:
    """The other end of :func:`announce`: (bounded, listener); (False, -1) from a worker that died before.

    Closes the connection.
    """
    with connection:
        data, listeners, _, _ = socket.recv_fds(connection, 1, 1, socket.MSG_CMSG_CLOEXEC)
    return data == b"\x01", listeners[0] if listeners else -1


def decide(listener: int, pid: int, granted: set[int]) -> bool:
    """Answer one question of worker ``pid``; whether it may have one more thread.

    ``granted`` is kept between questions: the threads that were let make one.  What such a thread made may not be there
    yet, so it counts, until that thread asks again.
    """
    notification = bytearray(struct.calcsize(_NOTIFICATION))
    # The thread that asked may be gone at any moment.
    with contextlib.suppress(OSError):
        fcntl.ioctl(listener, _RECEIVE, notification)
        number, asking, _ = struct.unpack(_NOTIFICATION, notification)
        alive = threads(pid)
        granted &= alive - {asking}
        fits = len(alive) + len(granted) < MAX_THREADS
        if fits:
            granted.add(asking)
        answer = (0, 0, _CONTINUE) if fits else (0, -errno.EAGAIN, 0)
        fcntl.ioctl(listener, _SEND, struct.pack(_RESPONSE, number, *answer))
        return fits
    return True


def threads(pid: int) -> set[int]:
    """Those that the process has; none when it is gone."""
    try:
        return {int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()}
    except OSError:
        return set()
