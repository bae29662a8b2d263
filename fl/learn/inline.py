"""The runner: user code on one node's data, in this process.

The worker process and the emulation both run this class, so what a debugger steps through is what a daemon runs.

*Determinism.*  For one machine and one set of packages, (seed, round, model bytes, data) determine the result to the
bit: torch has one thread, unless told otherwise, and deterministic kernels, all generators are seeded from the task
before user code is called, and every tensor is handed over in torch's own aligned memory.  A replay (:mod:`fl.replay`)
rests on this.
"""

from __future__ import annotations

import math
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from fl import aggregate, codec, metrics
from fl.data import describe
from fl.data.dataset import Dataset, Split
from fl.sdk import App, Context, Update
from fl.spec import Scalar
from protocol.errors import MyceliaError, UsageError

from . import defaults, models
from .errors import AppError

T = TypeVar("T")
_TRACE_LINES = 40


class Job(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The part of a task that user code may see."""

    seed: int
    round: int = 0
    rounds: int = 0
    options: dict[str, Scalar] = {}
    evaluate: bool = False
    """Measure the incoming model before training."""
    seconds: float = math.inf
    """Time that the task has from now on."""


class Fit(NamedTuple):
    """A local model after training."""

    tensors: codec.Tensors
    weight: float
    metrics: dict[str, float]
    """Sums (:mod:`fl.metrics`)."""


class InlineRunner:
    """One application on one node.  Raises AppError for an exception in user code, UsageError for what it returns."""

    def __init__(
        self,
        app: App,
        data: Split | None = None,
        *,
        node: str = "",
        emit: Callable[[str], None] = print,
        threads: int = 1,
    ) -> None:
        self.app, self.node = app, node
        self._threads = threads
        self._data = data
        self._emit = emit

    def initial(self, options: Mapping[str, Scalar], seed: int) -> bytes:
        """The model of round 0: what ``model()`` returns after seeding."""
        context = self._context(Job(seed, options=dict(options)))
        with _reproducible(seed, self._threads):
            tensors = self._user("model", lambda: models.build(self.app, context).read())
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise UsageError(f"model() of {self.app.name} returned values that are not finite in tensor {name!r}")
        return codec.encode(tensors)

    def train(self, model: bytes | memoryview, job: Job) -> tuple[bytes, float, dict[str, float]]:
        """``(weight × (local − model) as tensors, weight, metric sums)``.

        Raises AggregationError when the trained model does not match or is not finite.
        """
        before = codec.decode(model)
        fit = self._fit(before, job)
        return aggregate.contribution(fit.tensors, before, fit.weight), fit.weight, fit.metrics

    def fit(self, model: bytes | memoryview, job: Job) -> Fit:
        """Train, and return the local model itself: what a replay averages."""
        return self._fit(codec.decode(model), job)

    def evaluate(self, model: bytes | memoryview, job: Job) -> dict[str, float]:
        """Metric sums of ``model`` on the local test data; empty when there are none."""
        return self.measure(model, job, self._split.test)

    def measure(self, model: bytes | memoryview, job: Job, data: Dataset) -> dict[str, float]:
        """Metric sums of ``model`` on ``data``."""
        return self._measure(codec.decode(model), job, data)

    def describe(self, schema: Mapping[str, Any]) -> dict[str, float]:
        """Metric sums that describe the local training data."""
        return describe.describe(self._split.train, schema)

    @property
    def _split(self) -> Split:
        if self._data is None:
            raise UsageError(f"{self.app.name} has no data on this node", "bind its data in the node's configuration")
        return self._data

    def _fit(self, before: codec.Tensors, job: Job) -> Fit:
        data = self._split.train
        sums = self._measure(before, job, self._split.test) if job.evaluate else {}
        with _reproducible(job.seed, self._threads):
            context = self._context(job)
            model = self._loaded(before, context)
            if self.app.train is None:
                answer = self._user("train", lambda: defaults.train(model, data, context))
            else:
                own = self.app.train
                answer = self._user("train", lambda: own(model.native, data, context))
        if not isinstance(answer, (Update, Mapping, type(None))):
            raise UsageError(f"train() of {self.app.name} returned a {type(answer).__name__}", "return an fl.Update")
        update = answer if isinstance(answer, Update) else Update(metrics=answer or {})
        weight = float(len(data) if update.weight is None else update.weight)
        if not math.isfinite(weight) or weight <= 0:
            raise UsageError(
                f"train() of {self.app.name} gave its update the weight {weight}", "return a positive number"
            )
        sums |= metrics.sums({f"train_{name}": value for name, value in update.metrics.items()}, weight)
        given = update.weights
        if given is None:
            return Fit(self._user("train", model.read), weight, sums)
        arrays = self._user("train", lambda: {name: np.asarray(value, np.float32) for name, value in given.items()})
        return Fit(arrays, weight, sums)

    def _measure(self, tensors: codec.Tensors, job: Job, data: Dataset) -> dict[str, float]:
        if not len(data):
            return {}
        with _reproducible(job.seed, self._threads):
            context = self._context(job)
            model = self._loaded(tensors, context)
            if self.app.evaluate is None and model.kind == "plain":
                return {}
            if self.app.evaluate is None:
                means = self._user("evaluate", lambda: defaults.evaluate(model, data, context))
            else:
                own = self.app.evaluate
                means = self._user("evaluate", lambda: own(model.native, data, context))
        if not isinstance(means, Mapping):
            raise UsageError(
                f"evaluate() of {self.app.name} returned a {type(means).__name__}", "return a dict of means"
            )
        return metrics.sums(means, len(data))

    def _loaded(self, tensors: codec.Tensors, context: Context) -> models.Model:
        """A model made anew for each call: whatever user code or an optimiser keeps inside one would make the result
        depend on which rounds this node took part in."""
        model = self._user("model", lambda: models.build(self.app, context))
        model.write(tensors)
        return model

    def _context(self, job: Job) -> Context:
        deadline = time.monotonic() + job.seconds
        return Context(job.options, job.round, job.rounds, self.node, job.seed, deadline, self._emit)

    def _user(self, what: str, call: Callable[[], T]) -> T:
        """Run user code; whatever it raises becomes one sentence and a trimmed traceback."""
        try:
            return call()
        except MyceliaError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything at all
            raise app_error(f"{what}() of {self.app.name}", error) from None


def app_error(what: str, error: BaseException) -> AppError:
    """What user code raised, as one sentence and a traceback that begins with the first line of user code."""
    frames = list(traceback.extract_tb(error.__traceback__))
    while frames and (frames[0].filename.startswith((_OWN, "<frozen ")) or "/importlib/" in frames[0].filename):
        frames.pop(0)
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    where = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    first = (str(error).splitlines() or [""])[0][:300]
    text = "".join(traceback.format_list(frames) + traceback.format_exception_only(error))
    message = f"{what} failed{where}: {type(error).__name__}{': ' if first else ''}{first}"
    return AppError(message, _remedy(error, text), "\n".join(text.splitlines()[-_TRACE_LINES:]))


def _remedy(error: BaseException, text: str) -> str:
    """For what the sandbox forbids; empty for the usual one."""
    if not isinstance(error, PermissionError):
        return ""
    if "DataLoader" in text or "multiprocessing" in text or "/joblib/" in text:
        return "a worker is one process: load and train in it (num_workers=0 of a DataLoader, n_jobs=1)"
    return "in a worker there are no network, no processes, no shared memory and no files but temporary ones"


_OWN = __file__.rpartition("/")[0] + "/"


@contextmanager
def _reproducible(seed: int, count: int) -> Iterator[None]:
    """Seed every global generator and make torch deterministic; generators and switches are put back afterwards."""
    torch = sys.modules.get("torch")
    plain, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - user code may draw from it
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002
    if torch is None:
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(legacy)  # noqa: NPY002
        return
    drawn, threads, strict = (
        torch.get_rng_state(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )
    torch.manual_seed(seed % (1 << 63))
    torch.set_num_threads(count)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(drawn)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
