"""Who submits applications: the part of a developer, and of the owner whose key signs.

An application is submitted from some node of the ring: that node finds its first voters, makes its initial model and
its code, and publishes the descriptor.  When no answer comes it is tried again from another node, under another salt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dht.messages import Record
from dht.records import Kind, sign_record
from fl import spec as specs
from fl.notices import Confirm, Deposited, FindVoters, Publish, ReplicasFound
from fl.spec import AppSpec, Stop
from protocol import ids
from protocol.ids import AppId
from protocol.messages import EMPTY, Contact, Value
from protocol.streams import Stream

from .artifacts import Artifacts
from .clock import SECOND
from .compute import IntegerCompute
from .engine import Engine
from .host import Host, State
from .scenario import Scenario, ns
from .signing import KeyedHashSigner

EPOCH_NS = 1_700_000_000 * SECOND
"""Unix time at the start of every run."""
RESUBMIT_NS = 5 * SECOND
APP_TTL_S = 30 * 24 * 3600


@dataclass(slots=True)
class Submission:
    """One application as its developer sees it."""

    index: int
    workers: tuple[int, ...]
    """Members that hold its data."""
    attempt: int = 0
    app: AppId = b""
    spec: AppSpec | None = None
    """Set once the descriptor is published."""
    roots: dict[int, int] = field(default_factory=dict)
    """Host that says it is root → epoch."""
    accepted: bool = False
    """A majority of its voters has told the submitter that it holds code and first model: it needs nobody else."""
    stopped: int | None = None
    """When its owner said that it is over, ns."""

    @property
    def data(self) -> str:
        """Name under which the workers' operators bind their data."""
        return f"data-{self.index}"


class Developer:
    """Draws the applications of a scenario, submits them, and stops those that are to be stopped."""

    def __init__(
        self, scenario: Scenario, seed: int, engine: Engine, artifacts: Artifacts, integers: IntegerCompute,
        hosts: Callable[[], list[Host]], stream: Stream, accepted: Callable[[Submission], None],
    ) -> None:  # fmt: skip
        """``hosts``: the members from which an application can be submitted.  ``accepted`` hears of each that is."""
        self._scenario, self._seed, self._engine = scenario, seed, engine
        self._artifacts, self._integers, self._hosts, self._stream = artifacts, integers, hosts, stream
        self.owner = KeyedHashSigner(seed, "owner")
        self.submissions = self._draw()
        self.by_app: dict[AppId, Submission] = {}
        self._accepted = accepted
        engine.tap(ReplicasFound, self._voters_found)
        engine.tap(Deposited, self._deposited)

    def _draw(self) -> list[Submission]:
        applications, count = self._scenario.applications, self._scenario.nodes.count
        stream = Stream(self._seed, "applications")
        return [
            Submission(index, tuple(sorted(stream.sample(range(count), applications.workers))))
            for index in range(applications.count)
        ]

    def bindings(self) -> dict[int, frozenset[str]]:
        """Member → the names under which its operator binds data."""
        names: dict[int, list[str]] = {}
        for submission in self.submissions:
            for member in submission.workers:
                names.setdefault(member, []).append(submission.data)
        return {member: frozenset(bound) for member, bound in names.items()}

    def first_id(self, submission: Submission) -> AppId:
        """The id that ``submission`` has when its first attempt succeeds."""
        return self._id(submission, 1)

    def begin(self) -> None:
        """Schedule all submissions."""
        nodes, applications = self._scenario.nodes, self._scenario.applications
        for submission in self.submissions:
            moment = nodes.join_s + applications.submit_s * submission.index / max(applications.count, 1)
            self._engine.schedule.at(ns(moment), self._submit, submission)

    # ---- submitting ----

    def _submit(self, submission: Submission) -> None:
        """Ask the ring for voters, from some node; its answer is where the application begins."""
        if submission.spec is not None:
            return
        submission.attempt += 1
        submission.app = self._id(submission, submission.attempt)
        host = self._somebody()
        token = submission.index << 16 | submission.attempt
        self._engine.command(host, FindVoters(token, submission.app, self._scenario.applications.voters))
        self._engine.schedule.after(RESUBMIT_NS, self._submit, submission)

    def _somebody(self) -> Host:
        ready = [host for host in self._hosts() if host.state is State.RUNNING and host.contact.dialable]
        return self._stream.choice(ready)

    def _id(self, submission: Submission, attempt: int) -> AppId:
        return ids.app_id(0, submission.data, self.owner.public_key, self._salt(submission, attempt))

    def _salt(self, submission: Submission, attempt: int) -> bytes:
        return Stream(self._seed, "salt", submission.index, attempt).raw(8)

    def _voters_found(self, now: int, host: Host, effect: Any) -> None:
        notice: ReplicasFound = effect.notice
        submission = self.submissions[notice.token >> 16]
        current = notice.token & 0xFFFF == submission.attempt
        if not current or submission.spec is not None or len(notice.contacts) < self._scenario.applications.voters:
            return
        submission.spec = spec = self._describe(submission, host, notice.contacts)
        self.by_app[spec.id] = submission
        self._engine.command(host, Publish(self._record(Kind.APP, spec.id, specs.encode(spec), now)))
        self._engine.command(host, Confirm(spec.id))

    def _deposited(self, now: int, host: Host, effect: Any) -> None:
        """As ``node.submission`` decides it."""
        notice: Deposited = effect.notice
        submission = self.by_app.get(notice.app)
        if submission is None or submission.spec is None or submission.accepted:
            return
        if 2 * len(notice.held) > len(submission.spec.voters):
            submission.accepted = True
            self._accepted(submission)

    def _record(self, kind: Kind, app: AppId, body: bytes, now: int) -> Record:
        expires = (EPOCH_NS + now) // SECOND + APP_TTL_S
        return sign_record(self.owner, kind=kind, subject=app, version=1, expires=expires, body=body)

    def _describe(self, submission: Submission, home: Host, voters: tuple[Contact, ...]) -> AppSpec:
        settings = self._scenario.applications
        stream = Stream(self._seed, "initial", submission.index)
        initial = self._kept(home, self._integers.value(home, stream.bits() >> 1, settings.model_bytes))
        return AppSpec(
            name=submission.data,
            owner=self.owner.public_key,
            salt=self._salt(submission, submission.attempt),
            zone=0,
            voters=voters[: settings.voters],
            rounds=settings.rounds,
            initial=initial,
            home=home.contact,
            data=submission.data,
            bundle=self._code(home, submission),
            seed=stream.bits() >> 1,
            fan_out=settings.fan_out,
            fraction=settings.fraction,
            min_workers=settings.min_workers,
            quorum=settings.quorum,
            stop=Stop("loss", settings.patience) if settings.patience else None,
            evaluate=settings.evaluate,
        )

    def _code(self, home: Host, submission: Submission) -> Value:
        size = self._scenario.applications.bundle_bytes
        if not size:
            return EMPTY
        blob = self._artifacts.create(home, size, f"code of {submission.data}".encode())
        return self._kept(home, Value(size, b"", blob))

    def _kept(self, home: Host, value: Value) -> Value:
        if value.blob:
            self._artifacts.pin(home, value.blob, keep=True)
        return value

    # ---- stopping ----

    def stop(self, index: int) -> None:
        """Say, from some node, that the application is over."""
        submission = self.submissions[index]
        if submission.spec is not None and submission.stopped is None:
            submission.stopped = self._engine.now
            record = self._record(Kind.STOP, submission.app, b"", self._engine.now)
            self._engine.command(self._somebody(), Publish(record))
