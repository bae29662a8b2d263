"""Which system calls a worker may make, and why: everything else is denied.

The list was found by tracing real training (torch with OpenMP, oneDNN and JIT kernels, numpy, scikit-learn, imports,
temporary files) and reading what libc falls back to.  It is data; :mod:`fl.learn.bpf` makes a filter of it, and
:mod:`fl.learn.sandbox` installs that.

Numbers are (x86_64, aarch64); None where an architecture never had the call.  Calls with flags or commands are allowed
for some of them alone (:mod:`fl.learn.arguments`).  A call that hides its arguments in memory cannot be checked and
does not exist (ENOSYS): libc then makes the older one.  The same holds for calls that are newer than this list.  All
others fail with EPERM.

What is missing is missing on purpose, among it: sockets and io_uring; programs and processes; tracing, and the memory
or descriptors of others (``process_vm_readv``, ``pidfd_getfd``); ``sendmsg``, which passes descriptors, and
``memfd_create``, memory that outlives its owner in them; all that changes the mode, owner, times or attributes of a
file, since no lock of the kernel confines that to a directory; links and device nodes; the scheduling, priority or
affinity of anybody but itself; namespaces, mounts, keys, kernel modules, BPF.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

Numbers = dict[str, tuple[int | None, int | None]]

MEMORY: Numbers = {
    "brk": (12, 214), "munmap": (11, 215), "mincore": (27, 232), "msync": (26, 227), "mlock": (149, 228),
    "munlock": (150, 229),
}  # fmt: skip
"""Its own address space, but for what is checked below."""
OPENED: Numbers = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "fstat": (5, 80),
    "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46), "readahead": (187, 213), "sendfile": (40, 71),
    "flock": (73, 32), "close": (3, 57), "dup": (32, 23), "dup2": (33, None), "pipe": (22, None),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22), "poll": (7, None),
    "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "timerfd_gettime": (287, 87),
}  # fmt: skip
"""Descriptors that it has; opening is checked below, and by Landlock."""
LOOKED_UP: Numbers = {
    "stat": (4, None), "lstat": (6, None), "access": (21, None), "faccessat": (269, 48), "readlink": (89, None),
    "readlinkat": (267, 78), "statfs": (137, 43), "fstatfs": (138, 44), "getdents": (78, None),
    "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "umask": (95, 166),
}  # fmt: skip
"""Paths that are asked for and not changed: imports look for thousands of files."""
CHANGED: Numbers = {
    "creat": (85, None), "unlink": (87, None), "rename": (82, None), "renameat": (264, 38), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None),
}  # fmt: skip
"""Paths that are changed: where Landlock confines that to the scratch directory, and nowhere without it."""
THREADS: Numbers = {
    "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126), "getcpu": (309, 168),
    "exit": (60, 93), "exit_group": (231, 94), "restart_syscall": (219, 128),
}  # fmt: skip
"""Threads and their locks (OpenMP, BLAS, ``threading``); reading, not setting, how they are scheduled."""
SIGNALS: Numbers = {
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, None),
    "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103),
}  # fmt: skip
"""Signals to itself."""
CLOCKS: Numbers = {
    "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153),
    "getrusage": (98, 165),
}  # fmt: skip
"""Time, and its own use of it."""
ITSELF: Numbers = {
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158), "getresuid": (118, 148),
    "getresgid": (120, 150), "getpgrp": (111, None), "uname": (63, 160), "sysinfo": (99, 179), "getrlimit": (97, 163),
    "setrlimit": (160, 164), "wait4": (61, 260), "waitid": (247, 95),
}  # fmt: skip
"""Who and where it is; limits of its own, which only go down."""
CHECKED: Numbers = {
    "futex": (202, 98), "mmap": (9, 222), "mprotect": (10, 226), "madvise": (28, 233), "mremap": (25, 216),
    "openat": (257, 56), "open": (2, None), "newfstatat": (262, 79), "statx": (332, 291), "fcntl": (72, 25),
    "ioctl": (16, 29), "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "sendto": (44, 206), "recvmsg": (47, 212), "faccessat2": (439, 439), "clone": (56, 220), "prctl": (157, 167),
    "arch_prctl": (158, None), "membarrier": (324, 283), "getrandom": (318, 278), "kill": (62, 129),
    "tgkill": (234, 131), "prlimit64": (302, 261), "sched_setaffinity": (203, 122), "setpriority": (141, 140),
    "getpriority": (140, 141), "getpgid": (121, 155), "getsid": (124, 156), "fallocate": (285, 47),
    "fadvise64": (221, 223), "copy_file_range": (326, 285), "close_range": (436, 436), "dup3": (292, 24),
    "pipe2": (293, 59), "eventfd2": (290, 19), "epoll_create1": (291, 20), "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86), "unlinkat": (263, 35), "renameat2": (316, 276),
}  # fmt: skip
"""Allowed for some of their arguments (:func:`fl.learn.arguments.rules`), the commonest first, as a filter compares in
this order.  The one connection to its daemon is among them: a worker may receive descriptors and never send one, so
there is no ``sendmsg``."""
HIDDEN: Numbers = {
    "clone3": (435, 435), "openat2": (437, 437), "epoll_pwait2": (441, 441), "fchmodat2": (452, 452),
    "map_shadow_stack": (453, 453),
}  # fmt: skip
"""What they do is in memory, out of a filter's sight, or they are new and have an older form: ENOSYS."""
NEWEST = 462
"""Beyond it are calls that this list does not know yet: ENOSYS, as on a kernel without them."""


class Machine(NamedTuple):
    """An architecture: its name for the kernel's auditors, its column in the tables."""

    audit: int
    column: int
    first_foreign: int
    """Numbers from here on belong to another calling convention (x32)."""


MACHINES = {
    "x86_64": Machine(0xC000003E, 0, 0x40000000),
    "aarch64": Machine(0xC00000B7, 1, 0x40000000),
}


def allowed(machine: Machine, *, confined: bool) -> Iterator[int]:
    """Numbers of the calls that are allowed whatever their arguments."""
    groups = [MEMORY, OPENED, LOOKED_UP, THREADS, SIGNALS, CLOCKS, ITSELF]
    for group in [*groups, CHANGED] if confined else groups:
        yield from numbers(machine, group).values()


def numbers(machine: Machine, group: Numbers) -> dict[str, int]:
    """The calls of ``group`` that ``machine`` has."""
    found = {name: both[machine.column] for name, both in group.items()}
    return {name: number for name, number in found.items() if number is not None}
