"""How many files and connections this process may have open."""

from __future__ import annotations

import contextlib
import resource


def limit() -> int:
    """The limit that is enforced, the soft one."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> int:
    """Use what the system allows: the soft limit becomes the hard one.  Returns it.

    The soft limit is mostly 1024, for the sake of programs that use ``select``; nothing here does.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limit()
