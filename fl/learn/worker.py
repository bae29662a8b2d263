"""The worker process: one application, one connection, one thing at a time.

The order of events is the security of it.  The process is forked clean, with nothing of the daemon in its memory.  It
reads the node's data, *then* shuts the sandbox for good, and only then sees the first line of foreign code.  It lives
until the daemon closes the connection: a thread watches for that, so that no training outlives its daemon.
"""

from __future__ import annotations

import io
import os
import resource
import select
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fl import bundle as bundles
from fl import spec as specs
from fl.data import loaders
from fl.sdk import outline
from protocol.errors import MyceliaError

from . import channel, importer, sandbox
from .errors import AppError
from .inline import InlineRunner, app_error

LOG_LINES = 1000
"""Lines that one task may log; the rest is dropped, so that a loop that prints cannot fill a disk."""
LINE_LENGTH = 2000
_CHUNK = 65536
_HUNG_UP = getattr(select, "POLLRDHUP", 0x2000)


def serve(connection: socket.socket, scratch: Path) -> None:
    """Answer requests until the daemon hangs up.  ``scratch`` is an empty directory for temporary files."""
    worker = _Worker(connection, scratch)
    threading.Thread(target=_watch, args=(connection,), daemon=True).start()
    worker.send(channel.Hello(os.getpid()))
    frames = channel.Frames(replies=False)
    while True:
        while (received := frames.next()) is None:
            data, descriptors, _, _ = socket.recv_fds(connection, _CHUNK, channel.MAX_PENDING, socket.MSG_CMSG_CLOEXEC)
            if not data:
                return
            frames.feed(data, descriptors)
        worker.handle(*received)


def _watch(connection: socket.socket) -> None:
    """End the process when the other side is gone, also in the middle of a training."""
    poll = select.poll()
    poll.register(connection.fileno(), _HUNG_UP)
    poll.poll()
    os._exit(0)


class _Worker:
    def __init__(self, connection: socket.socket, scratch: Path) -> None:
        self._connection = connection
        self._scratch = scratch
        self._runner: InlineRunner | None = None
        self._schema: Mapping[str, Any] = {}
        self._lines = 0

    def send(self, reply: channel.Reply, content: bytes | None = None) -> None:
        if content is None:
            self._connection.sendall(channel.frame(reply))
            return
        descriptor = channel.sealed(content)
        try:
            data = memoryview(channel.frame(reply, 1))
            sent = socket.send_fds(self._connection, [data], [descriptor])
            self._connection.sendall(data[sent:])
        finally:
            os.close(descriptor)

    def handle(self, request: channel.Open | channel.Run | channel.Declare, descriptor: int | None) -> None:
        """Answer one request.  What user code raises has been made an AppError below."""
        self._lines = 0
        try:
            with nullcontext(memoryview(b"")) if descriptor is None else channel.mapped(descriptor) as content:
                if isinstance(request, channel.Open):
                    self.send(self._open(request, bytes(content)))
                elif isinstance(request, channel.Declare):
                    assert self._runner is not None, "Declare before Open"
                    app = self._runner.app.override(request.settings)
                    self.send(channel.Declared(specs.encode(outline(app))))
                else:
                    self._run(request, content)
        except MyceliaError as error:
            self.send(channel.failed(error))
        except MemoryError:
            self.send(channel.failed(AppError("the worker ran out of memory", "raise memory_mib of [worker]")))

    def _open(self, request: channel.Open, code: bytes) -> channel.Ready:
        os.nice(request.nice)
        if request.memory:
            resource.setrlimit(resource.RLIMIT_AS, (request.memory, request.memory))
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(request.threads)
        data = None if request.binding is None else loaders.load(request.binding, request.schema, request.node)
        bundle = bundles.decode(code)
        tempfile.tempdir = str(self._scratch)
        os.chdir(self._scratch)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        files_locked = sandbox.enclose(self._scratch)
        sys.stdout = sys.stderr = _Lines(self._log)
        try:
            app = importer.load(bundle)
        except MyceliaError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything at all
            raise app_error(f"{bundle.entry}.py", error) from None
        self._runner = InlineRunner(app, data, node=request.node, emit=self._log, threads=request.threads)
        self._schema = request.schema
        return channel.Ready(files_locked, 0 if data is None else len(data.train))

    def _run(self, request: channel.Run, model: memoryview) -> None:
        runner, job = self._runner, request.job
        assert runner is not None, "Run before Open"
        if request.what == "initial":
            self.send(channel.Done(), runner.initial(job.options, job.seed))
        elif request.what == "train":
            update, weight, sums = runner.train(model, job)
            self.send(channel.Done(weight, sums), update)
        elif request.what == "evaluate":
            self.send(channel.Done(metrics=runner.evaluate(model, job)))
        else:
            self.send(channel.Done(metrics=runner.describe(self._schema)))

    def _log(self, text: str) -> None:
        for line in text.splitlines() or [""]:
            self._lines += 1
            if self._lines <= LOG_LINES:
                self.send(channel.Log(line[:LINE_LENGTH]))


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
