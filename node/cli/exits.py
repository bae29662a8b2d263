"""What the exit codes of ``mycelia`` mean.  Scripts depend on them: never change or reuse one."""

from __future__ import annotations

from protocol import errors
from protocol.errors import MyceliaError

from ..control import NotRunningError


class RunFailedError(MyceliaError):
    """The application ended otherwise than by finishing its rounds."""

    exit_code = 9


class NobodyLeftError(MyceliaError):
    """No node is left that could train the application: each fails or refuses."""

    exit_code = 10


INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

EXIT_CODES: dict[int, str] = {
    0: "Success.",
    MyceliaError.exit_code: "A bug of ours; the traceback says where.",
    errors.UsageError.exit_code: "The command line, or what it asks for, cannot be.",
    errors.ConfigError.exit_code: "A configuration file, a data binding or the state directory is wrong.",
    errors.TransportError.exit_code: "The network failed; trying again may help.",
    errors.PeerError.exit_code: "Another node refused, or sent what it may not.",
    errors.AggregationError.exit_code: "Updates or models do not fit each other.",
    errors.StorageError.exit_code: "The disk is full, read-only or broken.",
    NotRunningError.exit_code: "No daemon is running for this state directory.",
    RunFailedError.exit_code: "The application was stopped by its owner before it had finished.",
    NobodyLeftError.exit_code: "No node is left that could train the application: each one fails or refuses.",
    INTERRUPTED: "Interrupted with Ctrl-C. What was started goes on in the fabric.",
}


def by_code(code: int) -> type[MyceliaError]:
    """The error that a process which ended with ``code`` would have raised."""
    classes = [
        cls
        for cls in (*vars(errors).values(), NotRunningError, RunFailedError, NobodyLeftError)
        if isinstance(cls, type)
    ]
    return next(
        (cls for cls in classes if issubclass(cls, MyceliaError) and vars(cls).get("exit_code") == code), MyceliaError
    )
