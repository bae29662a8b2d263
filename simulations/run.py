"""One run of one scenario: set up, let things go wrong, let them mend, check."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.ids import short

from .checkers import Heads, Liveness, Report, Violation, attach
from .checkers.base import PENDING, Checker
from .clock import SECOND, StepLimitError
from .compute import ComputePort
from .engine import Hook
from .scenario import Scenario, ns
from .world import World

SAMPLE_NS = 2 * SECOND
"""How often the state of all cores is looked at."""


@dataclass(frozen=True, slots=True)
class AppResult:
    """How one application ended."""

    app: str
    status: str
    """``finished``; ``stalled`` without a majority of its voters or without workers; else ``unfinished``."""
    rounds: int
    """Newest committed round."""
    epoch: int
    """Epoch of the newest committed head: one more than the changes of root."""
    contributors: int
    """In the newest committed round."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run did and whether it may be believed."""

    scenario: str
    seed: int
    digest: str
    events: int
    messages: int
    message_bytes: int
    transfer_bytes: int
    virtual_s: float
    wall_s: float
    cpu_s: float
    nodes: int
    running: int
    faults: dict[str, int]
    penalties: dict[str, int]
    lies: dict[str, int]
    """What liars said, to how many in all."""
    apps: tuple[AppResult, ...]
    violations: tuple[Violation, ...]
    violations_total: int

    @property
    def ok(self) -> bool:
        return not self.violations_total

    @property
    def us_per_message(self) -> float:
        """Processor time per message, everything included, in microseconds."""
        return self.cpu_s * 1e6 / max(self.messages, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self) | {"ok": self.ok, "us_per_message": self.us_per_message}


class Run:
    """A world, the checkers that watch it, and the order of its phases."""

    def __init__(
        self, scenario: Scenario, seed: int, *, compute: ComputePort | None = None, check_wire: bool = False,
        hooks: Sequence[Hook] = (), stop_early: bool = False,
        strict: bool = False,
    ) -> None:  # fmt: skip
        """``strict``: properties that the protocol is known not to have yet are reported as well."""
        self.world = World(scenario, seed, compute=compute, check_wire=check_wire)
        self.world.engine.on_event.extend(hooks)
        self.report = Report(frozenset() if strict else PENDING)
        self.heads: Heads
        self.checkers: list[Checker]
        self.heads, self.checkers = attach(self.world, self.report, exact=compute is None)
        self._liveness = next(checker for checker in self.checkers if isinstance(checker, Liveness))
        self._stop_early = stop_early
        self._started = time.perf_counter(), time.process_time()

    def execute(self) -> Result:
        """The whole run.  Never raises for what the cores do wrong: that is in the result."""
        try:
            self._phases()
        except StepLimitError as error:
            self.report.add("step-limit", self.world.engine.now, str(error))
        except AssertionError as error:
            # A core's own assertion, or the codec's: as good as any checker's finding.
            self.report.add("assertion", self.world.engine.now, _where(error))
        return self._result()

    def _phases(self) -> None:
        scenario, world = self.world.scenario, self.world
        world.populate()
        self._until(ns(scenario.nodes.join_s + scenario.applications.submit_s + scenario.faults.start_s))
        world.begin_faults()
        self._until(world.engine.now + world.plan.window)
        world.end_faults()
        deadline = world.engine.now + ns(scenario.limits.liveness_s)
        self._until(deadline, self._liveness.settled)
        self._until(world.engine.now + ns(scenario.limits.settle_s))
        self._until(1 << 62, lambda: world.engine.events >= scenario.limits.min_events)
        if not self._over():
            for checker in self.checkers:
                checker.finish(world.engine.now)

    def _over(self) -> bool:
        return self._stop_early and self.report.total > 0

    def _until(self, deadline: int, enough: Callable[[], bool] = lambda: False) -> None:
        engine = self.world.engine
        while engine.now < deadline and not enough() and not self._over():
            engine.schedule.run(min(deadline, engine.now + SAMPLE_NS))
            for checker in self.checkers:
                checker.sample(engine.now)

    def _result(self) -> Result:
        world, engine = self.world, self.world.engine
        return Result(
            scenario=world.scenario.name,
            seed=world.seed,
            digest=engine.digest,
            events=engine.events,
            messages=engine.links.sent,
            message_bytes=engine.links.bytes,
            transfer_bytes=engine.flows.moved,
            virtual_s=engine.now / SECOND,
            wall_s=time.perf_counter() - self._started[0],
            cpu_s=time.process_time() - self._started[1],
            nodes=len(engine.hosts),
            running=len(world.running()),
            faults=dict(sorted((world.faults + engine.network.disturbed).items())),
            lies=dict(sorted(self.world.lies().items())),
            penalties={code.name.lower(): count for code, count in sorted(engine.penalties.items())},
            apps=tuple(self._app(index) for index in range(len(world.submissions))),
            violations=tuple(self.report.violations),
            violations_total=self.report.total,
        )

    def _app(self, index: int) -> AppResult:
        submission = self.world.submissions[index]
        chain = self.heads.chains.get(submission.app)
        head = chain.newest if chain is not None else None
        status = "unfinished"
        if self._liveness.finished(submission):
            status = "finished"
        elif not self._liveness.can_finish(submission):
            status = "stalled"
        if head is None:
            return AppResult(short(submission.app), status, 0, 0, 0)
        return AppResult(short(submission.app), status, head.round, head.epoch, len(head.contributors))


def run(
    scenario: Scenario, seed: int | None = None, *, compute: ComputePort | None = None, check_wire: bool = False,
    hooks: Sequence[Hook] = (), stop_early: bool = False,
    strict: bool = False,
) -> Result:  # fmt: skip
    """Run ``scenario`` with ``seed`` (its own by default) and check it.

    ``compute`` replaces the integer arithmetic, sums are then not recomputed; ``check_wire`` sends every message
    through the codec; ``hooks`` see every event; ``stop_early`` ends the run soon after the first violation; ``strict``
    reports properties that the protocol is known not to have yet as well.
    """
    chosen = scenario.seed if seed is None else seed
    return Run(
        scenario, chosen, compute=compute, check_wire=check_wire, hooks=hooks, stop_early=stop_early, strict=strict
    ).execute()


def _where(error: AssertionError) -> str:
    """The assertion's text and the innermost place that it comes from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}" if trace is not None else "?"
    return f"{str(error) or 'assertion failed'} in {place}"
