"""What is counted of a process's memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fl.learn import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")


def test_what_is_lent_counts_though_nobody_maps_it_and_other_files_do_not(tmp_path: Path) -> None:
    size = 64 << 20
    with (tmp_path / "file").open("wb") as file:
        file.write(bytes(1 << 20))
        descriptor = os.memfd_create("kept")
        try:
            os.posix_fallocate(descriptor, 0, size)
            assert memory.held([descriptor, file.fileno()]) == size
            before = memory.taken(os.getpid(), tmp_path)
            assert abs(memory.taken(os.getpid(), tmp_path, size) - before - size) < size // 4
        finally:
            os.close(descriptor)


def test_the_limit_is_that_of_address_space(tmp_path: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        resource.prlimit(other.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert memory.limit(other.pid) == 0
        resource.prlimit(other.pid, resource.RLIMIT_AS, (1 << 31, 1 << 32))
        assert memory.limit(other.pid) == 1 << 31
    assert (memory.limit(other.pid), memory.taken(other.pid, tmp_path)) == (0, 0)
