"""Landlock: a process gives up the file system, except for what it names (Linux 5.13, landlock(7)).

Rights are deny-by-default: every right that the running kernel knows is handled, then reading is granted beneath the
directories of the interpreter.  Newer kernels also bind TCP, signals and abstract sockets, which we give up as well.

Versions (ABI) differ, and the filter on system calls (:mod:`fl.learn.syscalls`) covers what one lacks: truncating by
name before 3, devices before 5, signals before 6.  No version confines changes of mode, owner, times or attributes; the
filter denies them everywhere.  Without Landlock it denies all opening for writing, and reading is not confined at all.

What lies below a readable directory is open to every application: an environment's prefix is one, and where Python is
the system's so are the libraries of the system.  Whoever has secrets asks :func:`exposed` first.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""ABI → number of file rights that it knows; later ABIs know as many as the fifth."""
_NET_RIGHTS = 0b11
_SCOPES = 0b11


_SHARED = (Path("/usr"), Path("/usr/local"), Path("/"))
"""Prefixes under which a Python of the system lies among everything else: only their libraries are its own."""
_LIBRARIES = ("lib", "lib64")
# What glibc, OpenMP, oneDNN and joblib ask about the machine, and a process about itself.  Not all of /proc/self, in
# which there are the connections of the machine and its mounts, nor of the control groups, which name all processes.
_SYSTEM = (
    "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/usr/share/locale/locale.alias",
    "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
)  # fmt: skip
_OF_ITSELF = ("maps", "stat", "statm", "status", "cmdline", "comm", "auxv", "fd")


def python_paths() -> list[Path]:
    """What an interpreter reads to import packages: itself, its libraries, ours, and what glibc asks the system."""
    own = Path(__file__).resolve().parents[1]
    base = [path for prefix in (sys.base_prefix, sys.prefix, "/usr", "/usr/local") for path in _below(Path(prefix))]
    base += [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    # The first entry is where the program lies that was started, unless it is left out (safe_path, as in workers).
    imported = sys.path if sys.flags.safe_path else sys.path[1:]
    base += [Path(path) for path in imported if Path(path) not in (Path(), own.parent)]
    base += [own, own.parent / "protocol"]  # in a checkout, the rest of it may be anything
    base += map(Path, _SYSTEM)
    return list(dict.fromkeys([*base, *(Path("/proc/self") / name for name in _OF_ITSELF)]))


def _below(prefix: Path) -> list[Path]:
    return [prefix / name for name in _LIBRARIES] if prefix in _SHARED else [prefix]


def exposed(path: Path, readable: Iterable[Path] | None = None) -> Path | None:
    """The readable directory (of :func:`python_paths`) at or below which ``path`` lies; None when applications cannot
    read it."""
    path = path.resolve()
    for directory in python_paths() if readable is None else readable:
        if path.is_relative_to(directory.resolve()):
            return directory
    return None


def abi(libc: ctypes.CDLL) -> int:
    """Version that the kernel speaks; 0 for none."""
    return max(int(libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION_FLAG)), 0)


_COVERED = {3: "truncation", 5: "devices", 6: "signals"}
"""Version that brings a right → what the filter on system calls covers before it."""


def describe(version: int) -> str:
    """What version ``version`` locks, and what the filter on system calls covers instead."""
    if not version:
        return "no Landlock in this kernel: applications can read this user's files, and change none"
    covered = [what for since, what in _COVERED.items() if version < since]
    return f"files by Landlock {version}" + (f", {' and '.join(covered)} by the list" if covered else "")


def restrict(libc: ctypes.CDLL, version: int, readable: Sequence[Path], writable: Path | None = None) -> bool:
    """Give up all files but those beneath ``readable``, which may be read, and ``writable``, where all is allowed but
    to execute, with the rights of ABI ``version``.  False when that is 0 or the kernel refuses; the process is then as
    before."""
    if not version:
        return False
    files = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    ruleset = struct.pack("<QQQ", files, _NET_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    handle = libc.syscall(_CREATE, ruleset, ctypes.c_size_t(size), 0)
    if handle < 0:
        return False
    try:
        for path in readable:
            _allow(libc, handle, path, _EXECUTE | _READ_FILE | _READ_DIR)
        _allow(libc, handle, Path(os.devnull), _READ_FILE | _WRITE_FILE)
        if writable is not None:
            _allow(libc, handle, writable, files & ~_EXECUTE)
        return not libc.syscall(_RESTRICT, handle, 0)
    finally:
        os.close(handle)


def _allow(libc: ctypes.CDLL, handle: int, path: Path, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this machine, so nothing to allow
    try:
        if not path.is_dir():
            rights &= ~_READ_DIR  # the kernel refuses a directory's right on a file
        rule = struct.pack("<Qi", rights, target)  # packed, as the kernel's struct is
        libc.syscall(_ADD_RULE, handle, _PATH_BENEATH, rule, 0)
    finally:
        os.close(target)
