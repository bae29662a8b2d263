"""Trying an application on this node before the fabric sees it."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from fl import bundle as bundles
from fl import metrics, validation
from fl.spec import AppSpec
from fl.tasks import Evaluate, Train
from protocol.errors import MyceliaError, UsageError
from protocol.messages import EMPTY

from .command import Command, Session
from .output import size


class Step(msgspec.Struct, frozen=True):
    """One thing that was tried."""

    what: str
    ok: bool
    detail: str


class _Checks:
    """Steps in order; the first that fails ends them, since the later ones need it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.steps: list[Step] = []

    async def step(self, what: str, work: Awaitable[Any], tell: Callable[[Any], str]) -> Any:
        """The result of ``work``.  Raises what it raises, after noting it."""
        self._session.out.progress(f"{what} ...")
        try:
            result = await work
        except MyceliaError as error:
            self._note(Step(what, False, str(error)))
            raise
        self._note(Step(what, True, tell(result)))
        return result

    def _note(self, step: Step) -> None:
        self.steps.append(step)
        if not self._session.out.as_json:
            word = self._session.out.style("ok    ", "green") if step.ok else self._session.out.style("failed", "red")
            self._session.out.line(f"{word}  {step.what}: {step.detail}" if step.ok else f"{word}  {step.what}")


def _check(session: Session) -> None:
    checks = _Checks(session)
    try:
        asyncio.run(_all(session, checks))
    finally:
        if session.out.as_json:
            session.out.json(checks.steps)
    session.out.hint(f"next: {session.mycelia(f'run {session.args.file}')}")


async def _all(session: Session, checks: _Checks) -> None:
    # Numpy and the rest take 0.3 s that the other commands need not pay.
    from fl.learn.errors import AppError  # noqa: PLC0415

    from ..workers import WorkerPool  # noqa: PLC0415

    file, config = session.args.file, session.config
    bundle = await checks.step("the code can be packed", _pack(file), _packed)
    with tempfile.TemporaryDirectory(prefix="mycelia-") as directory:
        pool = WorkerPool(config.worker, config.data, Path(directory), hear=lambda _, line: session.out.hint(line))
        await pool.start()
        try:
            await _work(session, checks, pool, bundle)
        except AppError as error:
            session.out.hint(error.trace.rstrip())
            raise
        finally:
            await pool.close()


async def _work(session: Session, checks: _Checks, pool: Any, bundle: bytes) -> None:
    settings = list(session.args.set)
    spec: AppSpec = await checks.step(
        "the file defines an application",
        pool.declare(bundle, settings),
        lambda spec: f"{spec.name}, {spec.rounds} rounds of {spec.strategy} on data {spec.data!r}",
    )
    initial: bytes = await checks.step(
        "model() makes a model", pool.initial(bundle, spec.options, spec.seed), lambda model: size(len(model))
    )
    began = time.monotonic()
    _, weight, _ = await checks.step(
        "train() works on this node's data",
        pool.train(Train(spec.id, spec, 1, EMPTY, spec.seed, False), initial, bundle),
        lambda outcome: f"{outcome[1]:.0f} samples in {time.monotonic() - began:.1f} s",
    )
    assert weight > 0
    measured = await checks.step(
        "evaluate() works",
        pool.evaluate(Evaluate(spec.id, spec, 1, EMPTY), initial, bundle),
        lambda outcome: ", ".join(f"{name} {mean:.4g}" for name, mean in metrics.means(outcome[2]).items()),
    )
    if spec.stop is not None:
        names = list(metrics.means(measured[2]))
        await checks.step("early stopping has its metric", _reported(spec, names), lambda metric: f"{metric}")


async def _reported(spec: AppSpec, names: list[str]) -> str:
    """The metric of early stopping.  Raises UsageError when ``names``, those that are reported, lack it."""
    assert spec.stop is not None
    if why := validation.reported(spec.stop, names):
        raise UsageError(why, "set stop.metric to one of them, or report it from evaluate()")
    return spec.stop.metric


async def _pack(file: Path) -> bytes:
    return bundles.pack(file, bundles.siblings(file))


def _packed(bundle: bytes) -> str:
    code = bundles.decode(bundle)
    needs = f", needs {', '.join(code.requires)}" if code.requires else ""
    return f"{', '.join(f'{name}.py' for name in code.modules)}, {size(len(bundle))}{needs}"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="Python file that defines one fl.App")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change an option of the file; may be repeated"
    )


CHECK = Command(
    name="check",
    summary="Try an application on this node, without the fabric.",
    text=(
        "Packs the file as `mycelia run` would, loads it in a worker process without network access, makes the model, "
        "trains one round on the data that this node binds to the application's name, and measures it. What fails is "
        "said in one sentence, with the traceback of your code. No daemon is needed."
    ),
    examples=(("check digits.py", "try it"), ("check digits.py --set lr=0.01", "with another setting")),
    then="mycelia run FILE",
    configure=_arguments,
    run=_check,
)
