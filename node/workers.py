"""The pool of worker processes: user code in, checked updates out.

A process belongs to one application on one binding for all its life; code of two owners never shares one.  It is kept
between rounds, because loading the data and the code costs more than a small round.  Only a clean answer brings it back
into the pool: after an error, a time-out or a cancelled task it is killed, and the next task gets a fresh one.

What comes back is foreign.  An update must have the model's tensors and finite values before it becomes a contribution;
a bad one is refused here, at its source, by name.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fl import aggregate
from fl import bundle as bundles
from fl import spec as specs
from fl.data import loaders
from fl.data.binding import Binding
from fl.learn import channel, forkserver, landlock, sandbox
from fl.learn.errors import WorkerLost
from fl.learn.inline import Job
from fl.spec import AppSpec, Field, Scalar
from fl.tasks import Describe, Evaluate, Train
from protocol.errors import AggregationError, ConfigError, MyceliaError, UsageError
from protocol.ids import AppId
from protocol.wire import UNREADABLE

from .config import WorkerSection
from .worker_link import LARGE, Content, WorkerProcess

log = logging.getLogger("mycelia.node")

Outcome = tuple[bytes, float, dict[str, float]]
"""Value (safetensors), weight, metric sums."""
Hear = Callable[[AppId, str], None]

MAX_WAITING = 64
"""Tasks that may wait for a process; a node has one per application at a time."""
MAX_MODEL = 16 << 30
"""Bytes of a model that ``model()`` may make."""
START_S = 120.0
"""Seconds for the fork server to import torch; a small board with a slow card takes 60."""
IDLE_S = 600.0
"""Seconds after which a process that nobody asked is ended, to give its memory back."""


class _Use(NamedTuple):
    """What a process is for: it serves tasks with an equal one."""

    digest: bytes
    binding: Binding | None
    fields: tuple[tuple[str, Field], ...]
    changed: int = 0
    """When the data file was last written, ns: new data needs a new process."""


class WorkerPool:
    """At most ``config.max`` processes.  Use on one loop."""

    def __init__(
        self,
        config: WorkerSection,
        bindings: Mapping[str, Binding],
        runtime_dir: Path,
        *,
        private: Sequence[Path] = (),
        label: str = "",
        hear: Hear = lambda app, line: None,
    ) -> None:
        """``bindings``: data name → local data, paths absolute.  ``runtime_dir`` holds the fork server's socket and
        log.  ``private`` must not be readable to applications, like the bound data.  ``label`` is this node in errors;
        ``hear`` gets each line that user code writes."""
        self._config, self._bindings, self._directory = config, dict(bindings), runtime_dir
        self._private = [*private, *(Path(one.path) for one in self._bindings.values() if one.path)]
        self._label, self._hear = label, hear
        self._slots = asyncio.Semaphore(config.max)
        self._waiting = 0
        self._leases = 0
        """Tasks that have, or are getting, a process."""
        self._warned = False
        self._idle: dict[WorkerProcess, tuple[_Use, asyncio.TimerHandle]] = {}
        """Longest idle first."""
        self._busy: dict[WorkerProcess, None] = {}
        self._server: subprocess.Popen[bytes] | None = None
        self._closed = False

    async def start(self) -> None:
        """Make the runtime directory.  The fork server is started by the first task: a node that only routes never
        pays for torch.

        Raises ConfigError when something private lies where applications can read it.
        """
        if self._config.enabled:
            self._check_private()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def close(self) -> None:
        """Kill all processes, also those at work, and wait for the fork server to be gone."""
        self._closed = True
        for process in [*self._idle, *self._busy]:
            self._retire(process)
        if self._server is not None:
            server, self._server = self._server, None
            assert server.stdin is not None
            server.stdin.close()  # its lifeline
            try:
                await asyncio.to_thread(server.wait, 5.0)
            except subprocess.TimeoutExpired:
                server.kill()
                await asyncio.to_thread(server.wait)

    @property
    def bound(self) -> frozenset[str]:
        """Names of the data that this node offers to workers; none when it runs no workers."""
        return frozenset(self._bindings) if self._config.enabled else frozenset()

    @property
    def sandbox(self) -> str:
        """What keeps applications in, on this kernel; empty when this node runs no workers."""
        return sandbox.describe() if self._config.enabled else ""

    def refuses(self, spec: AppSpec, bundle: bytes) -> str:
        """Why this node cannot work for the application, in one sentence; empty when it can as far as headers tell.

        Reads headers of local files, and imports nothing.  ``bundle`` is empty while it is not here yet.
        """
        try:
            binding = self._binding(spec)
            if bundle:
                self._check_code(bundle)
        except MyceliaError as error:
            return str(error)
        return loaders.mismatch(binding, spec.schema, self._label)

    async def train(self, task: Train, model: Content, bundle: bytes) -> Outcome:
        """``weight × (local − model)``, weight and metric sums.

        Raises AppError for user code, ConfigError for data, AggregationError for an update that must not be added,
        SandboxError, WorkerLost, UsageError.
        """
        spec = task.spec
        job = self._job(spec, task.round, task.seed, evaluate=task.evaluate)
        with _viewed(model) as view:
            done, update = await self._run(spec, bundle, channel.Run("train", job), model, len(view))
            if not math.isfinite(done.weight) or done.weight <= 0:
                raise AggregationError(f"{self._name}: an update of weight {done.weight} cannot be averaged")
            try:
                if len(update) < LARGE:
                    aggregate.check_update(update, view)
                else:
                    await asyncio.to_thread(aggregate.check_update, update, view)
            except AggregationError as error:
                raise AggregationError(f"{self._name}: {error}", error.remedy) from None
        return update, done.weight, self._metrics(done)

    async def evaluate(self, task: Evaluate, model: Content, bundle: bytes) -> Outcome:
        """Metric sums of ``model`` on local test data, with an empty value.  Raises as ``train``."""
        job = self._job(task.spec, task.round, 0)
        done, _ = await self._run(task.spec, bundle, channel.Run("evaluate", job), model, 0)
        return b"", 1.0, self._metrics(done)

    async def describe(self, task: Describe, bundle: bytes) -> Outcome:
        """Metric sums that describe the local training data, with an empty value.  Raises as ``train``."""
        done, _ = await self._run(task.spec, bundle, channel.Run("describe", self._job(task.spec, 0, 0)), None, 0)
        return b"", 1.0, self._metrics(done)

    async def initial(self, bundle: bytes, options: Mapping[str, Scalar], seed: int) -> bytes:
        """The model of round 0, made by the bundle's ``model()``.  Raises as ``train``; needs no data."""
        job = Job(seed, options=dict(options), seconds=self._config.timeout_s)
        _, model = await self._ask(
            b"", _Use(bundles.digest(bundle), None, ()), bundle, channel.Run("initial", job), None, MAX_MODEL
        )
        return model

    async def declare(self, bundle: bytes, settings: Sequence[str]) -> AppSpec:
        """What the bundle's application says of itself, after ``key=value`` settings (``fl.sdk.outline``).

        Raises as ``train``; needs no data.
        """
        async with self._process(_Use(bundles.digest(bundle), None, ()), bundle, _ignore) as process:
            async with self._in_time("declaring the application"):
                reply, _ = await process.ask(channel.Declare(tuple(settings)), None, 0, _ignore)
            if not isinstance(reply, channel.Declared):
                raise WorkerLost(f"{self._name}: the worker process breaks the protocol")
        try:
            return specs.decode(reply.spec)
        except UNREADABLE:
            raise WorkerLost(f"{self._name}: the worker process breaks the protocol") from None

    # ---- one task ---------------------------------------------------------------------------------------------------

    async def _run(
        self, spec: AppSpec, bundle: bytes, run: channel.Run, model: Content | None, limit: int
    ) -> tuple[channel.Done, bytes]:
        binding = self._binding(spec)
        use = _Use(bundles.digest(bundle), binding, tuple(spec.schema.items()), _changed(binding))
        return await self._ask(spec.id, use, bundle, run, model, limit)

    async def _ask(
        self, app: AppId, use: _Use, bundle: bytes, run: channel.Run, model: Content | None, limit: int
    ) -> tuple[channel.Done, bytes]:
        hear = partial(self._hear, app)
        async with self._process(use, bundle, hear) as process, self._in_time(run.what):
            reply, content = await process.ask(run, model, limit, hear)
        if not isinstance(reply, channel.Done):
            raise WorkerLost(f"{self._name}: the worker process breaks the protocol")
        return reply, content

    @asynccontextmanager
    async def _process(self, use: _Use, bundle: bytes, hear: Callable[[str], None]) -> AsyncIterator[WorkerProcess]:
        """A process for ``use``, exclusively.  It returns to the pool only when the body succeeds."""
        if self._waiting >= MAX_WAITING:
            raise UsageError(f"{self._name}: {MAX_WAITING} tasks wait for a worker already", "raise max of [worker]")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        process: WorkerProcess | None = None
        self._leases += 1
        try:
            process = self._take(use) or await self._open(use, bundle, hear)
            yield process
            if not self._closed:
                self._give_back(process, use)
                process = None
        finally:
            if process is not None:
                self._retire(process)
            self._leases -= 1
            self._slots.release()

    def _take(self, use: _Use) -> WorkerProcess | None:
        for process, (served, timer) in self._idle.items():
            if served == use:
                timer.cancel()
                del self._idle[process]
                self._busy[process] = None
                return process
        return None

    async def _open(self, use: _Use, bundle: bytes, hear: Callable[[str], None]) -> WorkerProcess:
        self._check_code(bundle)
        if self._closed:
            raise WorkerLost(f"{self._name} is stopping")
        while len(self._idle) + self._leases > self._config.max:
            self._retire(next(iter(self._idle)))
        process = await WorkerProcess.connect(self._fork_server(), START_S)
        self._busy[process] = None
        config = self._config
        request = channel.Open(
            self._label,
            config.nice,
            config.threads,
            config.memory_mib << 20,
            use.binding,
            dict(use.fields),
            tuple(map(str, self._private)),
        )
        try:
            async with self._in_time("loading code and data"):
                reply, _ = await process.ask(request, bundle, 0, hear)
            if not isinstance(reply, channel.Ready):
                raise WorkerLost(f"{self._name}: the worker process breaks the protocol")
        except BaseException:
            self._retire(process)
            raise
        if not reply.landlock and not self._warned:
            self._warned = True
            log.warning(
                "this kernel has no Landlock: code of applications can read this user's files (not the network)"
            )
        return process

    def _give_back(self, process: WorkerProcess, use: _Use) -> None:
        del self._busy[process]
        timer = asyncio.get_running_loop().call_later(IDLE_S, self._retire, process)
        self._idle[process] = use, timer

    def _retire(self, process: WorkerProcess) -> None:
        idle = self._idle.pop(process, None)
        if idle is not None:
            idle[1].cancel()
        self._busy.pop(process, None)
        process.kill()

    def _fork_server(self) -> Path:
        if self._config.fork_server:
            return Path(self._config.fork_server)
        path = self._directory / "forkserver.sock"
        if self._server is None or self._server.poll() is not None:
            path.unlink(missing_ok=True)  # of one that was killed: nobody is to connect to it
            with (self._directory / "forkserver.log").open("wb") as log:
                self._server = forkserver.spawn(path, log)
        return path

    @asynccontextmanager
    async def _in_time(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._config.timeout_s):
                yield
        except TimeoutError:
            raise WorkerLost(
                f"{self._name}: {what} took longer than {self._config.timeout_s:g} s and was stopped",
                "raise timeout_s of [worker], or give the task less to do",
            ) from None

    # ---- checks -----------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"node {self._label}" if self._label else "this node"

    def _binding(self, spec: AppSpec) -> Binding:
        if not self._config.enabled:
            raise ConfigError(f"{self._name} does not train", "set enabled of [worker] to true")
        binding = self._bindings.get(spec.data)
        if binding is None:
            raise ConfigError(f"{self._name} has no data called {spec.data!r}", f"bind it in [data.{spec.data}]")
        return binding

    def _check_private(self) -> None:
        readable = landlock.python_paths()
        for path in self._private:
            if (directory := landlock.exposed(path, readable)) is not None:
                raise ConfigError(
                    f"{path} lies below {directory}, which applications can read because Python's packages are there",
                    "move it elsewhere (the state directory: -C DIR), or set enabled of [worker] to false",
                )

    def _check_code(self, bundle: bytes) -> None:
        code = bundles.decode(bundle)
        if missing := code.missing():
            extra = "pip install 'mycelia-fabric[torch]'" if "torch" in missing else f"pip install {' '.join(missing)}"
            raise UsageError(
                f"{self._name} cannot work for {code.entry}.py, which needs {' and '.join(missing)}; it still routes "
                "and aggregates",
                f"run {extra} there and restart it",
            )

    def _job(self, spec: AppSpec, round_: int, seed: int, *, evaluate: bool = False) -> Job:
        return Job(seed, round_, spec.rounds, dict(spec.options), evaluate, self._config.timeout_s)

    def _metrics(self, done: channel.Done) -> dict[str, float]:
        if not all(map(math.isfinite, done.metrics.values())):
            raise AggregationError(f"{self._name}: metrics that are not finite cannot be added")
        return done.metrics


def _ignore(_: str) -> None:
    """For lines of code that nobody asked to be run for its output."""


def _changed(binding: Binding) -> int:
    try:
        return Path(binding.path).stat().st_mtime_ns if binding.path else 0
    except OSError:
        return 0  # whoever loads it will say why


@contextmanager
def _viewed(model: Content) -> Iterator[bytes | memoryview]:
    """The model's bytes, mapped when it is a file."""
    if not isinstance(model, Path):
        yield model
        return
    with channel.mapped(os.open(model, os.O_RDONLY | os.O_CLOEXEC)) as view:
        yield view
