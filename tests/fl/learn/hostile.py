"""What a hostile application tries, from inside the locks, and whether it came through: a program for the tests.

    python hostile.py DIRECTORY VICTIM NEWEST

DIRECTORY holds ``secret`` (of this user, out of reach), ``library`` (readable) and ``scratch``; VICTIM is a process of
the same user; NEWEST is the version of Landlock not to go beyond.  Prints a JSON object: what was tried → the error, or
``allowed``.  Names that begin with ``honest`` are what an honest application does.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fl.learn import sandbox, syscalls
from tests.fl.learn.test_bpf import DENIED

LIBC = ctypes.CDLL(None, use_errno=True)
Attempts = Iterator[tuple[str, Callable[[], Any]]]


def call(name: str, *arguments: Any) -> None:
    """A system call by name, past whatever libc would check first."""
    number = syscalls.numbers(syscalls.MACHINES[platform.machine()], DENIED | syscalls.CHECKED)[name]
    if LIBC.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def network(listener: socket.socket, pair: socket.socket) -> Attempts:
    yield "tcp", lambda: socket.create_connection(("127.0.0.1", 9))
    yield "udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    yield "unix", lambda: socket.socket(socket.AF_UNIX)
    yield "raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    yield "pair", socket.socketpair
    yield "connect", lambda: listener.connect("/run/some.sock")
    yield "bind", lambda: listener.bind("some.sock")
    yield "io_uring", lambda: call("io_uring_setup", 8, ctypes.create_string_buffer(256))
    yield "pass a descriptor", lambda: socket.send_fds(pair, [b"x"], [0])


def processes(victim: int) -> Attempts:
    yield "fork", os.fork
    yield "vfork", lambda: call("clone", 0x4111, 0, 0, 0, 0)
    yield "exec", lambda: os.execv(sys.executable, [sys.executable, "-c", ""])
    yield "spawn", lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})
    yield "kill", lambda: os.kill(victim, signal.SIGKILL)
    yield "kill a thread of it", lambda: call("tgkill", victim, victim, 9)
    yield "kill a group", lambda: os.killpg(os.getpgid(victim), signal.SIGKILL)
    yield "kill all", lambda: os.kill(-1, 0)
    yield "queue a signal", lambda: call("rt_sigqueueinfo", victim, 9, ctypes.create_string_buffer(128))
    yield "own its descriptors", lambda: fcntl.fcntl(0, fcntl.F_SETOWN, victim)
    yield "own by type", lambda: fcntl.fcntl(0, 15, struct.pack("ii", 1, victim))
    yield "choose the signal", lambda: fcntl.fcntl(0, fcntl.F_SETSIG, int(signal.SIGKILL))
    yield "own by ioctl", lambda: fcntl.ioctl(0, 0x8901, struct.pack("i", victim))
    yield "pidfd", lambda: os.pidfd_open(victim)
    yield "trace", lambda: call("ptrace", 16, victim, 0, 0)
    yield "its memory", lambda: call("process_vm_readv", victim, 0, 0, 0, 0, 0)
    yield "renice", lambda: os.setpriority(os.PRIO_PROCESS, victim, 19)
    yield "renice all", lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19)
    yield "pin", lambda: os.sched_setaffinity(victim, {0})
    yield "idle class", lambda: os.sched_setscheduler(victim, os.SCHED_IDLE, os.sched_param(0))
    yield "disk class", lambda: call("ioprio_set", 1, victim, 3 << 13)
    yield "its limits", lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE, (1, 1))
    yield "new user namespace", lambda: call("unshare", 0x10000000)
    yield "mount", lambda: call("mount", b"none", b".", b"tmpfs", 0, 0)


def flags(pair: socket.socket, victim: int) -> Attempts:
    """Calls that are allowed, with flags and commands that are not."""
    own, buffer, page = pair.fileno(), ctypes.create_string_buffer(4096), mmap.PAGESIZE
    for name, flag in (
        ("out of band", 0x1),
        ("without a copy", 0x4000000),
        ("fast open", 0x20000000),
        ("more", 0x8000),
    ):
        yield f"send {name}", partial(call, "sendto", own, b"x", 1, flag, 0, 0)
    for name, flag in (("out of band", 0x1), ("errors", 0x2000), ("a look", 0x2)):
        yield f"receive {name}", partial(call, "recvmsg", own, buffer, flag | 0x40)
    yield "receive plainly", lambda: call("recvfrom", own, buffer, 1, 0x40, 0, 0)
    yield "shared memory without a file", lambda: mmap.mmap(-1, page)
    for name, flag in (("huge", 0x40022), ("locked", 0x2022), ("growing down", 0x122)):
        yield f"map {name}", partial(call, "mmap", 0, page, 3, flag, -1, 0)
    private = mmap.mmap(-1, page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.addressof(ctypes.c_char.from_buffer(private))
    yield "map twice", lambda: call("mremap", place, page, page, 5, 0)
    for name, advice in (("merge", 12), ("punch", 9), ("page out", 21), ("poison", 100)):
        yield f"advise to {name}", partial(call, "madvise", place, page, advice)
    yield "barrier of all", lambda: call("membarrier", 1, 0, 0)
    yield "lend a priority", lambda: call("futex", buffer, 6, 0, 0, 0, 0)
    yield "wait for many", lambda: call("futex_waitv", buffer, 1, 0, 0, 0)
    yield "locks of another", lambda: call("get_robust_list", victim, buffer, buffer)
    yield "descriptors of one thread", lambda: call("close_range", 250, 251, 2)
    for name, flag in (("packets", 0x4000), ("notifications", 0x80)):
        yield f"pipe of {name}", partial(call, "pipe2", buffer, flag)
    yield "timer that wakes", lambda: call("timerfd_create", 8, 0)
    yield "drain randomness", lambda: call("getrandom", buffer, 1, 2)
    yield "clock of another", lambda: call("clock_gettime", ctypes.c_int(~victim << 3 | 2), buffer)
    yield "group of another", lambda: os.getpgid(victim)
    yield "session of another", lambda: os.getsid(victim)
    yield "priority of another", lambda: os.getpriority(os.PRIO_PROCESS, victim)
    yield "seal", lambda: fcntl.fcntl(own, 1033, 1)
    for name, flag in (("path", os.O_PATH), ("async", 0x2000), ("direct", os.O_DIRECT), ("untimed", os.O_NOATIME)):
        yield f"open {name}", partial(os.open, sys.executable, os.O_RDONLY | flag)
    yield "punch a hole", lambda: call("fallocate", own, 3, 0, page)
    for name, flag in (("exchange", 2), ("leave a device", 4)):
        yield name, partial(call, "renameat2", -100, b"a", -100, b"b", flag)


def changes(file: Path, descriptor: int, attempts: str) -> Attempts:
    """All that changes ``file`` without opening it for writing; ``descriptor`` is of its path."""
    through = f"/proc/self/fd/{descriptor}"
    yield f"chmod {attempts}", lambda: file.chmod(0o777)
    yield f"chmod {attempts} by descriptor", lambda: os.chmod(through, 0o777)  # noqa: PTH101
    yield f"chown {attempts}", lambda: os.chown(file, os.getuid(), os.getgid())
    yield f"times of {attempts}", lambda: os.utime(file, (1, 1))
    yield f"attribute of {attempts}", lambda: os.setxattr(file, "user.x", b"x")
    yield f"truncate {attempts}", lambda: os.truncate(file, 0)
    yield f"truncate {attempts} on reading", lambda: os.open(file, os.O_RDONLY | os.O_TRUNC)
    yield f"truncate {attempts} in no mode", lambda: os.open(file, 3 | os.O_TRUNC)
    yield f"append to {attempts}", lambda: os.open(file, os.O_WRONLY | os.O_APPEND)
    yield f"delete {attempts}", file.unlink
    yield f"move {attempts}", lambda: file.rename(file.with_name("moved"))
    yield f"take {attempts}", lambda: file.rename(Path.cwd() / "taken")
    yield f"link {attempts}", lambda: os.link(file, Path.cwd() / "linked")
    yield f"create beside {attempts}", lambda: file.with_name("new").write_text("x")
    yield f"directory beside {attempts}", file.with_name("newdir").mkdir


def reads(secret: Path, victim: int) -> Attempts:
    yield "read: the secret", secret.read_text
    yield "read: its directory", lambda: list(secret.parent.iterdir())
    yield "read: through a link", lambda: Path("link").symlink_to(secret)
    yield "read: another process", Path(f"/proc/{victim}/environ").read_bytes
    yield "read: the passwords", Path("/etc/passwd").read_bytes
    for path in (
        "/proc/self/net/tcp", "/proc/self/net/unix", f"/proc/self/task/{os.getpid()}/net/tcp", "/proc/self/mountinfo",
        "/proc/self/mounts", "/proc/self/cgroup", "/proc/self/environ", "/proc/self/smaps", "/proc/version",
        "/proc/self/root/etc/passwd", "/proc/self/cwd/../secret",
    ):  # fmt: skip
        yield f"read: {path}", Path(path).read_bytes
    for path in (
        "/",
        "/proc",
        "/proc/self",
        "/usr",
        "/usr/bin",
        "/usr/share",
        "/usr/sbin",
        "/etc",
        "/var",
        "/sys/fs/cgroup",
    ):
        yield f"read: what is in {path}", partial(os.listdir, path)


def memory() -> Attempts:
    yield "memory of no process", lambda: os.memfd_create("x")
    yield "secret memory", lambda: call("memfd_secret", 0)
    yield "shared memory", lambda: Path("/dev/shm/mycelia-hostile").write_text("x")
    yield "segment", lambda: call("shmget", 0, 4096, 0o1600)
    yield "unlock", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))


def honest(scratch: Path) -> Attempts:
    def thread() -> None:
        worker = threading.Thread(target=lambda: None)
        worker.start()
        worker.join()

    def mapped() -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection)[:1] = b"x"

    def shared() -> None:
        with tempfile.TemporaryFile(dir=scratch) as file:
            os.posix_fallocate(file.fileno(), 0, 4096)
            mmap.mmap(file.fileno(), 4096)[:1] = b"x"

    def unnamed() -> None:
        with tempfile.TemporaryFile(dir=scratch) as file:
            file.write(b"x")

    yield "honest: thread", thread
    yield "honest: signal", lambda: os.kill(os.getpid(), 0)
    yield "honest: nice", lambda: os.nice(1)
    yield "honest: affinity", lambda: os.sched_setaffinity(0, os.sched_getaffinity(0))
    yield "honest: kernels", mapped
    yield "honest: clocks", lambda: (time.thread_time(), time.process_time())
    yield "honest file: mapped", shared
    yield "honest: random", lambda: os.urandom(4)
    for path in ("/proc/self/maps", "/proc/self/status", "/proc/cpuinfo", "/proc/meminfo"):
        yield f"honest: {path}", Path(path).read_bytes
    yield "honest: own descriptors", lambda: list(Path("/proc/self/fd").iterdir())
    yield "honest: import", lambda: __import__("xmlrpc.client")
    yield "honest: terminal", lambda: os.isatty(0)
    yield "honest file: null", lambda: Path(os.devnull).write_text("x")
    yield "honest file: unnamed", unnamed
    yield "honest file: directory", lambda: tempfile.TemporaryDirectory(dir=scratch).cleanup()
    yield "honest file: moved", lambda: (scratch / "a").write_text("x") and (scratch / "a").rename(scratch / "b")


def main() -> None:
    directory, victim, newest = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    scratch, secret, library = directory / "scratch", directory / "secret", directory / "library" / "text"
    listener, (pair, _other) = socket.socket(socket.AF_UNIX), socket.socketpair()
    of_secret, of_library = os.open(secret, os.O_PATH), os.open(library, os.O_PATH)
    os.chdir(scratch)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    version = sandbox.enclose(scratch, newest=newest)
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    outcome = {}
    for attempts in (
        network(listener, pair), processes(victim), flags(pair, victim), changes(secret, of_secret, "the secret"),
        changes(library, of_library, "a library"), reads(secret, victim), memory(), honest(scratch),
    ):  # fmt: skip
        for name, attempt in attempts:
            try:
                attempt()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is
                outcome[name] = type(error).__name__
            else:
                outcome[name] = "allowed"
    sets = {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    json.dump({"landlock": version, "capabilities": sets, "outcome": outcome}, sys.stdout)


if __name__ == "__main__":
    main()
