"""What a worker may take, tried by hostile applications in real workers; and that its fork server outlives them."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fl import bundle, codec
from fl.data.binding import Binding
from fl.learn import channel, forkserver, guard, scratch
from fl.learn.errors import AppError, WorkerLost
from node.config import WorkerSection
from node.workers import WorkerPool
from protocol.errors import ConfigError
from tests.node.pools import task, with_pool

pytestmark = [pytest.mark.net, pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")]

MODEL = codec.encode({"w": np.zeros(4)})

GREEDY = """
import ctypes, os, tempfile, threading
import numpy as np
import fl

kept = []
never = threading.Event()

def model():
    return {"w": np.zeros(4)}

def threads(stubborn):
    started = 0
    for _ in range(3000):
        try:
            threading.Thread(target=never.wait, daemon=True).start()
            started += 1
        except RuntimeError:
            if not stubborn:
                break
    return started

def storm():
    libc, ready = ctypes.CDLL(None), threading.Barrier(240)
    def several():
        ready.wait()
        for _ in range(3):
            libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, libc.pause, None)
        done.release()
        never.wait()
    done = threading.Semaphore(0)
    for _ in range(240):
        threading.Thread(target=several, daemon=True).start()
    for _ in range(240):
        done.acquire()

def files(size):
    written = 0
    with tempfile.TemporaryFile() as file:
        try:
            while written < size:
                written += file.write(bytes(1 << 24))
                file.flush()
        except OSError:
            pass
    return written

def descriptors():
    try:
        while len(kept) < 5000:
            kept.append(os.pipe())
    except OSError:
        pass
    return 2 * len(kept)

def hoard():
    for descriptor in range(3, 64):
        try:
            if size := descriptor not in kept and os.fstat(descriptor).st_size:
                kept.append(os.dup(descriptor))
                os.pwrite(descriptor, bytes(size), 0)
        except OSError:
            pass

def train(model, data, ctx):
    what = ctx.get("what", "")
    if what == "hoard":
        hoard()
    if what == "storm":
        storm()
    if what == "threads":
        return {"got": threads(False)}
    if what == "stubborn":
        threads(True)
    if what == "files":
        return {"got": files(3 << 30)}
    if what == "descriptors":
        return {"got": descriptors()}
    if what == "memory":
        kept.append(np.ones(1 << 31))
    if what == "thread":
        threading.Thread(target=never.wait, daemon=True).start()
    return {"pid": os.getpid()}

app = fl.App(name="greedy", model=model, train=train)
"""


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("app") / "greedy.py"
    path.write_text(GREEDY)
    return bundle.pack(path)


@pytest.fixture(scope="module")
def hoarder(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same with a model of 4 MiB."""
    path = tmp_path_factory.mktemp("app") / "hoarder.py"
    path.write_text(GREEDY.replace("np.zeros(4)", "np.zeros(1 << 20)"))
    return bundle.pack(path)


async def measured(pool: WorkerPool, greedy: bytes, what: str, name: str = "got", model: bytes = MODEL) -> int:
    _, weight, metrics = await pool.train(task(what), model, greedy)
    return round(metrics[f"train_{name}"] / weight)


def ended(pid: int) -> bool:
    """Whether the process is gone within ten seconds."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 10.0)[0])
    finally:
        os.close(watched)


def test_a_worker_has_few_threads_and_its_fork_server_forks_on(
    fork_server: Path, tmp_path: Path, greedy: bytes
) -> None:
    async def body(pool: WorkerPool) -> None:
        got = await measured(pool, greedy, "threads")
        assert guard.MAX_THREADS // 2 < got <= guard.MAX_THREADS
        with pytest.raises(AppError, match="makes threads beyond the 256 that it may have, and was ended"):
            await pool.train(task("stubborn"), MODEL, greedy)
        assert await measured(pool, greedy, "", "pid") > 0

    with_pool(body, fork_server, tmp_path)


def test_threads_that_are_made_at_the_same_instant_are_not_more(
    fork_server: Path, tmp_path: Path, greedy: bytes
) -> None:
    async def body(pool: WorkerPool) -> None:
        pid = await measured(pool, greedy, "storm", "pid")
        assert 240 < len(guard.threads(pid)) <= guard.MAX_THREADS

    with_pool(body, fork_server, tmp_path)


@pytest.mark.slow
def test_a_worker_keeps_little_in_files_and_none_of_it_stays(fork_server: Path, tmp_path: Path, greedy: bytes) -> None:
    async def body(pool: WorkerPool) -> None:
        with suppress(AppError):  # where no file system of a fixed size can be mounted, it is ended for it
            assert await measured(pool, greedy, "files") <= scratch.LIMIT + (1 << 24)
        assert await measured(pool, greedy, "", "pid") > 0

    with_pool(body, fork_server, tmp_path)


def test_a_worker_opens_few_descriptors(fork_server: Path, tmp_path: Path, greedy: bytes) -> None:
    async def body(pool: WorkerPool) -> None:
        assert await measured(pool, greedy, "descriptors") <= 256
        # It keeps them all, so the next request finds no room for its model.
        with pytest.raises(WorkerLost):
            await pool.train(task(""), MODEL, greedy)
        assert await measured(pool, greedy, "", "pid") > 0

    with_pool(body, fork_server, tmp_path)


def test_a_worker_stays_within_its_memory(fork_server: Path, tmp_path: Path, greedy: bytes) -> None:
    async def body(pool: WorkerPool) -> None:
        with pytest.raises(AppError, match="MemoryError"):
            await pool.train(task("memory"), MODEL, greedy)

    with_pool(body, fork_server, tmp_path, memory_mib=8192)


def test_memory_that_was_lent_to_a_worker_does_not_stay_whatever_it_keeps(
    fork_server: Path, tmp_path: Path, hoarder: bytes
) -> None:
    large = codec.encode({"w": np.zeros(1 << 20)})

    async def body(pool: WorkerPool) -> None:
        pids = [await measured(pool, hoarder, "hoard", "pid", large) for _ in range(4)]
        (pid,) = set(pids)
        kept = [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]  # noqa: PTH208 - no disk is asked
        assert len(kept) > 8
        assert sum(os.stat(path).st_blocks for path in kept if "memfd" in os.readlink(path)) == 0  # noqa: PTH115, PTH116

    with_pool(body, fork_server, tmp_path)


LAVISH = """
import os, threading
import fl

def model():
    for descriptor in range(3, 256):
        try:
            size = os.fstat(descriptor).st_size
            for place in range(0, min(size, 8 << 30), 1 << 26):
                os.pwrite(descriptor, bytes(1 << 26), place)
        except OSError:
            pass
    threading.Event().wait()

app = fl.App(name="lavish", model=model, train=lambda model, data, ctx: None)
"""


@pytest.mark.slow
def test_memory_that_is_no_address_space_counts_as_well(fork_server: Path, tmp_path: Path) -> None:
    (tmp_path / "lavish.py").write_text(LAVISH)
    lavish = bundle.pack(tmp_path / "lavish.py")

    async def body(pool: WorkerPool) -> None:
        with pytest.raises(AppError, match=r"MiB of memory, .* where it may take 2560, and was ended") as raised:
            await pool.initial(lavish, {}, 0)
        assert "memory_mib" in raised.value.remedy

    with_pool(body, fork_server, tmp_path, memory_mib=2560)


STEALTHY = """
import ctypes, os, threading
import fl

libc = ctypes.CDLL(None)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
PAGE, WINDOW = 4096, 64 << 20

def model():
    for slot in range(3, 256):
        try:
            if os.fstat(slot).st_size > 1 << 30:
                break
        except OSError:
            pass
    place = libc.mmap(None, PAGE, 3, 1, slot, 0)
    os.close(slot)
    for _ in range(48):
        start = libc.mremap(place, PAGE, WINDOW, 1)
        ctypes.memset(start, 7, WINDOW)
        place = start + WINDOW - PAGE
        libc.munmap(start, WINDOW - PAGE)
    threading.Event().wait()

app = fl.App(name="stealthy", model=model, train=lambda model, data, ctx: None)
"""


@pytest.mark.slow
def test_memory_that_was_lent_counts_though_the_worker_holds_neither_descriptor_nor_mapping(
    fork_server: Path, tmp_path: Path
) -> None:
    (tmp_path / "stealthy.py").write_text(STEALTHY)
    stealthy = bundle.pack(tmp_path / "stealthy.py")

    async def body(pool: WorkerPool) -> None:
        with pytest.raises(AppError, match=r"MiB of memory, .* where it may take 2560, and was ended"):
            await pool.initial(stealthy, {}, 0)

    with_pool(body, fork_server, tmp_path, memory_mib=2560, timeout_s=30)


HIDING = """
import ctypes, os, threading
import fl

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

def hide(how):
    if how == "deep":
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    for number in range(8):
        with open(f"f{number}", "w+b") as file:
            file.write(bytes(16 << 20))
            file.flush()
            if how == "mapped":
                libc.mmap(None, 4096, 1, 1, file.fileno(), 0)
                os.unlink(file.name)

def model(how="mapped"):
    hide(how)
    threading.Event().wait()

app = fl.App(name="hiding", model=model, train=lambda model, data, ctx: None)
"""
UNCONFINED = """
import sys
from fl.learn import forkserver, scratch
scratch.confine = lambda directory: False
scratch.LIMIT = 64 << 20
forkserver.main([sys.argv[1], "--lifeline"])
"""


@pytest.mark.parametrize("how", ["mapped", "deep"])
def test_what_is_hidden_on_a_disk_counts_where_no_file_system_can_be_mounted(how: str, tmp_path: Path) -> None:
    (tmp_path / "hiding.py").write_text(HIDING)
    hiding = bundle.pack(tmp_path / "hiding.py")
    command = [sys.executable, "-c", UNCONFINED, str(tmp_path / "fork.sock")]

    async def body(pool: WorkerPool) -> None:
        with pytest.raises(AppError, match="in its temporary directory, and was ended"):
            await pool.initial(hiding, {"how": how}, 0)

    with subprocess.Popen(command, stdin=subprocess.PIPE, env=forkserver.environment()) as server:
        with_pool(body, tmp_path / "fork.sock", tmp_path, timeout_s=30)
        assert server.stdin is not None
        server.stdin.close()


def test_every_thread_of_a_worker_is_locked_and_it_holds_nothing_but_its_connection(
    fork_server: Path, tmp_path: Path, greedy: bytes
) -> None:
    async def body(pool: WorkerPool) -> None:
        process = Path("/proc") / str(await measured(pool, greedy, "thread", "pid"))
        tasks = list((process / "task").iterdir())
        assert len(tasks) == 2
        for one in tasks:
            status = dict(line.split(":\t", 1) for line in (one / "status").read_text().splitlines())
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
            assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
        held = sorted(str(entry.readlink()) for entry in (process / "fd").iterdir())
        assert [name.partition(":")[0] for name in held] == ["/dev/null"] * 3 + ["socket"]

    with_pool(body, fork_server, tmp_path)


def test_a_worker_whose_daemon_hangs_up_is_ended_whatever_it_does(fork_server: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(fork_server))
        frames = channel.Frames(replies=True)
        while (received := frames.next()) is None:
            frames.feed(connection.recv(4096))
        pid = received[0].pid
        os.kill(pid, signal.SIGSTOP)  # it cannot notice by itself
    assert ended(pid)


def test_a_worker_ends_with_its_fork_server(tmp_path: Path, greedy: bytes) -> None:
    server = forkserver.spawn(tmp_path / "fork.sock")

    async def body(pool: WorkerPool) -> None:
        pid = await measured(pool, greedy, "", "pid")
        os.kill(pid, signal.SIGSTOP)
        server.kill()
        assert ended(pid)

    with_pool(body, tmp_path / "fork.sock", tmp_path)
    assert server.stdin is not None
    server.stdin.close()
    server.wait()


@pytest.mark.parametrize("what", ["the state directory", "bound data"])
def test_a_node_whose_secrets_applications_could_read_does_not_start(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "packages"
    monkeypatch.setattr(sys, "path", [*sys.path, str(library)])
    bindings = {"table": Binding(kind="csv", path=str(library / "t.csv"))} if what == "bound data" else {}
    private = [library / "state"] if what == "the state directory" else []

    async def start(*, enabled: bool) -> None:
        await WorkerPool(WorkerSection(enabled=enabled), bindings, tmp_path / "workers", private=private).start()

    with pytest.raises(ConfigError, match=f"lies below {library}, which applications can read") as raised:
        asyncio.run(start(enabled=True))
    assert "enabled of [worker]" in raised.value.remedy
    asyncio.run(start(enabled=False))
