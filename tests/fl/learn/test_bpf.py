"""The filter, interpreted over the whole table of system calls of both architectures."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.learn import bpf, syscalls
from fl.learn.bpf import ALLOW, KILL, NOTIFY, REFUSE

PID = 77
EPERM, ENOSYS = REFUSE | errno.EPERM, REFUSE | errno.ENOSYS
MACHINES = list(syscalls.MACHINES)
DENIED: syscalls.Numbers = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "accept": (43, 202),
    "accept4": (288, 242), "bind": (49, 200), "listen": (50, 201), "sendmsg": (46, 211),
    "sendmmsg": (307, 269), "recvmmsg": (299, 243), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "execve": (59, 221), "execveat": (322, 281), "fork": (57, None),
    "vfork": (58, None), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "kcmp": (312, 272), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241), "bpf": (321, 280), "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444), "personality": (135, 92), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88),
    "futimesat": (261, None), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "truncate": (76, 45), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    "name_to_handle_at": (303, None), "open_by_handle_at": (304, None), "inotify_init1": (294, 26),
    "fanotify_init": (300, 262), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "set_mempolicy": (238, 237), "mount": (165, 40), "umount2": (166, 39), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "swapon": (167, 224), "reboot": (169, 142),
    "sethostname": (170, 161), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "iopl": (172, None),
    "ioperm": (173, None), "modify_ldt": (154, None), "shmget": (29, 194), "shmat": (30, 196),
    "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "mq_notify": (244, 184),
    "timer_create": (222, 107), "setuid": (105, 146), "setgid": (106, 144), "setresuid": (117, 147),
    "setresgid": (119, 149), "setgroups": (116, 159), "setfsuid": (122, 151), "capset": (126, 91),
    "vhangup": (153, 58), "sync": (162, 81), "syncfs": (306, 267), "recvfrom": (45, 207), "shutdown": (48, 210),
    "futex_waitv": (449, 449), "get_robust_list": (274, 100), "capget": (125, 90),
}  # fmt: skip
"""What must not be possible, (x86_64, aarch64): kept apart from the list of what is."""
for_both = pytest.mark.parametrize("name", MACHINES)


def run(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """Interpret the filter as the kernel does: the action for one system call."""
    words = [argument & (1 << 64) - 1 for argument in arguments]
    data = struct.pack("<IIQ6Q", number, audit, 0, *words, *[0] * (6 - len(words)))
    code = [struct.unpack_from("<HBBI", program, offset) for offset in range(0, len(program), 8)]
    at = register = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            assert value % 4 == 0
            register = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x54:
            register &= value
        else:
            at += yes if {0x15: register == value, 0x35: register >= value}[operation] else no


class Filter:
    def __init__(self, name: str, *, confined: bool = True) -> None:
        self.machine = syscalls.MACHINES[name]
        self.program = bpf.program(self.machine, PID, confined=confined)
        self.allowed = set(syscalls.allowed(self.machine, confined=confined))
        self.checked = syscalls.numbers(self.machine, syscalls.CHECKED)
        self.hidden = set(syscalls.numbers(self.machine, syscalls.HIDDEN).values())

    def __call__(self, number: int, *arguments: int) -> int:
        return run(self.program, self.machine.audit, number, *arguments)

    def of(self, name: str, *arguments: int) -> int | None:
        """The action for a checked call; None when this architecture has none of that name."""
        return self(self.checked[name], *arguments) if name in self.checked else None


@for_both
@pytest.mark.parametrize("confined", [True, False])
def test_every_call_that_is_not_listed_is_denied(name: str, confined: bool) -> None:
    filtered = Filter(name, confined=confined)
    assert len(filtered.program) // 8 < 4096
    for number in range(1024):
        if number in filtered.allowed:
            assert filtered(number) == ALLOW
        elif number in filtered.hidden or number > syscalls.NEWEST:
            assert filtered(number, *[1] * 6) == ENOSYS
        elif number not in filtered.checked.values():
            assert filtered(number, *[1] * 6) == EPERM


@for_both
def test_what_must_not_be_possible_is_in_no_list(name: str) -> None:
    filtered = Filter(name)
    listed = filtered.allowed | set(filtered.checked.values())
    denied = syscalls.numbers(filtered.machine, DENIED)
    assert len(denied) > 90
    assert {call for call, number in denied.items() if number in listed} == set()
    assert {filtered(number) for number in denied.values()} == {EPERM}


@for_both
@given(number=st.integers(0, (1 << 32) - 1), arguments=st.lists(st.integers(0, (1 << 64) - 1), min_size=6, max_size=6))
def test_no_arguments_open_what_is_not_listed(name: str, number: int, arguments: list[int]) -> None:
    filtered = Filter(name)
    listed = filtered.allowed | set(filtered.checked.values())
    assert filtered(number, *arguments) != ALLOW or number in listed
    assert (filtered(number, *arguments) == ALLOW) >= (number in filtered.allowed)


@for_both
def test_other_calling_conventions_end_the_process(name: str) -> None:
    filtered = Filter(name)
    foreign = {0x40000003, 0x40000028, 0xC000003E, 0xC00000B7, 0} - {filtered.machine.audit}
    for number in (0, 1, 39, 56, 435):
        assert {run(filtered.program, audit, number) for audit in foreign} == {KILL}
        assert filtered(number | 0x40000000) == KILL


@for_both
@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("fcntl", (3, fcntl.F_GETFL)), ("fcntl", (3, fcntl.F_DUPFD_CLOEXEC)),
        ("ioctl", (3, 0x5401)), ("prctl", (15,)), ("kill", (PID, 0)), ("tgkill", (PID, 99, 6)),
        ("clone", (0x3D0F00,)), ("prlimit64", (0, 7)), ("prlimit64", (PID, 7)), ("sched_setaffinity", (0,)),
        ("setpriority", (0, 0, 19)), ("setpriority", (0, PID, 19)), ("sendto", (3, 4096, 10, 0, 0)),
        ("open", (0, os.O_RDONLY | os.O_CLOEXEC)), ("openat", (0, 0, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)),
    ],
)  # fmt: skip
def test_checked_calls_are_allowed_for_what_training_needs(name: str, call: str, arguments: tuple[int, ...]) -> None:
    assert Filter(name).of(call, *arguments) in (ALLOW, None)


OTHER = 78
HIGH = 1 << 32


@for_both
@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("fcntl", (3, fcntl.F_SETOWN, OTHER)), ("fcntl", (3, 15, OTHER)), ("fcntl", (3, fcntl.F_SETSIG, 9)),
        ("fcntl", (3, fcntl.F_SETLEASE)), ("fcntl", (3, fcntl.F_NOTIFY)), ("fcntl", (3, fcntl.F_SETPIPE_SZ)),
        ("fcntl", (3, fcntl.F_SETOWN | HIGH)), ("fcntl", (3, fcntl.F_ADD_SEALS, 1)), ("getpgid", (OTHER,)),
        ("getsid", (OTHER,)), ("getpriority", (0, OTHER)), ("getpriority", (2, 0)),
        ("ioctl", (3, 0x5412)), ("ioctl", (3, 0x8901)), ("ioctl", (3, 0x8902)), ("ioctl", (3, 0x541C)),
        ("prctl", (1, 9)), ("prctl", (4, 1)), ("prctl", (22, 2)), ("prctl", (35, 1)), ("prctl", (0x59616D61, 1)),
        ("arch_prctl", (0x1002, 0)), ("kill", (OTHER, 9)), ("kill", (0, 9)), ("kill", (-1, 9)), ("kill", (-PID, 9)),
        ("tgkill", (OTHER, PID, 9)), ("prlimit64", (OTHER, 7)), ("sched_setaffinity", (OTHER,)),
        ("setpriority", (0, OTHER)), ("setpriority", (1, 0)), ("setpriority", (2, 0)), ("setpriority", (2, PID)),
        ("clone", (17,)), ("clone", (0,)), ("clone", (0x4111,)), ("clone", (0x3D0F00 | 0x10000000,)),
        ("clone", (0x3D0F00 | 0x20000,)), ("clone", (0x10F00,)), ("clone", (0x01200011,)),
        ("sendto", (3, 4096, 10, 0, 4096)), ("sendto", (3, 4096, 10, 0, HIGH)),
        ("open", (0, os.O_TRUNC)), ("open", (0, 3)), ("openat", (0, 0, 3 | os.O_TRUNC)),
        ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC)), ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC | os.O_CREAT)),
    ],
)  # fmt: skip
def test_checked_calls_are_denied_for_anybody_else(name: str, call: str, arguments: tuple[int, ...]) -> None:
    assert Filter(name).of(call, *arguments) in (EPERM, None)


FLAGS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "sendto": (3, 0x4040, ()), "recvmsg": (2, 0x40000040, ()), "mprotect": (2, 0x01000017, ()), "mremap": (3, 0b11, ()),
    "mmap": (2, 0x17, (0, 0, 0, 0x22)), "fallocate": (1, 0, ()), "copy_file_range": (5, 0, ()),
    "close_range": (2, 0x4, ()), "dup3": (2, 0x80000, ()), "pipe2": (1, 0x80800, ()), "eventfd2": (1, 0x80801, ()),
    "epoll_create1": (0, 0x80000, ()), "timerfd_create": (1, 0x80800, ()), "timerfd_settime": (1, 0b11, ()),
    "newfstatat": (3, 0x7900, ()), "statx": (2, 0x7900, ()), "faccessat2": (3, 0x7B00, ()), "unlinkat": (2, 0x200, ()),
    "renameat2": (4, 0x1, ()), "getrandom": (2, 0x1, ()), "membarrier": (1, 0, ()), "clock_nanosleep": (1, 1, ()),
}  # fmt: skip
"""Call → position of its flags, those that are allowed, its other arguments.  Kept apart from the rules."""
COMMANDS: dict[str, tuple[int, set[int], tuple[int, ...]]] = {
    "madvise": (2, {0, 1, 2, 3, 4, 8, 14, 15, 16, 17, 102, 103}, ()), "membarrier": (0, {0, 8, 16, 32, 64}, ()),
    "futex": (1, {one | two for one in (0, 1, 3, 4, 5, 9, 10) for two in (0, 0x80, 0x100, 0x180)}, ()),
    "clock_gettime": (0, {0, 1, 2, 3, 4, 5, 6, 7, 11}, ()), "clock_getres": (0, {0, 1, 2, 3, 4, 5, 6, 7, 11}, ()),
    "clock_nanosleep": (0, {0, 1, 2, 3, 4, 5, 6, 7, 11}, ()), "timerfd_create": (0, {0, 1, 7}, ()),
    "fadvise64": (3, {0, 1, 2, 3, 5}, ()),
}  # fmt: skip


def placed(position: int, value: int, others: tuple[int, ...]) -> list[int]:
    arguments = [*others, *[0] * (6 - len(others))]
    arguments[position] = value
    return arguments


@for_both
@pytest.mark.parametrize("call", FLAGS)
def test_no_flag_is_allowed_but_those_that_are_needed(name: str, call: str) -> None:
    position, needed, others = FLAGS[call]
    filtered = Filter(name)
    for flag in (0, *(1 << bit for bit in range(32))):
        allowed = filtered.of(call, *placed(position, flag, others)) == ALLOW
        assert allowed == (flag & ~needed == 0), hex(flag)


@for_both
@pytest.mark.parametrize("call", COMMANDS)
def test_no_command_is_allowed_but_those_that_are_needed(name: str, call: str) -> None:
    position, needed, others = COMMANDS[call]
    filtered = Filter(name)
    found = {value for value in range(-9, 600) if filtered.of(call, *placed(position, value, others)) == ALLOW}
    assert found == needed


@for_both
def test_memory_is_mapped_privately_or_from_a_file(name: str) -> None:
    filtered = Filter(name)
    for flags in (0x22, 0x01, 0x02, 0x20022, 0x4022, 0x12, 0x802, 0x100022):
        assert filtered.of("mmap", 0, 4096, 7, flags) == ALLOW
    for flags in (0x21, 0x23, 0x03, 0, 0x20, 0x28, 0x40022, 0x2022, 0x122, 0x80001):
        assert filtered.of("mmap", 0, 4096, 7, flags) == EPERM


@for_both
def test_files_are_opened_in_no_unusual_way(name: str) -> None:
    filtered = Filter(name)
    directory = {"x86_64": 0x10000, "aarch64": 0x4000}[name]
    direct = {"x86_64": 0x4000, "aarch64": 0x10000}[name]
    for flags in (directory, 0x400000 | directory | os.O_RDWR, os.O_NONBLOCK, os.O_WRONLY | os.O_APPEND | os.O_EXCL):
        assert filtered.of("openat", 0, 0, flags) == ALLOW
    for flags in (os.O_PATH, 0x2000, direct, 0x40000, 0x1000, 1 << 23, 1 << 31):
        assert filtered.of("openat", 0, 0, flags) == EPERM
        assert filtered.of("open", 0, flags) in (EPERM, None)


@for_both
def test_without_landlock_nothing_is_opened_for_writing(name: str) -> None:
    filtered = Filter(name, confined=False)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, 3, os.O_WRONLY | os.O_APPEND):
        assert filtered.of("openat", 0, 0, flags) == EPERM
    assert filtered.of("openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOW
    for number in syscalls.numbers(filtered.machine, syscalls.CHANGED).values():
        assert filtered(number) == EPERM
    assert {filtered.of("unlinkat"), filtered.of("renameat2")} == {EPERM}


@for_both
def test_the_notifier_asks_about_threads_alone(name: str) -> None:
    machine = syscalls.MACHINES[name]
    program = bpf.notifier(machine, "clone")
    clone = syscalls.numbers(machine, syscalls.CHECKED)["clone"]
    assert {run(program, machine.audit, number) for number in range(500) if number != clone} == {ALLOW}
    assert run(program, machine.audit, clone) == NOTIFY
