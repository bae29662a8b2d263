"""The locks, tried from inside a process that they hold."""

from __future__ import annotations

import json
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from fl.learn import sandbox
from fl.learn.errors import SandboxError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the locks are Linux's")

ATTEMPTS = """
import json, os, pathlib, socket, sys, tempfile, threading
from fl.learn import sandbox

scratch = pathlib.Path(sys.argv[1])
secret = scratch.parent / "secret"
pair = socket.socketpair()
listener = socket.socket(socket.AF_UNIX)
outcome = {"files": sandbox.enclose(scratch)}

def attempt(name, action):
    try:
        action()
    except BaseException as error:
        outcome[name] = type(error).__name__
    else:
        outcome[name] = "allowed"

attempt("tcp", lambda: socket.create_connection(("127.0.0.1", 9)))
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
attempt("unix", lambda: socket.socket(socket.AF_UNIX))
attempt("raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("pair", socket.socketpair)
attempt("connect", lambda: listener.connect("/run/some.sock"))
attempt("bind", lambda: listener.bind(str(scratch / "s")))
attempt("fork", os.fork)
attempt("exec", lambda: os.execv(sys.executable, [sys.executable, "-c", ""]))
attempt("spawn", lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}))
attempt("kill", lambda: os.kill(os.getppid(), 0))
attempt("pidfd", lambda: os.pidfd_open(os.getppid()))
attempt("read", secret.read_text)
attempt("proc", pathlib.Path("/proc/1/environ").read_bytes)
attempt("write", lambda: secret.write_text("x"))
attempt("list", lambda: os.listdir(scratch.parent))

def thread():
    worker = threading.Thread(target=lambda: None)
    worker.start()
    worker.join()

attempt("own: thread", thread)
attempt("own: kill", lambda: os.kill(os.getpid(), 0))
attempt("own: pair", lambda: pair[0].send(b"x"))
attempt("own: memory", lambda: os.memfd_create("x"))
attempt("own: scratch", lambda: tempfile.TemporaryFile(dir=scratch).write(b"x"))
attempt("own: random", lambda: os.urandom(4))
attempt("own: null", lambda: open(os.devnull, "w").write("x"))
attempt("own: import", lambda: __import__("xmlrpc.client"))
print(json.dumps(outcome))
"""


def test_foreign_code_reaches_nobody_and_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "secret").write_text("key")
    root = Path(sandbox.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ATTEMPTS, str(scratch)],
        capture_output=True, text=True, check=False, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    files = outcome.pop("files")
    own = {name: outcome.pop(name) for name in list(outcome) if name.startswith("own: ")}
    assert set(own.values()) == {"allowed"}, own
    if not files:  # a kernel without Landlock
        for name in ("read", "write", "list", "proc"):
            del outcome[name]
    assert {name: error for name, error in outcome.items() if error != "PermissionError"} == {}


def run(program: bytes, audit: int, number: int, argument: int = 0) -> int:
    """Interpret the filter as the kernel does: the action for one system call."""
    data = struct.pack("<IIQ6Q", number, audit, 0, argument, *[0] * 5)
    code = [struct.unpack_from("<HBBI", program, offset) for offset in range(0, len(program), 8)]
    at, register = 0, 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            register = struct.unpack_from("<I", data, value)[0]
        else:
            holds = {0x15: register == value, 0x35: register >= value, 0x45: bool(register & value)}[operation]
            at += yes if holds else no


ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_filter_of_each_architecture(name: str) -> None:
    machine = sandbox._MACHINES[name]
    program = sandbox.program(machine, 77)
    calls = machine.calls
    assert len(program) // 8 < 4096
    assert run(program, 0x40000003, calls["socket"]) == KILL  # 32-bit calls have other numbers
    for call in ("socket", "socketpair", "connect", "execve", "ptrace", "io_uring_setup", "pidfd_getfd", "tkill"):
        assert run(program, machine.audit, calls[call]) == ERRNO | 13
        assert run(program, machine.audit, calls[call] | 0x40000000) == ERRNO | 13
    assert run(program, machine.audit, calls["clone3"]) == ERRNO | 38
    assert run(program, machine.audit, calls["clone"], 0x00010F00) == ALLOW
    assert run(program, machine.audit, calls["clone"], 17) == ERRNO | 13
    for call in ("kill", "tgkill", "prlimit64"):
        assert run(program, machine.audit, calls[call], 77) == ALLOW
        assert run(program, machine.audit, calls[call], 78) == ERRNO | 13
    read, write, futex = (0, 1, 202) if name == "x86_64" else (63, 64, 98)
    assert {run(program, machine.audit, number) for number in (read, write, futex)} == {ALLOW}


def test_a_machine_that_cannot_lock_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(SandboxError, match="foreign code is not run on Linux riscv64"):
        sandbox.enclose()
