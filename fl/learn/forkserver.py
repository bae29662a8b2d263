"""The fork server: a clean process with torch in its memory, from which workers are forked in milliseconds.

    python -m fl.learn.forkserver SOCKET [--lifeline]

A worker must not be forked from the daemon: gRPC's threads do not survive a fork, and foreign code would inherit keys
in memory.  It should not be exec'ed either: each import of torch takes seconds and 150 MB.  So one small process is
started by exec with an empty environment, imports torch, and forks a worker for each connection to its unix socket;
the workers share its memory until they write.  Several daemons of one machine may share one fork server.

Nothing is exchanged but the connection itself, so nothing is parsed, let alone unpickled.  Only processes of the same
user can connect (mode 0600, and the kernel's word for who they are).  With ``--lifeline`` the server ends when its
standard input does, that is, with whoever started it.

It goes on whatever a worker does: it watches over each from outside (:mod:`fl.learn.ward`), and when the machine has no
process or descriptor left for a new one it hangs up on the daemon that asked, which tries again.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import worker
from .ward import Ward

MAX_WORKERS = 256
WARM_AFTER = 1.0
"""Idle seconds before what most training loops use is imported too."""
MEASURE_EVERY = 1.0
"""Seconds between two looks at workers whose threads and files the kernel does not bound."""
_BACKLOG = 64
_EXHAUSTED_S = 0.05
_FIRST, _MANY = 3, 1 << 20


def spawn(path: Path, stderr: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start a fork server on ``path`` that ends with this process, or when its ``stdin`` is closed."""
    return subprocess.Popen(
        [sys.executable, "-m", "fl.learn.forkserver", str(path), "--lifeline"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env=environment(),
        start_new_session=True,
    )


def environment() -> dict[str, str]:
    """All that workers inherit.  Hashes are fixed because user code may iterate over sets; threads are few because a
    pool that exists before a fork is dead after it."""
    kept = {
        name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ") if name in os.environ
    }
    path = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return (
        kept
        | single
        | {
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(os.pathsep.join(path).split(os.pathsep))),
            "PYTHONSAFEPATH": "1",
            "PYTHONHASHSEED": "0",
        }
    )


def main(arguments: list[str] | None = None) -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m fl.learn.forkserver", description="Fork workers on a unix socket.")
    parser.add_argument("socket", type=Path)
    parser.add_argument("--lifeline", action="store_true", help="end when standard input ends")
    options = parser.parse_args(arguments)
    if sys.flags.hash_randomization or not sys.flags.safe_path:
        # Settled before the first line of a program runs, so run again; the process stays the same.
        command = [sys.executable, "-m", "fl.learn.forkserver", *(arguments or sys.argv[1:])]
        os.execve(sys.executable, command, environment())  # noqa: S606 - ourselves
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = ForkServer(options.socket, lifeline=options.lifeline)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server.run()
    finally:
        server.close()


class ForkServer:
    """Accepts, forks, watches, reaps."""

    def __init__(self, path: Path, *, lifeline: bool) -> None:
        self._path = path
        self._scratch = path.with_name(path.name + ".tmp")
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(mode=0o700)
        self._wards: dict[int, Ward] = {}
        """By each descriptor that is watched for them."""
        self._poll = select.epoll()
        self._listener = _listen(path)
        self._poll.register(self._listener, select.EPOLLIN)
        self._lifeline = sys.stdin.fileno() if lifeline else -1
        if lifeline:
            self._poll.register(self._lifeline, select.EPOLLIN)

    def run(self) -> None:
        """Import torch if it is there, then serve until the lifeline ends."""
        if importlib.util.find_spec("torch") is not None:
            importlib.import_module("torch").set_num_threads(1)
        gc.freeze()  # keeps the collector's marks out of pages that are shared with the workers
        warm = False
        measured = time.monotonic()
        while True:
            tick = any(ward.measured for ward in self._all())
            ready = self._poll.poll(MEASURE_EVERY if tick else None if warm else WARM_AFTER)
            if not ready and not warm:
                _warm()
                warm = True
            if any(descriptor == self._lifeline for descriptor, _ in ready):
                return
            self._turn(ready)
            if tick and time.monotonic() - measured >= MEASURE_EVERY:
                measured = time.monotonic()
                for ward in self._all():
                    if ward.measured:
                        ward.measure()

    def _turn(self, ready: list[tuple[int, int]]) -> None:
        """Deal with what was ready.  A descriptor that is closed in this very turn may be another worker's before the
        turn is over: what is said of it was said of the one that had it when the turn began."""
        concerned = [(self._wards.get(descriptor), descriptor, events) for descriptor, events in ready]
        for ward, descriptor, events in concerned:
            if descriptor == self._listener.fileno():
                self._accept()
            elif ward is not None and self._wards.get(descriptor) is ward:
                self._happened(ward, descriptor, events)

    def close(self) -> None:
        """Workers end with their fork server; their daemons see the connection close."""
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for ward in self._all():
            ward.end()
            self._forget(ward)
            ward.reap()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _all(self) -> list[Ward]:
        return list(dict.fromkeys(self._wards.values()))

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
            with connection:
                if len(self._all()) < MAX_WORKERS and peer_uid(connection) == os.getuid():
                    self._fork(connection)
        except OSError as error:  # no descriptor, no process or no memory left on this machine
            print(f"no worker can be made: {error}", file=sys.stderr, flush=True)  # noqa: T201 - its log
            time.sleep(_EXHAUSTED_S)

    def _fork(self, connection: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    self._become_worker(connection, theirs)
                    status = 0
                finally:
                    if status:
                        traceback.print_exc()
                    os._exit(status)
            try:
                ward = Ward(pid, connection, ours, self._scratch / str(pid))
            except OSError:  # nobody would watch over it
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        self._watch(ward)

    def _become_worker(self, connection: socket.socket, announcement: socket.socket) -> None:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        self._close_all_but(connection.fileno(), announcement.fileno())
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1):
            os.dup2(null, standard)
        os.close(null)
        # The kernel, when memory runs out, is to take the worker and not the daemon.
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
        scratch = self._scratch / str(os.getpid())
        scratch.mkdir(mode=0o700)
        worker.serve(connection, scratch, announcement)

    def _close_all_but(self, *kept: int) -> None:
        """A worker holds its own connection, and nothing of its siblings or of whatever was imported."""
        self._poll.close()
        self._listener.close()
        for ward in self._all():
            ward.close()
        first = _FIRST
        for descriptor in sorted(kept):
            os.closerange(first, descriptor)
            first = descriptor + 1
        os.closerange(first, _MANY)

    def _watch(self, ward: Ward) -> None:
        for descriptor, events in ward.watched.items():
            if descriptor not in self._wards:
                self._poll.register(descriptor, events)
                self._wards[descriptor] = ward

    def _happened(self, ward: Ward, descriptor: int, events: int) -> None:
        before = ward.watched
        if ward.happened(descriptor, events):
            self._forget(ward)
            ward.reap()
            return
        for gone in before.keys() - ward.watched.keys():  # closed, and asked for once only
            del self._wards[gone]
        self._watch(ward)

    def _forget(self, ward: Ward) -> None:
        for descriptor in ward.watched:
            with suppress(OSError):
                self._poll.unregister(descriptor)
            del self._wards[descriptor]


def peer_uid(connection: socket.socket) -> int:
    """User at the other end of a unix connection, by the kernel's word."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """``path`` in a form that fits a socket address, whose 108 bytes a deep state directory exceeds."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with short_address(path) as address:
            listener.bind(address)
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def _warm() -> None:
    """The first optimiser of a process imports half of torch's compiler; do that once, here."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        gc.freeze()


if __name__ == "__main__":
    main()
