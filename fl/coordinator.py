"""The coordinator's part: from a committed head to the next one.

A round is: open a wave on the last model; take what it brings; open up to two more for those who were missing (re-hung,
restarted, lost on the way); merge everything, take the step, and ask the voters to hold the result.  Only what a
majority of them holds has happened.  A coordinator that is fenced half-way forgets everything: its successor has the
same head and the workers still have their contributions.  In the first round of its reign it waits for about as many
as that head names: who lost the last root is neither there nor missed until it has found the new one.

Before the first round a wave asks for a description of the data, again and again until enough workers have answered.
After the last one a wave evaluates the final model, and its metrics are committed with the finished head.  While fewer
answer than a round needs they are asked again, a few times; then fewer will do, and the result says how many they were.
Nobody never will do: a model that nobody has measured is not the end of a run that measures, it waits.  When the
application has a rule to stop by and an earlier model was better, that one is evaluated too, and the run ends with it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import msgspec

from protocol.ids import NodeId
from protocol.messages import EMPTY, Value
from pubsub.heads import MAX_METRICS, Head
from pubsub.messages import Partial, WaveId, WaveOpen
from pubsub.ports import Gathering, HandedIn

from . import stopping
from .aggregator import Combined, combine
from .messages import Order, Report, Work, decode_report, encode
from .metrics import means
from .notices import WaveStarted
from .ports import CoordinatorHost
from .spec import AppSpec
from .tasks import Finish, Finished

MAX_IN_VAIN = 3
"""Times that a deadline grows although that brings nobody."""
_UNMEASURED = "nobody has evaluated the last model yet"


class Coordinator:
    """The root's state for one application, from the moment it is root until it is not."""

    __slots__ = (
        "_asked_again", "_ending", "_fresh", "_head", "_history", "_host", "_in_vain", "_most", "_opened", "_parts",
        "_retries", "_wave", "_work", "described", "spec",
    )  # fmt: skip

    def __init__(self, spec: AppSpec, head: Head, host: CoordinatorHost) -> None:
        self.spec, self._head, self._host = spec, head, host
        self._work = Work.DESCRIBE
        self._wave = WaveId(head.epoch, head.round, -1)
        self._parts: list[HandedIn] = []
        self._opened = 0
        self._fresh = True
        """Nothing was committed in this reign yet."""
        self._asked_again = False
        """A wave of this round was opened for those whose contributions could not be used."""
        self._retries = 0
        """Times that this round was opened again for want of contributions."""
        self._history: deque[int] = deque(maxlen=host.config.history)
        """How long the last waves took that were complete or missed by most, ns."""
        self._ending: tuple[int, Value] | None = None
        """The best model and the round that made it, when it is not the last: the run ends with that."""
        self._most = self._in_vain = 0
        """Contributors of the best wave so far, and how often since then a longer one has brought no more."""
        self.described: dict[str, float] = {}

    def start(self, now: int) -> None:
        """Go on from the head."""
        self._parts, self._retries, self._asked_again = [], 0, False
        if self._head.round == 0 and not self.described:
            self._work = Work.DESCRIBE
            self._open(self._wave.wave + 1, now, round_=0)
            return
        closing = decode_report(self._head.report).closing
        self._work = Work.EVALUATE if closing else Work.TRAIN
        self._open(0, now, round_=self._head.round + 1)

    # ---- waves ------------------------------------------------------------------------------------------------------

    def _open(self, number: int, now: int, *, round_: int) -> None:
        self._wave = WaveId(self._head.epoch, round_, number)
        self._opened = now
        # Each retry selects others: those of the first draw may all be away, or be nobody at all.
        beacon = self.spec.id + round_.to_bytes(8, "big") + self._retries.to_bytes(8, "big")
        order = encode(Order(self._work, beacon))
        self._host.out.emit(WaveStarted(self.spec.id, self._wave))
        if number == 0:
            self._host.status(self.spec.id, "running", "", now)
        message = WaveOpen(
            self.spec.id,
            self._wave,
            self._head.lean(),
            self._remaining(),
            closed=self._contributors(),
            order=order,
            earlier=self._earlier,
        )
        self._host.open_wave(message, self._gathering(), now)

    @property
    def _earlier(self) -> Value:
        """The model of an earlier round, when the run ends with that; empty otherwise."""
        return EMPTY if self._ending is None else self._ending[1]

    def _contributors(self) -> tuple[NodeId, ...]:
        return tuple(sorted(member for _, part in self._parts for member in part.contributors))

    def _remaining(self) -> int:
        """Time for a wave: from what complete ones took; 0 when there is no history.  The first question, which makes
        every worker load code and data, may take long: whoever misses it would miss the first rounds too."""
        config = self._host.config
        if self._work is Work.DESCRIBE:
            return config.describe
        if self._fresh or not self._history or self._work is not Work.TRAIN:
            return 0
        return int(config.patience * max(self._history)) + config.slack

    def _likely(self) -> int:
        """How many will take part, as far as the last head tells a new root; 0 when it cannot tell."""
        if not self._fresh or self._work is Work.DESCRIBE:
            return 0
        alive = sum(self._host.forest.ring.alive(member) for member in self._head.contributors)
        return math.ceil(self._host.config.reunion * alive)

    def _gathering(self) -> Gathering | None:
        least = self._likely() - len(self._contributors())
        return Gathering(least, self._host.config.calm, self._host.config.gather) if least > 0 else None

    def _note_pace(self, have: int, absent: int, now: int) -> None:
        """What complete waves took, for the next rounds.

        A wave that most of them missed counts as well, since it would have had to last longer: so a deadline that was
        learned from a few quick members grows until most keep it.  One straggler is not most.  How many are absent is
        told by those below, one of whom may lie: when longer waits have brought nobody, a few times, they are in vain.
        """
        if self._work is not Work.TRAIN or not have:
            return
        if not absent or have > self._most:
            self._most, self._in_vain = have, 0
        elif have < absent:
            self._in_vain += 1
        if not absent or (have < absent and self._in_vain <= MAX_IN_VAIN):
            self._history.append(now - self._opened)

    def closed(self, wave: WaveId, parts: Sequence[HandedIn], absent: int, now: int) -> None:
        """All that the wave brought.  Enough?  Then the round is decided; else another wave."""
        if wave != self._wave:
            return
        self._parts.extend(parts)
        have = len(self._contributors())
        self._note_pace(have, absent, now)
        missed = (absent and self._work is Work.TRAIN) or have < self._likely()
        if missed and wave.wave + 1 < self._host.config.max_waves:
            self._open(wave.wave + 1, now, round_=wave.round)
        elif have >= self._least:
            self._merge(now)
        elif self._work is not Work.EVALUATE:
            self._wait(f"{have} of {self.spec.min_workers} workers are there", now)
        elif have:
            self._wait(f"{have} of {self.spec.min_workers} workers have evaluated the last model", now)
        else:
            self._wait(_UNMEASURED, now)

    @property
    def _least(self) -> int:
        """So many contributors make the step."""
        enough = self._work is Work.EVALUATE and self._retries >= self._host.config.evaluations
        return 1 if enough else self.spec.min_workers

    def on_timer(self, now: int) -> None:
        """Too few came: ask again, keeping what is there."""
        if self._work is Work.DESCRIBE:
            self._parts = []
        self._open(self._wave.wave + 1, now, round_=self._wave.round)

    # ---- the step ---------------------------------------------------------------------------------------------------

    def _merge(self, now: int) -> None:
        wave = self._wave
        self._host.status(self.spec.id, "running", "", now)

        def merged(result: Combined, at: int) -> None:
            if wave == self._wave and self._host.reigns(self.spec.id, self):
                self._merged(result, at)

        parts = [part for _, part in self._parts]
        combine(self.spec, parts, self._host.me.id, self._host.jobs, merged, now)

    def _merged(self, result: Combined, now: int) -> None:
        """The sum is there, perhaps without some: those are asked again once, if the round has a wave left."""
        total = result.total
        if self._host.left_out(self._parts, result):
            self._parts = [part for index, part in enumerate(self._parts) if index not in result.left_out]
            if not self._asked_again and self._wave.wave + 1 < self._host.config.max_waves:
                self._asked_again = True
                self._open(self._wave.wave + 1, now, round_=self._wave.round)
                return
        if total is None:
            self._again("no usable contribution", now)
        elif len(total.contributors) < self._least:
            self._again(f"{len(total.contributors)} of {self.spec.min_workers} contributions are usable", now)
        elif self._work is Work.DESCRIBE:
            self.described = dict(total.metrics) or {"data.n": 0.0}
            self._host.described(self.spec.id, self.described, len(total.contributors), now)
            self.start(now)
        elif self._work is Work.EVALUATE:
            if not self._ends_with_the_best(total, now):
                self._propose(total, self._earlier if self._ending else self._head.model, self._head.state, now)
        else:
            self._step(total, now)

    def _step(self, total: Partial, now: int) -> None:
        wave, head = self._wave, self._head

        def finished(result: Finished | None, error: str, at: int) -> None:
            if wave != self._wave or not self._host.reigns(self.spec.id, self):
                return
            if result is None:
                self._host.stumbled(self.spec.id, wave.round, error, at)
                self._again(error, at)
            else:
                self._propose(total, result.model, result.state, at)

        task = Finish(self.spec.id, self.spec, wave.round, head.model, head.state, total.value, total.weight)
        self._host.jobs.run(task, finished)

    def _again(self, why: str, now: int) -> None:
        """The round's contributions cannot be used: begin it anew."""
        self._parts = []
        self._wait(why, now)

    def _wait(self, why: str, now: int) -> None:
        config = self._host.config
        pause = min(config.wait << min(max(self._retries - config.eager, 0), 16), config.max_wait)
        self._retries += 1
        self._host.status(self.spec.id, "waiting", why, now)
        self._host.out.set_timer(("fl.next", self.spec.id), now + pause)

    def _propose(self, total: Partial, model: Value, state: Value, now: int) -> None:
        report, closing = self._judge(total)
        metrics = dict(total.metrics)
        if self._wave.round == 1:
            room = MAX_METRICS - len(metrics)
            metrics.update([item for item in sorted(self.described.items()) if item[0] not in metrics][:room])
        finished = self._work is Work.EVALUATE or (closing and not self.spec.evaluate)
        head = Head(
            app=self.spec.id,
            epoch=self._head.epoch,
            round=self._wave.round,
            root=self._head.root,
            voters=self._head.voters,
            model=model,
            state=state,
            contributors=total.contributors,
            metrics=metrics,
            weight=total.weight,
            finished=finished,
            report=encode(report),
        )
        self._host.propose(head, now)

    def _judge(self, total: Partial) -> tuple[Report, bool]:
        """Early stopping looks at the metric of the model that this round started from."""
        report, stop = decode_report(self._head.report), self.spec.stop
        last = self._wave.round >= self.spec.rounds
        value = means(total.metrics).get(stop.metric) if stop is not None else None
        if self._work is Work.EVALUATE:
            made = self._ending[0] if self._ending is not None else 0
            return msgspec.structs.replace(report, made=made), True
        if stop is not None and value is not None:
            who = stopping.population(total.contributors, self.spec.fraction)
            report = stopping.judged(report, stop, self._wave.round - 1, value, who)
        closing = last or (stop is not None and value is not None and report.stale_rounds >= stop.patience)
        return msgspec.structs.replace(report, closing=closing or report.closing), closing

    def _ends_with_the_best(self, total: Partial, now: int) -> bool:
        """After the last model was measured: was an earlier one better?  Then that is measured, and the run ends with
        it.  False also when this node does not have the best one: it never was a member while it was the newest."""
        stop, report = self.spec.stop, decode_report(self._head.report)
        best = self._host.bests.get(self.spec.id, report.best_round)
        if stop is None or report.best is None or best is None or self._ending is not None:
            return False
        value = means(total.metrics).get(stop.metric)
        same = stopping.comparable(report.population, stopping.population(total.contributors, self.spec.fraction))
        at_all = msgspec.structs.replace(stop, delta=0.0)
        if value is not None and same and not stopping.better(report.best, value, at_all):
            return False
        self._ending = report.best_round, best
        self._parts = []
        self._open(self._wave.wave + 1, now, round_=self._wave.round)
        return True

    def committed(self, head: Head, now: int) -> None:
        """The voters hold it: on to the next round."""
        self._head, self._fresh = head, False
        if not head.finished:
            self.start(now)
