"""A worker that the kernel does not bound, as its fork server sees it."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl.learn import channel, guard, memory, scratch
from fl.learn.ward import Ward

pytestmark = [pytest.mark.net, pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")]


class Watched(Ward):
    """A ward that is reaped once, by the test or after it."""

    reaped = False

    def reap(self) -> None:
        if not self.reaped:
            self.reaped = True
            super().reap()


@pytest.fixture
def daemon() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection: the worker's, the daemon's."""
    connection, far = socket.socketpair()
    with connection, far:
        yield connection, far


@pytest.fixture
def ward(tmp_path: Path, daemon: tuple[socket.socket, socket.socket]) -> Iterator[Ward]:
    directory = tmp_path / "scratch"
    directory.mkdir()
    announcement, other = socket.socketpair()
    with announcement, other:
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        ward = Watched(process.pid, daemon[0], announcement, directory)
        yield ward
        assert process.stdin is not None
        process.stdin.close()
        ward.reap()
        process.wait()


def announcement(ward: Ward) -> int:
    (found,) = [one for one, events in ward.watched.items() if events == select.EPOLLIN | select.EPOLLONESHOT]
    return found


def ended(ward: Ward, within: float = 10.0) -> bool:
    descriptor = os.pidfd_open(ward.pid)
    try:
        return bool(select.select([descriptor], [], [], within)[0])
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("too_much", ["threads", "files", "memory"])
def test_a_worker_that_takes_too_much_is_ended_and_its_daemon_hears_why(
    too_much: str,
    ward: Ward,
    daemon: tuple[socket.socket, socket.socket],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "scratch" / "file").write_bytes(bytes(10_000))
    assert ward.measured
    ward.measure()
    assert not ended(ward, 0.0)
    if too_much == "threads":
        monkeypatch.setattr(guard, "MAX_THREADS", 0)
    elif too_much == "files":
        monkeypatch.setattr(scratch, "LIMIT", 4096)
    else:
        monkeypatch.setattr(memory, "limit", lambda pid: 1 << 30)
        monkeypatch.setattr(memory, "taken", lambda pid, scratch: 1 << 31)
        monkeypatch.setattr(guard, "heard", lambda connection: connection.close() or (True, os.dup(0)))
        ward.happened(announcement(ward), select.EPOLLIN)
        assert ward.measured
    ward.measure()
    assert ended(ward)
    ward.reap()
    frames = channel.Frames(replies=True)
    frames.feed(daemon[1].recv(4096))
    received = frames.next()
    assert received is not None
    sentence = str(received[0].error())
    said = {"threads": "makes threads", "files": "temporary directory", "memory": "2048 MiB of memory"}
    assert said[too_much] in sentence
    assert sentence.endswith("and was ended")


def test_a_worker_that_dies_before_it_is_locked_leaves_nothing_to_hear(ward: Ward) -> None:
    before = len(ward.watched)
    os.kill(ward.pid, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "heard", lambda connection: connection.close() or (False, -1))
        assert not ward.happened(announcement(ward), select.EPOLLIN)
    assert len(ward.watched) == before - 1
    assert ward.measured
