"""The one error tree, split by blame (the h11 rule).

``UsageError`` and ``ConfigError`` are ours or our user's; ``PeerError`` is somebody else's and carries the code
under which it is counted; ``TransportError`` is nobody's.  Machines never raise on what a peer sends: they
answer with a ``Penalize`` effect.  Codecs raise ``PeerError`` and their caller turns it into the penalty.
"""

from __future__ import annotations

import enum
from typing import ClassVar


@enum.unique
class Code(enum.IntEnum):
    """Why a peer was counted against.  Numbers travel in metrics; never reuse one."""

    MALFORMED = 1
    """Bytes that are not a frame, or a body that does not match its type."""
    OVERSIZE = 2
    """A frame or a field beyond its limit."""
    VERSION = 3
    """An envelope of a version that we do not speak."""
    UNKNOWN_KIND = 4
    """A message type that we do not know: ignored, so that newer peers can talk to older ones."""
    BAD_SIGNATURE = 5
    UNAUTHORISED = 6
    """The sender may not say this: not our parent, not a voter, not the owner."""
    NON_FINITE = 7
    """An update with NaN or infinity."""
    BAD_DIGEST = 8
    """Content that does not hash to its name."""
    UNEXPECTED = 9
    """A message for which nothing was asked."""
    OVERLAP = 10
    """A partial whose contributors were already counted."""
    FLOOD = 11
    """More than a bounded table takes."""
    EXPIRED = 12
    REVOKED = 13


class MyceliaError(Exception):
    """Root of the tree.  ``remedy`` is the next step, in one sentence, for a person."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class ConfigError(MyceliaError):
    """A configuration key, file or state directory is wrong."""

    exit_code = 3


class UsageError(MyceliaError):
    """The caller of an API or of the command line asked for something that cannot be."""

    exit_code = 2


class PeerError(MyceliaError):
    """A peer did something that it may not."""

    exit_code = 5
    code: ClassVar[Code] = Code.MALFORMED


class CodecError(PeerError):
    code = Code.MALFORMED


class LimitError(PeerError):
    code = Code.OVERSIZE


class VersionError(PeerError):
    code = Code.VERSION


class UnknownKindError(PeerError):
    code = Code.UNKNOWN_KIND


class AuthError(PeerError):
    code = Code.BAD_SIGNATURE


class TransportError(MyceliaError):
    """The network failed us; nobody is to blame and a retry may help."""

    exit_code = 4


class StorageError(MyceliaError):
    """The disk failed us: full, read-only or broken.  What was to be written is not there, not even in part."""

    exit_code = 7


class AggregationError(MyceliaError):
    """Updates that cannot be combined: shapes or types differ, or nothing is left to combine."""

    exit_code = 6
