"""What a worker leaves on the disk is measured and removed, however it is made."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from fl.learn import scratch


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "LIMIT", 1 << 20)
    monkeypatch.setattr(scratch, "MAX_FILES", 100)


def write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))


@pytest.mark.usefixtures("small")
def test_bytes_and_files_are_counted_below_any_directory(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "c", 600_000)
    assert not scratch.exceeded(tmp_path, os.getpid())
    write(tmp_path / "a" / "d", 600_000)
    assert scratch.exceeded(tmp_path, os.getpid())
    (tmp_path / "a" / "d").unlink()
    for number in range(101):
        (tmp_path / "a" / str(number)).touch()
    assert scratch.exceeded(tmp_path, os.getpid())


@pytest.mark.usefixtures("small")
def test_files_without_a_name_are_counted_while_they_are_open(tmp_path: Path) -> None:
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(bytes(2 << 20))
        file.flush()
        assert scratch.exceeded(tmp_path, os.getpid())
    assert not scratch.exceeded(tmp_path, os.getpid())


def map_page(descriptor: int) -> int:
    """Map a page of a file without a copy of its descriptor, which ``mmap`` of Python would keep."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return int(libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0))


@pytest.mark.usefixtures("small")
def test_a_file_that_is_neither_named_nor_open_but_mapped_is_too_much(tmp_path: Path) -> None:
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(bytes(mmap.PAGESIZE))
        file.flush()
        address = map_page(file.fileno())
        assert not scratch.exceeded(tmp_path, os.getpid())  # it can be measured
    assert scratch.exceeded(tmp_path, os.getpid())
    libc = ctypes.CDLL(None)
    libc.munmap(ctypes.c_void_p(address), mmap.PAGESIZE)
    assert not scratch.exceeded(tmp_path, os.getpid())


@pytest.mark.usefixtures("small")
def test_mapping_a_temporary_file_as_numpy_does_is_no_offence(tmp_path: Path) -> None:
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(bytes(mmap.PAGESIZE))
        file.flush()
        mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)
    assert not scratch.exceeded(tmp_path, os.getpid())
    mapped.close()


@pytest.mark.usefixtures("small")
def test_what_is_deeper_than_paths_are_long_is_counted(tmp_path: Path) -> None:
    top = tmp_path / "scratch"
    top.mkdir()
    with contextlib.chdir(top):
        for _ in range(20):
            Path("d" * 250).mkdir()
            os.chdir("d" * 250)
        Path("file").write_bytes(bytes(600_000))
        assert not scratch.exceeded(top, os.getpid())
        Path("other").write_bytes(bytes(600_000))
        assert scratch.exceeded(top, os.getpid())
    scratch.remove(top)


def test_a_tree_that_would_take_a_descriptor_for_each_of_many_levels_is_too_much(tmp_path: Path) -> None:
    deep = Path(*["d"] * scratch.MAX_DEPTH)
    (tmp_path / deep).mkdir(parents=True)
    assert not scratch.exceeded(tmp_path, os.getpid())
    (tmp_path / deep / "d").mkdir()
    assert scratch.exceeded(tmp_path, os.getpid())


def test_a_directory_that_cannot_be_listed_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    listed = os.scandir

    def refuse(directory: int | str) -> Any:
        """As root is refused nothing."""
        if isinstance(directory, int) and Path(f"/proc/self/fd/{directory}").readlink().name == "shut":
            raise PermissionError(errno.EACCES, "shut")
        return listed(directory)

    assert not scratch.exceeded(tmp_path, os.getpid())
    monkeypatch.setattr(os, "scandir", refuse)
    assert scratch.exceeded(tmp_path, os.getpid())


@pytest.mark.usefixtures("small")
def test_memory_that_is_lent_is_no_file_on_the_disk(tmp_path: Path) -> None:
    descriptor = os.memfd_create("lent")
    try:
        os.posix_fallocate(descriptor, 0, 2 << 20)
        assert not scratch.exceeded(tmp_path, os.getpid())
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("small")
def test_what_links_lead_to_is_not_counted(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", 2 << 20)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "scratch" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert not scratch.exceeded(tmp_path / "scratch", os.getpid())


def test_what_is_hostile_to_removal_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    kept, top = tmp_path / "kept", tmp_path / "scratch"
    write(kept / "file", 10)
    top.mkdir()
    (top / "link").symlink_to(kept, target_is_directory=True)
    with contextlib.chdir(top):
        for _ in range(3000):  # deeper than recursion goes, and than a path can be long
            Path("deep-directory").mkdir()
            os.chdir("deep-directory")
    write(top / "shut" / "inner" / "file", 10)
    (top / "shut" / "inner").chmod(0)
    (top / "shut").chmod(0)
    scratch.remove(top)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert (kept / "file").read_bytes() == bytes(10)
