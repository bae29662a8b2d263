"""What can go wrong with user code, apart from what the shared error tree has already."""

from __future__ import annotations

from typing import ClassVar

from protocol.errors import MyceliaError, UsageError


class AppError(UsageError):
    """User code raised.  The message is one sentence, ``trace`` the traceback from the first line of user code on."""

    def __init__(self, message: str, remedy: str = "", trace: str = "") -> None:
        super().__init__(message, remedy or "run the file with app.run() under a debugger")
        self.trace = trace


class SandboxError(MyceliaError):
    """This machine cannot lock foreign code in, so it runs none."""

    exit_code: ClassVar[int] = 3


class WorkerLost(MyceliaError):  # noqa: N818 - a fact about a process, and the field's word for it
    """The worker process died, hung or broke the protocol; the next task gets a fresh one."""

    exit_code: ClassVar[int] = 4
