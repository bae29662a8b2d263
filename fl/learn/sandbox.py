"""What foreign code may not do: talk to anyone, start or signal anything, and (where Landlock exists) see files.

Two locks of the kernel, both irrevocable and without privileges once PR_SET_NO_NEW_PRIVS is set:

*seccomp-BPF.*  A filter on system calls answers EACCES to making or connecting sockets, to the calls that would get
round that (io_uring, ptrace, another process's memory or descriptors), to executing programs, forking and signalling
others: a worker is one process with one descriptor to its daemon, and ends when it is killed.  ``clone3`` hides its
flags from filters and answers ENOSYS, after which libc uses ``clone``, whose flags we can read; threads stay possible.

*Landlock.*  From Linux 5.13 on: only Python's own files can be read and only a scratch directory written, so neither
the node's key nor other people's data can be put into an update.  The node's data is loaded before the lock falls.

The first lock is a condition: :func:`enclose` tries what is forbidden and raises SandboxError unless all of it fails.
The second is reported, not demanded, because kernels without it are still in service.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from pathlib import Path
from typing import NamedTuple

from . import landlock
from .errors import SandboxError


class _Machine(NamedTuple):
    """Numbers of system calls: ``name`` → number, and the audit code of the architecture."""

    audit: int
    calls: dict[str, int]


# The names on both architectures; numbers below 424 differ, newer ones are common.
_COMMON = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440,
}  # fmt: skip
_MACHINES = {
    "x86_64": _Machine(0xC000003E, _COMMON | {
        "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "socketpair": 53, "clone": 56, "fork": 57,
        "vfork": 58, "execve": 59, "kill": 62, "shmget": 29, "semget": 64, "msgget": 68, "ptrace": 101,
        "rt_sigqueueinfo": 129, "mount": 165, "umount2": 166, "tkill": 200, "tgkill": 234, "mq_open": 240,
        "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256, "unshare": 272, "move_pages": 279,
        "accept4": 288, "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "prlimit64": 302, "open_by_handle_at": 304,
        "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321, "execveat": 322,
        "userfaultfd": 323,
    }),
    "aarch64": _Machine(0xC00000B7, _COMMON | {
        "umount2": 39, "mount": 40, "unshare": 97, "ptrace": 117, "kill": 129, "tkill": 130, "tgkill": 131,
        "rt_sigqueueinfo": 138, "mq_open": 180, "msgget": 186, "semget": 190, "shmget": 194, "socket": 198,
        "socketpair": 199, "bind": 200, "listen": 201, "accept": 202, "connect": 203, "add_key": 217,
        "request_key": 218, "keyctl": 219, "clone": 220, "execve": 221, "migrate_pages": 238, "move_pages": 239,
        "rt_tgsigqueueinfo": 240, "perf_event_open": 241, "accept4": 242, "prlimit64": 261, "open_by_handle_at": 265,
        "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280, "execveat": 281,
        "userfaultfd": 282,
    }),
}  # fmt: skip
_OWN_ONLY = ("kill", "tgkill", "prlimit64")
"""Allowed on this process alone: its first argument is 0 or our pid (abort and limits of one's own are harmless)."""
_THREADS_ONLY = "clone"
_HIDDEN = "clone3"
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000

# struct sock_filter codes: load a word of seccomp_data, jump on equal / greater-or-equal / bits set, return.
_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER_MODE = 22, 38, 2


def enclose(scratch: Path | None = None) -> bool:
    """Lock this process in, for ever; returns whether files are locked too.

    ``scratch``: the one directory in which files may be written.  Raises SandboxError when the lock cannot be installed
    or does not hold.
    """
    machine = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    if machine is None:
        raise SandboxError(
            f"foreign code is not run on {platform.system()} {platform.machine()}: it cannot be kept off the network",
            "train on a Linux machine (x86_64 or aarch64); this node still routes and aggregates",
        )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise SandboxError(f"the kernel refuses PR_SET_NO_NEW_PRIVS: {os.strerror(ctypes.get_errno())}", _REMEDY)
    files = landlock.restrict(libc, landlock.python_paths(), scratch)
    code = program(machine, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: an unsigned short, then a pointer at its natural alignment.
    packed = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    if libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, packed, 0, 0):
        raise SandboxError(f"the kernel refuses a seccomp filter: {os.strerror(ctypes.get_errno())}", _REMEDY)
    _probe()
    return files


_REMEDY = "allow seccomp filters in the container or kernel; this node still routes and aggregates"


def program(machine: _Machine, pid: int) -> bytes:
    """The BPF program as ``struct sock_filter`` records of 8 bytes.  A foreign instruction set is fatal."""
    calls = dict(machine.calls)
    own = [calls.pop(name) for name in _OWN_ONLY]
    threads, hidden = calls.pop(_THREADS_ONLY), calls.pop(_HIDDEN)
    denied = _ERRNO | errno.EACCES
    code = [
        _op(_LOAD, 0, 0, _ARCH), _op(_EQUAL, 1, 0, machine.audit), _op(_RETURN, 0, 0, _KILL),
        _op(_LOAD, 0, 0, _NUMBER), _op(_AT_LEAST, 0, 1, _X32), _op(_RETURN, 0, 0, denied),
        _op(_EQUAL, 0, 1, hidden), _op(_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        _op(_EQUAL, 0, 4, threads), _op(_LOAD, 0, 0, _ARGUMENT), _op(_BITS, 0, 1, _CLONE_THREAD),
        _op(_RETURN, 0, 0, _ALLOW), _op(_RETURN, 0, 0, denied),
    ]  # fmt: skip
    for number in own:
        code += [
            _op(_EQUAL, 0, 5, number), _op(_LOAD, 0, 0, _ARGUMENT), _op(_EQUAL, 1, 0, 0), _op(_EQUAL, 0, 1, pid),
            _op(_RETURN, 0, 0, _ALLOW), _op(_RETURN, 0, 0, denied),
        ]  # fmt: skip
    for number in sorted(calls.values()):
        code += [_op(_EQUAL, 0, 1, number), _op(_RETURN, 0, 0, denied)]
    return b"".join([*code, _op(_RETURN, 0, 0, _ALLOW)])


def _op(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


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
        return
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    raise SandboxError("the sandbox does not hold: a process could be started", _REMEDY)
