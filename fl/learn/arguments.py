"""For which arguments a worker may make the system calls that are not allowed outright, and why.

Flags and commands are lists like that of the calls themselves (:mod:`fl.learn.syscalls`): what Python, libc, numpy and
torch need is allowed, everything else is denied, so that a flag of a later kernel is denied before anybody here has
heard of it.  A filter sees registers alone; a call that hides what it does in memory is dealt with in the other module.

The kernel takes 32 bits of these arguments, so 32 bits are compared, except of a pointer.
"""

from __future__ import annotations

import fcntl
from typing import NamedTuple

from .syscalls import Machine

_ALL = 0xFFFFFFFF


class Rule(NamedTuple):
    """The call is allowed when ``argument & mask`` is one of ``values``."""

    argument: int
    """Position, from 0."""
    values: tuple[int, ...]
    mask: int = _ALL
    whole: bool = False
    """Whether all 64 bits of it count, as of a pointer.  Only for the value 0."""


def bits(argument: int, allowed: int) -> Rule:
    """No bit but the ``allowed`` ones."""
    return Rule(argument, (0,), _ALL & ~allowed)


# Exactly what pthread_create asks for, in glibc and in musl: a thread, and no new namespace.
_THREAD = (0x3D0F00, 0x7D0F00)
# Duplicates, flags and locks of a descriptor.  Not F_SETOWN, F_SETSIG, F_SETOWN_EX: by these the kernel sends signals
# to other processes, and without an owner O_ASYNC of F_SETFL sends none.  Not F_SETLEASE, F_NOTIFY, F_ADD_SEALS either.
_FCNTL = (
    fcntl.F_DUPFD, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL, fcntl.F_GETLK, fcntl.F_SETLK,
    fcntl.F_SETLKW, fcntl.F_OFD_GETLK, fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW, fcntl.F_DUPFD_CLOEXEC,
    fcntl.F_GETPIPE_SZ,
)  # fmt: skip
# Is it a terminal (TCGETS, TCGETS2), its size (TIOCGWINSZ), bytes to read (FIONREAD), blocking (FIONBIO), close on
# exec.
_IOCTL = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# Name of a thread (set, get), whether core dumps are made, names of mappings (allocators).
_PRCTL = (15, 16, 3, 0x53564D41)
# Which parts of the vector unit may be used: oneDNN asks for AMX.
_ARCH_PRCTL = (0x1021, 0x1022, 0x1023)

# Private memory without a file, a file shared, a file private.  Not shared memory without a file: one page of it holds
# all of it, out of sight of whoever measures, and there is nobody to share it with.
_MAPPED, _KIND = (0x22, 0x01, 0x02), 0x2F
# FIXED, ANONYMOUS, DENYWRITE, EXECUTABLE, NORESERVE, POPULATE, STACK, FIXED_NOREPLACE, and of x86 32BIT.  Not HUGETLB,
# which takes from a pool of the whole machine, LOCKED, GROWSDOWN, SYNC.
_MAP = (0x13 | 0x20 | 0x800 | 0x1000 | 0x4000 | 0x8000 | 0x20000 | 0x100000) | 0x40
# Read, write, execute (oneDNN writes its kernels itself), branch targets of aarch64.
_PROTECTION, _GROWS_DOWN = 0x7 | 0x10, 0x01000000
# How it will be used, and DONTNEED, FREE, huge pages, core dumps, guard pages.  Not MERGEABLE, by which pages of others
# can be felt, REMOVE, PAGEOUT, or what imitates broken memory.
_ADVICE = (0, 1, 2, 3, 4, 8, 14, 15, 16, 17, 102, 103)
# Queries and barriers among its own threads.  GLOBAL waits for, and disturbs, every processor.
_BARRIERS = (0, 8, 16, 32, 64)
# Wait and wake, of private and shared memory, by either clock.  Not those that lend priorities.
_FUTEX, _FUTEX_FLAGS = (0, 1, 3, 4, 5, 9, 10), 0x180
# Real, monotonic, of this process and thread, raw, coarse, boot and TAI.  Negative ones are of other processes.
_CLOCKS = (0, 1, 2, 3, 4, 5, 6, 7, 11)
_CLOSE_ON_EXEC, _NONBLOCK = 0x80000, 0x800
_AT_ANY = 0x100 | 0x800 | 0x1000 | 0x6000
"""No link followed, no automount, an empty path; how fresh."""

# Access mode and O_TRUNC.  Truncating without writing, and the mode that is neither reading nor writing, are not seen
# by Landlock before its third version.
_ACCESS, _TRUNCATE, _CREATE = 0b11, 0x200, 0x40
_READ, _WRITE, _BOTH = 0, 1, 2
_CONFINED = (_READ, _WRITE, _BOTH, _WRITE | _TRUNCATE, _BOTH | _TRUNCATE)
# EXCL, NOCTTY, APPEND, NONBLOCK, CLOEXEC, a file without a name; then DIRECTORY, NOFOLLOW and LARGEFILE, which differ.
# Not PATH, which Landlock does not see, ASYNC, DIRECT, NOATIME.
_OPEN = _ACCESS | _TRUNCATE | _CREATE | 0x80 | 0x100 | 0x400 | _NONBLOCK | _CLOSE_ON_EXEC | 0x400000
_OPEN_OF = (0x10000 | 0x20000 | 0x8000, 0x4000 | 0x8000 | 0x20000)
_NO_SIGNAL, _DONT_WAIT, _RECEIVED_CLOSE_ON_EXEC = 0x4000, 0x40, 0x40000000


def rules(machine: Machine, pid: int, *, confined: bool) -> dict[str, tuple[Rule, ...]]:
    """Of the checked calls, for the process ``pid``.  Without Landlock (not ``confined``) files are opened for reading
    alone."""
    return _memory() | _descriptors() | _paths(machine, confined=confined) | _itself(pid)


def _memory() -> dict[str, tuple[Rule, ...]]:
    return {
        "mmap": (Rule(3, _MAPPED, _KIND), bits(3, _MAP), bits(2, _PROTECTION)),
        "mprotect": (bits(2, _PROTECTION | _GROWS_DOWN),),
        "mremap": (bits(3, 0b11),),  # may move, to there; not leave the old place mapped
        "madvise": (Rule(2, _ADVICE),),
        "membarrier": (Rule(0, _BARRIERS), bits(1, 0)),
        "futex": (Rule(1, _FUTEX, _ALL & ~_FUTEX_FLAGS),),
    }


def _descriptors() -> dict[str, tuple[Rule, ...]]:
    made = _CLOSE_ON_EXEC | _NONBLOCK
    return {
        "fcntl": (Rule(1, _FCNTL),),
        "ioctl": (Rule(1, _IOCTL),),
        # To nobody but whom it is connected to.
        "sendto": (bits(3, _NO_SIGNAL | _DONT_WAIT), Rule(4, (0,), whole=True)),
        "recvmsg": (bits(2, _RECEIVED_CLOSE_ON_EXEC | _DONT_WAIT),),
        "fallocate": (bits(1, 0),),
        "fadvise64": (Rule(3, (0, 1, 2, 3, 5)),),
        "copy_file_range": (bits(5, 0),),
        "close_range": (bits(2, 0x4),),  # on exec; not in a table of descriptors of one thread's own, which none sees
        "dup3": (bits(2, _CLOSE_ON_EXEC),),
        "pipe2": (bits(1, made),),
        "eventfd2": (bits(1, made | 1),),
        "epoll_create1": (bits(0, _CLOSE_ON_EXEC),),
        "timerfd_create": (Rule(0, (0, 1, 7)), bits(1, made)),
        "timerfd_settime": (bits(1, 0b11),),
    }


def _paths(machine: Machine, *, confined: bool) -> dict[str, tuple[Rule, ...]]:
    modes, mask = (_CONFINED, _ACCESS | _TRUNCATE) if confined else ((_READ,), _ACCESS | _TRUNCATE | _CREATE)
    flags = _OPEN | _OPEN_OF[machine.column]
    found: dict[str, tuple[Rule, ...]] = {
        "open": (Rule(1, modes, mask), bits(1, flags)),
        "openat": (Rule(2, modes, mask), bits(2, flags)),
        "newfstatat": (bits(3, _AT_ANY),),
        "statx": (bits(2, _AT_ANY),),
        "faccessat2": (bits(3, _AT_ANY | 0x200),),
    }
    if confined:
        found["unlinkat"] = (bits(2, 0x200),)
        found["renameat2"] = (bits(4, 0x1),)  # replace nothing; not exchange, not leave a device behind
    return found


def _itself(pid: int) -> dict[str, tuple[Rule, ...]]:
    here = (0, pid)
    return {
        "clone": (Rule(0, _THREAD),),
        "prctl": (Rule(0, _PRCTL),),
        "arch_prctl": (Rule(0, _ARCH_PRCTL),),
        "kill": (Rule(0, (pid,)),),
        "tgkill": (Rule(0, (pid,)),),
        "prlimit64": (Rule(0, here),),
        "sched_setaffinity": (Rule(0, here),),
        "setpriority": (Rule(0, (0,)), Rule(1, here)),
        "getpriority": (Rule(0, (0,)), Rule(1, here)),
        "getpgid": (Rule(0, here),),
        "getsid": (Rule(0, here),),
        "getrandom": (bits(2, 0x1),),
        "clock_gettime": (Rule(0, _CLOCKS),),
        "clock_getres": (Rule(0, _CLOCKS),),
        "clock_nanosleep": (Rule(0, _CLOCKS), bits(1, 1)),
    }
