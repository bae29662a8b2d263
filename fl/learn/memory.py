"""What a worker takes of the machine's memory, as it is measured from outside.

No limit of the kernel that needs no privileges counts all of it.  RLIMIT_AS bounds address space, which is private
memory and what is mapped.  What is in a file in memory and not mapped escapes it: the scratch directory, where that is
a tmpfs, and the memory that the daemon lends for a task (:mod:`fl.learn.channel`).  So the three are added up, and
compared with that same limit.  Shared memory without a file could be held by one page of it, seen by neither; the list
of system calls does not let it be made.

What is written into lent memory stays there when the worker has closed and unmapped it, and no file of /proc about the
worker says so.  Only a descriptor of its own tells whoever lends: the daemon measures while a task goes on, and after
it that memory is empty.  The fork server measures at all times, without what is lent.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from .errors import AppError


def limit(pid: int) -> int:
    """Bytes that the process ``pid`` may take, by its RLIMIT_AS; 0 when nothing bounds it or it is gone."""
    try:
        most, _ = resource.prlimit(pid, resource.RLIMIT_AS)
    except OSError:
        return 0
    return 0 if most == resource.RLIM_INFINITY else most


def taken(pid: int, scratch: Path, lent: int = 0) -> int:
    """Bytes of memory that the process ``pid`` takes, its files in memory at ``scratch`` and the ``lent`` ones among
    them; 0 when it is gone."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return 0
    private, mapped = (1024 * int(status.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem"))
    # What is mapped of files in memory is counted with the files.
    return private + max(mapped, lent + _stored(pid, scratch))


def held(descriptors: Iterable[int]) -> int:
    """Bytes of memory in those of our ``descriptors`` that are of anonymous files."""
    found = map(os.fstat, descriptors)
    return sum(512 * status.st_blocks for status in found if status.st_dev == _anonymous())


def exceeded(taken: int, limit: int) -> AppError:
    """Why a worker is ended that has ``taken`` more than ``limit`` bytes."""
    return AppError(
        f"the application took {taken >> 20} MiB of memory, temporary files and its answer included, where it may take "
        f"{limit >> 20}, and was ended",
        "raise memory_mib of [worker], or have it keep less",
    )


def _stored(pid: int, scratch: Path) -> int:
    """Bytes in the file system at ``scratch``, when that is one of its own."""
    with suppress(OSError):
        inside = f"/proc/{pid}/root{scratch}"
        if os.stat(inside).st_dev != os.stat(scratch).st_dev:  # noqa: PTH116 - ``inside`` is no path of ours
            used = os.statvfs(inside)
            return (used.f_blocks - used.f_bfree) * used.f_frsize
    return 0


@cache
def _anonymous() -> int:
    """The device on which all anonymous files of this machine are."""
    descriptor = os.memfd_create("mycelia", os.MFD_CLOEXEC)
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)
