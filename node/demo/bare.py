"""What the same trainings cost without a fabric: idle worker processes on the same cores, all started at once.

The difference between a round and this is what the fabric adds: two trips through the tree, a merge per inner node, the
step, and a commit on the voters' disks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fl import bundle as bundles
from fl.data.binding import Binding
from fl.tasks import Train
from fl.worker import seed_of
from node.config import WorkerSection
from node.workers import WorkerPool

from .processes import Fleet

WARM_UP = 2
"""Rounds that are not measured: a process is forked and loads code and data in its first."""


async def bare_rounds(fleet: Fleet, app_file: Path, settings: Sequence[str], model: bytes, count: int) -> list[float]:
    """Seconds of each of ``count`` rounds of trainings from ``model``, one worker process per node."""
    section = WorkerSection(fork_server=str(fleet.fork_socket))
    bundle = bundles.pack(app_file)
    bindings = [Binding(**fleet.binding(node.index)) for node in fleet.nodes]  # type: ignore[arg-type]
    pools = [WorkerPool(replace(section, max=2), {"digits": binding}, fleet.directory / "bare") for binding in bindings]
    try:
        for pool in pools:
            await pool.start()
        spec = await pools[0].declare(bundle, settings)
        walls = []
        for number in range(1, WARM_UP + count + 1):
            tasks = [
                Train(
                    spec.id,
                    spec,
                    number,
                    spec.initial,
                    seed_of(spec.seed, number, bytes.fromhex(node.id)),
                    spec.evaluate,
                )
                for node in fleet.nodes
            ]
            started = time.monotonic()
            await asyncio.gather(*(pool.train(task, model, bundle) for pool, task in zip(pools, tasks, strict=True)))
            walls.append(time.monotonic() - started)
        return walls[WARM_UP:]
    finally:
        for pool in pools:
            await pool.close()
