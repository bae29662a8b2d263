"""The scratch directory of a worker: bounded while it lives, gone when it ends.

Where the kernel lets us, a worker gets a file system of its own there, in memory, of a fixed size, seen by nobody else
and freed with the process: root mounts it, anybody else after entering a user namespace.  Elsewhere (a container or a
service unit that denies namespaces) files go to the disk, and whoever watches over the worker measures them
(:func:`exceeded`).

What a worker leaves is hostile too: a tree may be deeper than paths can be long, have unreadable directories and links
that lead elsewhere.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LIMIT = 1 << 30
"""Bytes that a worker may keep in files."""
MAX_FILES = 1 << 16
_NEW_NAMESPACE, _NEW_USER = 0x00020000, 0x10000000
_RECURSIVE, _PRIVATE, _NO_SUID, _NO_DEV, _NO_EXEC = 1 << 14, 1 << 18, 1 << 1, 1 << 2, 1 << 3
_MOVED = ".moved-by-mycelia-"


def confine(scratch: Path) -> bool:
    """Mount a file system of bounded size on ``scratch``, for this process alone.  False when that is not allowed.

    Only for a process with one thread.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NAMESPACE) and not _unshared_as_nobody(libc):
        return False
    if libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None):
        return False
    options = f"size={LIMIT},nr_inodes={MAX_FILES},mode=0700".encode()
    return not libc.mount(b"tmpfs", os.fsencode(scratch), b"tmpfs", _NO_SUID | _NO_DEV | _NO_EXEC, options)


def _unshared_as_nobody(libc: ctypes.CDLL) -> bool:
    """A namespace of mounts without privileges: inside a namespace of users, in which we stay who we are."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_NEW_USER):
        return False
    with suppress(OSError):  # mounting fails then
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    return not libc.unshare(_NEW_NAMESPACE)


def exceeded(scratch: Path, pid: int) -> bool:
    """Whether files below ``scratch``, and files without a name that process ``pid`` holds open, are too large or too
    many."""
    total = files = 0
    for found in _found(scratch, pid):
        total, files = total + 512 * found.st_blocks, files + 1
        if total > LIMIT or files > MAX_FILES:
            return True
    return False


def _found(scratch: Path, pid: int) -> Iterator[os.stat_result]:
    waiting = [os.fspath(scratch)]
    while waiting:
        # What is deleted meanwhile is not there, what is too deep to have a path is counted when it is moved up.
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with suppress(OSError):
                found = entry.stat()
                if stat.S_ISREG(found.st_mode) and not found.st_nlink:
                    yield found


def remove(scratch: Path) -> None:
    """Delete the directory with all that is in it, however deep, and follow no link.

    A level at a time: directories of the second level are moved to the first, so that nothing recurses and no path gets
    long.
    """
    numbers = itertools.count()
    with suppress(OSError):
        while entries := _listed(scratch):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    _empty(entry.path, scratch, numbers)
                else:
                    os.unlink(entry.path)  # noqa: PTH108 - an entry, not a path
        scratch.rmdir()


def _empty(directory: str, top: Path, numbers: Iterator[int]) -> None:
    os.chmod(directory, stat.S_IRWXU)  # noqa: PTH101
    for entry in _listed(directory):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, stat.S_IRWXU)  # noqa: PTH101 - to be moved, a directory must be writable
            os.rename(entry.path, top / f"{_MOVED}{next(numbers)}")  # noqa: PTH104
        else:
            os.unlink(entry.path)  # noqa: PTH108
    os.rmdir(directory)  # noqa: PTH106


def _listed(directory: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)
