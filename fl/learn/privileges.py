"""Capabilities: the pieces of root's power (capabilities(7)), given up by a process for good.

A worker of a daemon that runs as root would otherwise keep them all, and with them the right to change files of others
and to be counted in no limit.  Five sets are emptied: ambient and inheritable (what programs that it starts would get),
bounding (what they could ever get), effective and permitted (what it has).  The secure bits say that user id 0 means
nothing special any more, and are locked.  With no_new_privs nothing brings any of it back.
"""

from __future__ import annotations

import ctypes
import os
import struct

from .errors import SandboxError

_CAPBSET_READ, _CAPBSET_DROP, _SET_SECUREBITS, _SET_NO_NEW_PRIVS, _AMBIENT = 23, 24, 28, 38, 47
_CLEAR_ALL = 4
# NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, each with its lock; and the lock alone of KEEP_CAPS.
_SECURE = 0b11101111
_VERSION = 0x20080522
_SETS = 6  # effective, permitted, inheritable, of 32 capabilities, twice
_MOST = 64


def drop(libc: ctypes.CDLL) -> None:
    """Give all up.  Raises SandboxError when any is left."""
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise SandboxError(f"the kernel refuses PR_SET_NO_NEW_PRIVS: {os.strerror(ctypes.get_errno())}")
    libc.prctl(_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    # A process without CAP_SETPCAP may change neither of the next two; it has nothing that they would bound.
    for capability in range(_MOST):
        if libc.prctl(_CAPBSET_READ, capability, 0, 0, 0) == 1:
            libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(_SET_SECUREBITS, _SECURE, 0, 0, 0)
    header = struct.pack("Ii", _VERSION, 0)
    libc.capset(header, bytes(4 * _SETS))
    left = ctypes.create_string_buffer(4 * _SETS)
    if libc.capget(header, left) or any(left.raw):
        raise SandboxError("capabilities are left that could not be given up", "run the daemon as an ordinary user")
