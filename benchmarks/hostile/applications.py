"""Hostile applications in real workers: what they reach, what they take, and what their locks cost honest ones."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import fl
from fl import bundle, codec
from fl.data import loaders
from fl.data.binding import shares
from fl.learn import guard, sandbox, scratch
from fl.learn.errors import AppError, WorkerLost
from fl.learn.inline import InlineRunner, Job
from fl.spec import AppSpec
from fl.tasks import Train
from node.config import WorkerSection
from node.workers import WorkerPool
from protocol.messages import EMPTY, Contact

from ..report import Aim
from .measured import Measured

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = {"x": fl.Field("float32", (64,)), "y": fl.Field("int64", classes=10)}
BINDING = shares("digits", 2)[0]
REPEATS = 7

GREEDY = """
import array, os, socket, tempfile, threading
import numpy as np
import fl

never = threading.Event()

def model():
    return {"w": np.zeros(4)}

def threads():
    started = 0
    try:
        for _ in range(3000):
            threading.Thread(target=never.wait, daemon=True).start()
            started += 1
    except RuntimeError:
        pass
    return started

def files():
    written = 0
    try:
        with tempfile.TemporaryFile() as file:
            for _ in range(160):
                written += file.write(bytes(1 << 24))
                file.flush()
    except OSError:
        pass
    return written

def descriptors():
    sent = 0
    for descriptor in range(3, 256):
        for _ in range(20):
            try:
                connection = socket.socket(fileno=os.dup(descriptor))
                socket.send_fds(connection, [b"x"], [os.memfd_create("leak")])
                sent += 1
            except OSError:
                break
    return sent

def train(model, data, ctx):
    what = ctx.get("what", "")
    got = {"threads": threads, "files": files, "descriptors": descriptors}.get(what, os.getpid)()
    return {"got": float(got)}

app = fl.App(name="greedy", model=model, train=train)
"""


def measure() -> Measured:
    """All of it, in some twenty seconds."""
    found = Measured()
    _attempts(found)
    with tempfile.TemporaryDirectory(prefix="mycelia-hostile-") as directory:
        asyncio.run(_greedy(found, Path(directory)))
        asyncio.run(_honest(found, Path(directory)))
    found.facts["sandbox"] = sandbox.describe()
    return found


def _attempts(found: Measured) -> None:
    """Everything that the tests try from inside the locks."""
    with tempfile.TemporaryDirectory(prefix="mycelia-hostile-") as made:
        directory = Path(made)
        for name in ("scratch", "library"):
            (directory / name).mkdir()
        (directory / "secret").write_text("key")
        (directory / "library" / "text").write_text("code")
        path = os.pathsep.join([str(ROOT), str(directory / "library")])
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as victim:
            command = [sys.executable, "-m", "tests.fl.learn.hostile", str(directory), str(victim.pid), "99"]
            done = subprocess.run(
                command, capture_output=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
            )
            alive = victim.poll() is None
    report = json.loads(done.stdout)
    outcome: dict[str, str] = {
        name: error for name, error in report["outcome"].items() if not name.startswith("honest")
    }
    # Who may not change the bounding set (CapBnd) has nothing that it would bound.
    sets = {name: value for name, value in report["capabilities"].items() if name != "CapBnd" or not os.getuid()}
    refused = sum(error != "allowed" for error in outcome.values())
    found.facts["attempts refused"] = f"{refused} of {len(outcome)}, as user {os.getuid()}"
    found.aims += [
        Aim("attempts that came through", len(outcome) - refused, 0),
        Aim("victims killed", float(not alive), 0),
        Aim("sets of capabilities with any left", sum(int(value, 16) != 0 for value in sets.values()), 0),
    ]


def _task(options: dict[str, Any]) -> Train:
    spec = AppSpec(
        "own", b"o" * 32, b"", 0, (), 20, EMPTY, Contact(b"0" * 16), data="digits", schema=SCHEMA, options=options
    )
    return Train(spec.id, spec, 1, EMPTY, 7, evaluate=False)


def _open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _shared() -> int:
    """KiB of shared memory on this machine: where memory without a name is counted."""
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Shmem:")]
    return int(line.split()[1])


async def _greedy(found: Measured, directory: Path) -> None:
    file = directory / "greedy.py"
    file.write_text(GREEDY)
    code, model = bundle.pack(file), codec.encode({"w": np.zeros(4)})
    pool = WorkerPool(WorkerSection(), {"digits": BINDING}, directory / "greedy")
    await pool.start()

    async def got(what: str) -> float:
        try:
            _, weight, sums = await pool.train(_task({"what": what}), model, code)
        except (AppError, WorkerLost):
            return 0.0  # ended for it
        return sums["train_got"] / weight

    try:
        await got("")
        descriptors, memory = _open(), _shared()
        threads, files, sent = await got("threads"), await got("files"), await got("descriptors")
        await got("")
        served = await got("") > 0
        found.aims += [
            Aim("threads of one worker, of 3000", threads, guard.MAX_THREADS),
            Aim("bytes of one worker in files", files, scratch.LIMIT + (1 << 24), unit="B"),
            Aim("descriptors sent to the daemon", sent, 0),
            Aim("descriptors open after", _open() - descriptors, 0),
            Aim("trainings after it", float(served), 1, at_least=True),
        ]
    finally:
        await pool.close()
    found.aims.append(Aim("shared memory kept after", max(_shared() - memory, 0) / 1024, 16, unit="MiB"))


async def _honest(found: Measured, directory: Path) -> None:
    """The same training in a worker and in this process, in turns; and what a fresh worker costs."""
    path = ROOT / "examples" / "digits.py"
    app, code = fl.load(path), bundle.pack(path)
    options = dict(app.options) | {"local_epochs": 20}
    inline = InlineRunner(app, loaders.load(BINDING, SCHEMA), node="n1")
    pool = WorkerPool(WorkerSection(nice=0), {"digits": BINDING}, directory / "honest", label="n1")
    await pool.start()
    inside, outside, fresh = [], [], []
    try:
        model = await pool.initial(code, options, 5)
        task = _task(options)
        await pool.train(task, model, code)
        inline.train(model, Job(7, 1, 20, options))
        for _ in range(REPEATS):
            began = time.perf_counter()
            await pool.train(task, model, code)
            between = time.perf_counter()
            inline.train(model, Job(7, 1, 20, options))
            inside.append(between - began)
            outside.append(time.perf_counter() - between)
        for number in range(REPEATS):
            began = time.perf_counter()
            await pool.initial(code, options, number)  # of no data: each time another process takes the one place
            await pool.train(task, model, code)
            fresh.append(time.perf_counter() - began - statistics.median(inside))
    finally:
        await pool.close()
    within, without = statistics.median(inside), statistics.median(outside)
    found.facts["honest training, in a worker"] = f"{1000 * within:.1f} ms"
    found.facts["honest training, in this process"] = f"{1000 * without:.1f} ms"
    found.facts["two fresh workers, loaded"] = f"{1000 * statistics.median(fresh):.0f} ms"
    found.aims.append(Aim("honest training, in a worker / outside", within / without, 1.15))
