"""The scratch directory of a worker: bounded while it lives, gone when it ends.

Where the kernel lets us, a worker gets a file system of its own there, in memory, of a fixed size, seen by nobody else
and freed with the process: root mounts it, anybody else after entering a user namespace.  Elsewhere (a container or a
service unit that denies namespaces) files go to the disk, and whoever watches over the worker measures them
(:func:`exceeded`).

What a worker keeps and leaves is hostile too: a tree may be deeper than paths can be long, have unreadable directories
and links that lead elsewhere.  So it is walked by descriptors, and what cannot be looked at counts as too much.  A file
without a name is measured through the worker's descriptors; one that is only mapped cannot be, and is too much as well.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LIMIT = 1 << 30
"""Bytes that a worker may keep in files."""
MAX_FILES = 1 << 16
MAX_DEPTH = 64
"""Directories in each other, where they are measured: each takes a descriptor of whoever measures."""
_NEW_NAMESPACE, _NEW_USER = 0x00020000, 0x10000000
_RECURSIVE, _PRIVATE, _NO_SUID, _NO_DEV, _NO_EXEC = 1 << 14, 1 << 18, 1 << 1, 1 << 2, 1 << 3
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DELETED = b" (deleted)"
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
    """Whether files below ``scratch``, and files without a name that process ``pid`` holds, are too large, too many or
    where nobody can measure them."""
    total = files = 0
    try:
        for found in _found(scratch, pid):
            total, files = total + 512 * found.st_blocks, files + 1
            if total > LIMIT or files > MAX_FILES:
                return True
    except (FileNotFoundError, ProcessLookupError):  # the directory is not there yet, or the process no more
        return False
    except OSError:
        return True
    return False


def _found(scratch: Path, pid: int) -> Iterator[os.stat_result]:
    """Raises OSError for what cannot be measured."""
    top = os.open(scratch, _DIRECTORY)
    try:
        device = os.fstat(top).st_dev
        yield from _below(top, 0)
    finally:
        os.close(top)
    # What is mapped before and after its descriptors are listed was mapped in between.
    mapped = _mapped(scratch, pid)
    nameless = {found.st_ino: found for found in _opened(pid) if found.st_dev == device and not found.st_nlink}
    yield from nameless.values()
    if (mapped & _mapped(scratch, pid)) - nameless.keys():
        raise OSError(errno.EFBIG, "a file that is only mapped")


def _below(directory: int, depth: int) -> Iterator[os.stat_result]:
    inner = []
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # deleted meanwhile
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    inner.append(entry.name)
                yield found
    if inner and depth == MAX_DEPTH:
        raise OSError(errno.ENAMETOOLONG, "directories too deep")
    for name in inner:
        try:
            below = os.open(name, _DIRECTORY, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):  # deleted, or something else by now
            continue
        try:
            yield from _below(below, depth + 1)
        finally:
            os.close(below)


def _opened(pid: int) -> Iterator[os.stat_result]:
    """Files that the process holds open."""
    with os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found = entry.stat()
                if stat.S_ISREG(found.st_mode):
                    yield found


def _mapped(scratch: Path, pid: int) -> set[int]:
    """Numbers of the files without a name that were below ``scratch`` and that the process has mapped."""
    below = os.fsencode(scratch.resolve()) + b"/"
    lines = (line.split(None, 5) for line in Path(f"/proc/{pid}/maps").read_bytes().split(b"\n"))
    return {int(line[4]) for line in lines if line[5:] and line[5].startswith(below) and line[5].endswith(_DELETED)}


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
