"""The pool with real worker processes, all from one fork server, as in a demo of many daemons."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fl
from fl import aggregate, bundle, codec
from fl.data import loaders
from fl.data.binding import Binding
from fl.learn.errors import AppError, WorkerLost
from fl.learn.inline import InlineRunner, Job
from fl.spec import AppSpec
from fl.tasks import Describe, Evaluate, Train
from node.config import WorkerSection
from node.workers import WorkerPool
from protocol.errors import AggregationError, ConfigError, UsageError
from protocol.messages import EMPTY, Contact
from tests.node.pools import BINDINGS, SCHEMA, with_pool

pytestmark = [pytest.mark.net, pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")]

EXAMPLE = Path(fl.__file__).parents[1] / "examples" / "digits.py"

NUMPY_APP = """
import os, socket, sys, time
import numpy as np
import fl

def model():
    return {"w": np.zeros(4)}

def train(model, data, ctx):
    what = ctx.get("what", "")
    if what == "raise":
        raise ValueError("too few " + str(len(data)))
    if what == "network":
        socket.create_connection(("127.0.0.1", 9))
    if what == "die":
        os._exit(3)
    if what == "hang":
        while True:
            time.sleep(1)
    if what == "nan":
        model["w"] = model["w"] + np.nan
    if what == "print":
        for i in range(3000):
            print("line", i)
        ctx.log("logged", ctx.node)
    if what == "pid":
        return {"pid": float(os.getpid())}
    if what == "forge":
        for descriptor in range(3, 20):
            try:
                os.write(descriptor, b"garbage" * 100)
            except OSError:
                pass
    model["w"] = model["w"] + 1
    return fl.Update(weight=2)

app = fl.App(name="own", model=model, train=train)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("app") / "own.py"
    path.write_text(NUMPY_APP)
    return bundle.pack(path)


def spec(**options: Any) -> AppSpec:
    return AppSpec(
        "own", b"o" * 32, b"", 0, (), 20, EMPTY, Contact(b"0" * 16), data="digits", schema=SCHEMA, options=options
    )


def task(**options: Any) -> Train:
    described = spec(**options)
    return Train(described.id, described, 3, EMPTY, 7, evaluate=False)


MODEL = codec.encode({"w": np.zeros(4)})


def test_torch_in_a_worker_gives_the_bits_of_the_inline_runner(fork_server: Path, tmp_path: Path) -> None:
    app = fl.load(EXAMPLE)
    code = bundle.pack(EXAMPLE)
    inline = InlineRunner(app, loaders.load(BINDINGS["digits"], SCHEMA), node="n1")
    options = dict(app.options)
    described = spec(**options)

    async def body(pool: WorkerPool) -> None:
        assert pool.refuses(described, code) == ""
        initial = await pool.initial(code, options, 5)
        assert initial == inline.initial(options, 5)
        job = Job(7, 3, 20, options, evaluate=True)
        whole = Train(described.id, described, 3, EMPTY, 7, evaluate=True)
        expected = inline.train(initial, job)
        assert await pool.train(whole, initial, code) == expected
        file = tmp_path / "model"
        file.write_bytes(initial)
        assert await pool.train(whole, file, code) == expected
        metrics = (await pool.evaluate(Evaluate(described.id, described, 3, EMPTY), initial, code))[2]
        assert metrics == inline.evaluate(initial, job)
        assert (await pool.describe(Describe(described.id, described), code))[2] == inline.describe(SCHEMA)

    with_pool(body, fork_server, tmp_path)


def test_what_user_code_does_wrong_is_one_sentence_each(fork_server: Path, tmp_path: Path, own: bytes) -> None:
    heard: list[str] = []

    async def body(pool: WorkerPool) -> None:
        with pytest.raises(
            AppError, match=r"train\(\) of own failed at <bundle>/own.py:12: ValueError: too few"
        ) as raised:
            await pool.train(task(what="raise"), MODEL, own)
        assert 'raise ValueError("too few "' in raised.value.trace
        with pytest.raises(AppError, match="PermissionError"):
            await pool.train(task(what="network"), MODEL, own)
        with pytest.raises(AggregationError, match="'w' is not finite"):
            await pool.train(task(what="nan"), MODEL, own)
        with pytest.raises(WorkerLost, match="died"):
            await pool.train(task(what="die"), MODEL, own)
        with pytest.raises(WorkerLost, match=r"protocol|died"):
            await pool.train(task(what="forge"), MODEL, own)
        # After each, the next task gets a fresh process.
        update, weight, _ = await pool.train(task(what="print"), MODEL, own)
        assert weight == 2
        aggregate.check_update(update, MODEL)

    with_pool(body, fork_server, tmp_path, hear=lambda app, line: heard.append(line))
    assert heard[:2] == ["line 0", "line 1"]
    assert len(heard) == 1000


def test_a_worker_that_hangs_is_stopped(fork_server: Path, tmp_path: Path, own: bytes) -> None:
    async def body(pool: WorkerPool) -> None:
        with pytest.raises(WorkerLost, match=r"node n1: train took longer than 0\.5 s and was stopped"):
            await pool.train(task(what="hang"), MODEL, own)

    with_pool(body, fork_server, tmp_path, timeout_s=0.5)


def test_processes_are_kept_shared_and_replaced(fork_server: Path, tmp_path: Path, own: bytes) -> None:
    async def body(pool: WorkerPool) -> None:
        weight = (await pool.train(task(what="pid"), MODEL, own))[1]
        first = (await pool.train(task(what="pid"), MODEL, own))[2]["train_pid"] / weight
        both = await asyncio.gather(*(pool.train(task(what="pid"), MODEL, own) for _ in range(2)))
        assert {metrics["train_pid"] / weight for _, _, metrics in both} == {first}
        os.kill(int(first), signal.SIGKILL)
        with pytest.raises(WorkerLost):
            await pool.train(task(what="pid"), MODEL, own)
        second = (await pool.train(task(what="pid"), MODEL, own))[2]["train_pid"] / weight
        assert second != first
        hanging = asyncio.create_task(pool.train(task(what="hang"), MODEL, own))
        waiting = asyncio.create_task(pool.train(task(what="pid"), MODEL, own))
        await asyncio.sleep(0)
        hanging.cancel()
        third = (await waiting)[2]["train_pid"] / weight
        assert third > 0
        with pytest.raises(asyncio.CancelledError):
            await hanging

    with_pool(body, fork_server, tmp_path)


def test_what_cannot_work_here_is_refused_before_a_process_is_made(tmp_path: Path, own: bytes) -> None:
    path = tmp_path / "alien.py"
    path.write_text("import no_such_package\n")
    alien = bundle.pack(path)

    async def body(pool: WorkerPool) -> None:
        sentence = pool.refuses(spec(), alien)
        assert sentence == (
            "node n1 cannot work for alien.py, which needs no_such_package; it still routes and aggregates"
        )
        with pytest.raises(UsageError, match="needs no_such_package"):
            await pool.train(task(), MODEL, alien)
        assert "lacks field 'z'" in pool.refuses(
            msgspec.structs.replace(spec(), schema={"z": fl.Field("float32")}), own
        )
        assert "no data called 'sales'" in pool.refuses(msgspec.structs.replace(spec(), data="sales"), own)
        with pytest.raises(ConfigError, match="no data called 'sales'"):
            await pool.describe(Describe(b"", msgspec.structs.replace(spec(), data="sales")), own)

    with_pool(body, tmp_path / "nobody-listens", tmp_path)


def test_data_that_does_not_fit_is_named_when_it_is_loaded(fork_server: Path, tmp_path: Path, own: bytes) -> None:
    table = tmp_path / "shop.csv"
    table.write_text("a,b,label\n1,2,0\n" * 1 + "1,2,0\n" * 1200 + "1,oops,0\n")
    bindings = {"digits": Binding(kind="csv", path=str(table), target="label")}
    described = msgspec.structs.replace(
        spec(), schema={"x": fl.Field("float32", (2,)), "y": fl.Field("int64", classes=2)}
    )

    async def body(pool: WorkerPool) -> None:
        assert pool.refuses(described, own) == ""  # the defect lies beyond what admission reads
        with pytest.raises(ConfigError, match=r"shop.csv line 1203, column 'b': 'oops' is not a number"):
            await pool.describe(Describe(described.id, described), own)

    with_pool(body, fork_server, tmp_path, bindings)


def test_a_pool_starts_and_ends_its_own_fork_server(tmp_path: Path, own: bytes) -> None:
    deep = tmp_path / ("d" * 100)

    async def main() -> None:
        pool = WorkerPool(WorkerSection(), BINDINGS, deep)
        await pool.start()
        assert codec.decode(await pool.initial(own, {}, 0))["w"].tolist() == [0.0] * 4
        await pool.close()
        with pytest.raises(WorkerLost, match="is stopping"):
            await pool.initial(own, {}, 0)

    asyncio.run(main())
    assert [path.name for path in deep.iterdir()] == ["forkserver.log"]
