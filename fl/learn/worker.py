"""The worker process: one application, one connection, one thing at a time.

The order of events is the security of it.  The process is forked clean, with nothing of the daemon in its memory and
one thread.  It reads the node's data, *then* shuts the sandbox for good, and only then sees the first line of foreign
code. It lives until the daemon closes the connection: the fork server watches for that (:mod:`fl.learn.ward`), so that
no training outlives its daemon, and the kernel ends it with the fork server.
"""

from __future__ import annotations

import ctypes
import io
import os
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl import bundle as bundles
from fl import spec as specs
from fl.data import loaders
from fl.sdk import outline
from protocol.errors import MyceliaError

from . import channel, guard, importer, sandbox, scratch
from .errors import AppError
from .inline import InlineRunner, app_error

LOG_LINES = 1000
"""Lines that one task may log; the rest is dropped, so that a loop that prints cannot fill a disk."""
LINE_LENGTH = 2000
MAX_OPEN = 256
"""Descriptors of a worker: a training needs a few, and the memory behind each slot that it keeps is the model's."""
_CHUNK = 65536
_PR_SET_PDEATHSIG = 1


def serve(connection: socket.socket, directory: Path, announcement: socket.socket) -> None:
    """Answer requests until the daemon hangs up.

    ``directory`` is empty, for temporary files; ``announcement`` leads to the fork server (``guard.announce``).
    """
    worker = _Worker(connection, directory, announcement)
    worker.send(channel.Hello(os.getpid(), str(directory)))
    frames = channel.Frames(replies=False)
    while True:
        while (received := frames.next()) is None:
            data, descriptors, flags, _ = socket.recv_fds(
                connection, _CHUNK, channel.MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
            if not data:
                return
            frames.feed(data, descriptors, truncated=bool(flags & socket.MSG_CTRUNC))
        worker.handle(*received)


class _Worker:
    def __init__(self, connection: socket.socket, directory: Path, announcement: socket.socket) -> None:
        self._connection = connection
        self._directory = directory
        self._announcement = announcement
        self._runner: InlineRunner | None = None
        self._schema: Mapping[str, Any] = {}
        self._lines = 0

    def send(self, reply: channel.Reply) -> None:
        self._connection.sendall(channel.frame(reply))

    def handle(self, request: channel.Open | channel.Run | channel.Declare, descriptors: list[int]) -> None:
        """Answer one request.  What user code raises has been made an AppError below."""
        self._lines = 0
        try:
            if isinstance(request, channel.Open):
                with channel.mapped(descriptors[0]) as code:
                    bundle = bytes(code)
                self.send(self._open(request, bundle))
            elif isinstance(request, channel.Declare):
                assert self._runner is not None, "Declare before Open"
                app = self._runner.app.override(request.settings)
                self.send(channel.Declared(specs.encode(outline(app))))
            else:
                self.send(self._run(request, descriptors))
        except MyceliaError as error:
            self.send(channel.failed(error))
        except MemoryError:
            self.send(channel.failed(AppError("the worker ran out of memory", "raise memory_mib of [worker]")))

    def _open(self, request: channel.Open, code: bytes) -> channel.Ready:
        os.nice(request.nice)
        if request.memory:
            resource.setrlimit(resource.RLIMIT_AS, (request.memory, request.memory))
        data = None if request.binding is None else loaders.load(request.binding, request.schema, request.node)
        bundle = bundles.decode(code)
        version = self._lock(request)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(request.threads)
        sys.stdout = sys.stderr = _Lines(self._log)
        try:
            app = importer.load(bundle)
        except MyceliaError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything at all
            raise app_error(f"{bundle.entry}.py", error) from None
        self._runner = InlineRunner(app, data, node=request.node, emit=self._log, threads=request.threads)
        self._schema = request.schema
        return channel.Ready(version, 0 if data is None else len(data.train))

    def _lock(self, request: channel.Open) -> int:
        """Shut the sandbox; the version of Landlock in it.  Raises SandboxError."""
        bounded = scratch.confine(self._directory)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        tempfile.tempdir = str(self._directory)
        os.chdir(self._directory)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN, MAX_OPEN))
        return sandbox.enclose(
            self._directory,
            private=[Path(path) for path in request.private],
            guard=lambda libc, machine: guard.announce(
                self._announcement, guard.listen(libc, machine), bounded=bounded
            ),
        )

    def _run(self, request: channel.Run, descriptors: list[int]) -> channel.Done:
        """Call user code, with what came along: the model, the slot for the answer."""
        runner, job, what = self._runner, request.job, request.what
        assert runner is not None, "Run before Open"
        if what == "describe":
            return channel.Done(metrics=runner.describe(self._schema))
        if what == "initial":
            (slot,) = descriptors
            return channel.Done(size=_filled(slot, runner.initial(job.options, job.seed)))
        with channel.mapped(descriptors[0]) as model:
            if what == "evaluate":
                return channel.Done(metrics=runner.evaluate(model, job))
            try:
                update, weight, sums = runner.train(model, job)
            except BaseException:
                os.close(descriptors[1])
                raise
            return channel.Done(weight, sums, _filled(descriptors[1], update))

    def _log(self, text: str) -> None:
        for line in text.splitlines() or [""]:
            self._lines += 1
            if self._lines <= LOG_LINES:
                self.send(channel.Log(line[:LINE_LENGTH]))


def _filled(slot: int, content: bytes) -> int:
    try:
        return channel.fill(slot, content)
    finally:
        os.close(slot)


class _Lines(io.TextIOBase):
    """Where ``print`` goes: whole lines to the node's log."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        self._rest = self._rest[-LINE_LENGTH:]
        for line in lines:
            self._log(line)
        return len(text)
