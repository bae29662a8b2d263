"""A pool of real workers on a share of the digits, for tests of applications in their sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import fl
from fl.data.binding import Binding, shares
from fl.spec import AppSpec
from fl.tasks import Train
from node.config import WorkerSection
from node.workers import WorkerPool
from protocol.messages import EMPTY, Contact

SCHEMA = {"x": fl.Field("float32", (64,)), "y": fl.Field("int64", classes=10)}
BINDINGS = {"digits": shares("digits", 16, alpha=0.3)[0]}


def task(what: str) -> Train:
    described = AppSpec(
        "own", b"o" * 32, b"", 0, (), 20, EMPTY, Contact(b"0" * 16), data="digits", schema=SCHEMA,
        options={"what": what},
    )  # fmt: skip
    return Train(described.id, described, 3, EMPTY, 7, evaluate=False)


def with_pool(
    body: Callable[[WorkerPool], Awaitable[None]],
    fork_server: Path | str,
    tmp_path: Path,
    bindings: dict[str, Binding] = BINDINGS,
    hear: Callable[[bytes, str], None] = lambda app, line: None,
    **config: Any,
) -> None:
    async def main() -> None:
        section = WorkerSection(fork_server=str(fork_server), **config)
        pool = WorkerPool(section, bindings, tmp_path, label="n1", hear=hear)
        await pool.start()
        try:
            await body(pool)
        finally:
            await pool.close()

    asyncio.run(main())
