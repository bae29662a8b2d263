"""The daemon's end of a worker's connection, against a worker that is not ours."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest

from fl.learn import channel
from fl.learn.errors import AppError, WorkerLost
from fl.learn.inline import Job
from node.worker_link import LARGE, WorkerProcess

pytestmark = [pytest.mark.net, pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")]

LOG = channel.frame(channel.Log("line"))
Worker = Callable[[socket.socket, list[int]], None]


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def after(worker: Worker, tmp_path: Path, what: Literal["train", "initial"] = "train", *, limit: int = 1000) -> bytes:
    """What the daemon gets from ``worker``, which is called with the connection and the descriptors of one request."""
    path = tmp_path / "fork.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):  # it may be hung up on
            connection.sendall(channel.frame(channel.Hello(os.getpid(), str(tmp_path))))
            _, descriptors, _, _ = socket.recv_fds(connection, 65536, 2)
            try:
                worker(connection, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            while connection.recv(65536):
                pass

    async def ask() -> bytes:
        process = await WorkerProcess.connect(path, 10.0)
        # The process is this very one: hang up, and do not kill it.
        pid, process._process = process._process, -1
        os.close(pid)
        try:
            run = channel.Run(what, Job(1))
            return (await process.ask(run, b"model" if what == "train" else None, limit, lambda line: None))[1]
        finally:
            process.kill()

    thread = threading.Thread(target=serve)
    with listener:
        thread.start()
        try:
            return asyncio.run(ask())
        finally:
            thread.join()


def test_what_fills_the_slot_is_the_answer(tmp_path: Path) -> None:
    def worker(connection: socket.socket, descriptors: list[int]) -> None:
        connection.sendall(channel.frame(channel.Done(1.0, {}, channel.fill(descriptors[1], b"update"))))

    before = open_descriptors()
    assert after(worker, tmp_path) == b"update"
    assert open_descriptors() == before


@pytest.mark.parametrize("kind", ["Log", "Failed", "Done", "half"])
def test_attached_descriptors_never_become_ours_and_end_the_worker(kind: str, tmp_path: Path) -> None:
    frames = {
        "Log": LOG,
        "Failed": channel.frame(channel.Failed("AppError", "no")),
        "Done": channel.frame(channel.Done()),
        "half": LOG[:3],
    }
    memory = [os.memfd_create("leak") for _ in range(200)]

    def worker(connection: socket.socket, descriptors: list[int]) -> None:
        for _ in range(3):
            socket.send_fds(connection, [frames[kind]], memory)

    try:
        before = open_descriptors()
        with pytest.raises(WorkerLost, match="breaks the protocol: more descriptors"):
            after(worker, tmp_path)
        assert open_descriptors() == before
    finally:
        for descriptor in memory:
            os.close(descriptor)


def test_an_answer_that_can_still_change_is_not_what_is_looked_at(tmp_path: Path) -> None:
    kept: list[mmap.mmap] = []

    def worker(connection: socket.socket, descriptors: list[int]) -> None:
        kept.append(mmap.mmap(descriptors[1], 1000))
        kept[0][:] = b"a" * 1000
        connection.sendall(channel.frame(channel.Done(1.0, {}, 1000)))

    assert after(worker, tmp_path) == b"a" * 1000
    kept[0].close()


@pytest.mark.parametrize("size", [1000, LARGE])
def test_copies_of_what_was_lent_are_empty_when_the_answer_is_here(size: int, tmp_path: Path) -> None:
    kept: list[int] = []

    def worker(connection: socket.socket, descriptors: list[int]) -> None:
        kept.extend(map(os.dup, descriptors))
        channel.fill(descriptors[1], bytes(size))
        connection.sendall(channel.frame(channel.Done(1.0, {}, size)))

    assert len(after(worker, tmp_path, limit=size)) == size
    assert [os.fstat(descriptor).st_blocks for descriptor in kept] == [0, 0]
    for descriptor in kept:
        os.close(descriptor)


def test_an_answer_of_another_size_than_it_says_ends_the_worker(tmp_path: Path) -> None:
    def worker(connection: socket.socket, descriptors: list[int]) -> None:
        channel.fill(descriptors[0 if len(descriptors) == 1 else 1], b"four")
        connection.sendall(channel.frame(channel.Done(1.0, {}, 1 << 60)))

    with pytest.raises(WorkerLost, match=f"{1 << 60} bytes announced, 4 came"):
        after(worker, tmp_path)
    (tmp_path / "fork.sock").unlink()
    with pytest.raises(WorkerLost, match=f"{1 << 60} bytes announced, 4 came"):
        after(worker, tmp_path, "initial")


def test_errors_of_user_code_are_told_and_leave_nothing_open(tmp_path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(AppError, match="no"):
        after(lambda connection, _: connection.sendall(channel.frame(channel.Failed("AppError", "no"))), tmp_path)
    assert open_descriptors() == before
