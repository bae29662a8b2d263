"""What foreign code may not do: talk to anyone, start or signal anything, and (where Landlock exists) see files.

Locks of the kernel, all irrevocable and without privileges once no_new_privs is set, shut in this order:

*Capabilities* are given up, also by root (:mod:`fl.learn.privileges`).

*Landlock*, from Linux 5.13 on: only Python's own files can be read and only a scratch directory written, so neither the
node's key nor other people's data can be put into an update (:mod:`fl.learn.landlock`).  The node's data is loaded
before the lock falls.  It is reported, not demanded, because kernels without it are still in service.

*seccomp-BPF*, a filter on system calls: an allow-list with checked arguments (:mod:`fl.learn.syscalls`).  A worker is
one process with one descriptor to its daemon, and ends when it is killed.  It is a condition: :func:`enclose` tries
what is forbidden and raises SandboxError unless all of it fails.

All three bind the thread that shuts them and threads that it makes later, so there must be no other thread by then:
code in one memory can make any thread do what it wants.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import bpf, landlock, privileges, syscalls
from .errors import SandboxError

_PR_SET_SECCOMP, _FILTER_MODE = 22, 2
_REMEDY = "allow seccomp filters in the container or kernel; this node still routes and aggregates"


def machine() -> syscalls.Machine:
    """This architecture.  Raises SandboxError where foreign code cannot be locked in."""
    found = syscalls.MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    if found is None:
        raise SandboxError(
            f"foreign code is not run on {platform.system()} {platform.machine()}: it cannot be kept off the network",
            "train on a Linux machine (x86_64 or aarch64); this node still routes and aggregates",
        )
    return found


def describe() -> str:
    """What keeps applications in, on this kernel, in one line."""
    try:
        machine()
    except SandboxError as error:
        return str(error)
    return f"system calls by a list; {landlock.describe(landlock.abi(ctypes.CDLL(None)))}"


def enclose(
    scratch: Path | None = None,
    *,
    private: Sequence[Path] = (),
    newest: int = 1 << 30,
    guard: Callable[[ctypes.CDLL, syscalls.Machine], None] = lambda libc, kind: None,
) -> int:
    """Lock this process in, for ever; returns the version of Landlock that locks its files, 0 for none.

    ``scratch``: the one directory in which files may be written.  ``private``: what must not be readable from inside.
    ``newest``: the version of Landlock to act as if the kernel had no newer one.  ``guard`` is called when privileges
    are gone and the filter is not there yet.  Raises SandboxError when a lock cannot be shut or does not hold.
    """
    kind = machine()
    if (threads := _threads()) != 1:
        raise SandboxError(f"{threads} threads run already, and a lock binds only those to come")
    libc = ctypes.CDLL(None, use_errno=True)
    privileges.drop(libc)
    guard(libc, kind)
    version = min(landlock.abi(libc), newest)
    readable = landlock.python_paths()
    for path in private:
        if (directory := landlock.exposed(path, readable)) is not None:
            raise SandboxError(f"{path} lies below {directory}, which applications can read", "move it elsewhere")
    confined = landlock.restrict(libc, version, readable, scratch)
    install(libc, bpf.program(kind, os.getpid(), confined=confined))
    _probe()
    return version if confined else 0


def install(libc: ctypes.CDLL, program: bytes) -> None:
    """Run ``program`` before each system call from now on.  Raises SandboxError."""
    code = ctypes.create_string_buffer(program, len(program))
    if libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, fprog(code), 0, 0):
        raise SandboxError(f"the kernel refuses a seccomp filter: {os.strerror(ctypes.get_errno())}", _REMEDY)


def fprog(code: ctypes.Array[ctypes.c_char]) -> ctypes.Array[ctypes.c_char]:
    """``struct sock_fprog`` for the program in ``code``, which has to outlive it."""
    packed = struct.pack("@HP", len(code) // 8, ctypes.addressof(code))
    return ctypes.create_string_buffer(packed, len(packed))


def _threads() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        raise SandboxError("/proc is not there, so threads cannot be counted", "mount /proc") from None


def _probe() -> None:
    """Try what is forbidden.  Raises SandboxError when any of it succeeds."""
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        try:
            socket.socket(family, socket.SOCK_STREAM).close()
        except PermissionError:
            continue
        except OSError:
            if family == socket.AF_INET6:  # built without IPv6: not there to be forbidden
                continue
        raise SandboxError(f"the sandbox does not hold: a socket of family {family.name} could be made", _REMEDY)
    try:
        child = os.fork()
    except PermissionError:
        child = -1
    if not child:
        os._exit(0)
    if child > 0:
        os.waitpid(child, 0)
        raise SandboxError("the sandbox does not hold: a process could be started", _REMEDY)
    try:
        os.kill(os.getppid(), 0)
    except PermissionError:
        return
    raise SandboxError("the sandbox does not hold: another process could be signalled", _REMEDY)
