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

from fl.learn import guard, scratch
from fl.learn.ward import Ward

pytestmark = [pytest.mark.net, pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")]


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    directory = tmp_path / "scratch"
    directory.mkdir()
    (connection, far), (announcement, other) = socket.socketpair(), socket.socketpair()
    with connection, far, announcement, other:
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        ward = Ward(process.pid, connection, announcement, directory)
        yield ward
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        ward.close()


def ended(ward: Ward, within: float = 10.0) -> bool:
    descriptor = os.pidfd_open(ward.pid)
    try:
        return bool(select.select([descriptor], [], [], within)[0])
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("too_much", ["threads", "files"])
def test_a_worker_that_takes_too_much_is_ended(
    too_much: str, ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch" / "file").write_bytes(bytes(10_000))
    assert ward.measured
    ward.measure()
    assert not ended(ward, 0.0)
    if too_much == "threads":
        monkeypatch.setattr(guard, "MAX_THREADS", 0)
    else:
        monkeypatch.setattr(scratch, "LIMIT", 4096)
    ward.measure()
    assert ended(ward)


def test_a_worker_that_dies_before_it_is_locked_leaves_nothing_to_hear(ward: Ward) -> None:
    (announcement,) = [one for one, events in ward.watched.items() if events == select.EPOLLIN | select.EPOLLONESHOT]
    before = len(ward.watched)
    os.kill(ward.pid, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "heard", lambda connection: connection.close() or (False, -1))
        assert not ward.happened(announcement, select.EPOLLIN)
    assert len(ward.watched) == before - 1
    assert ward.measured
