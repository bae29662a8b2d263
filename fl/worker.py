"""The worker's part: train on local data when a wave asks for it, and keep the result until the round is committed.

The kept contribution is the redo log of the round.  When the root dies and its successor opens the same round again, or
when a wave was lost on its way up, the worker hands in what it has; nothing is trained twice on the same model.
Training outlives waves: what becomes ready after its wave was closed goes into the next wave of the round.
"""

from __future__ import annotations

import hashlib

from protocol.messages import Value
from pubsub.heads import MAX_METRICS, MAX_NAME
from pubsub.messages import Partial
from pubsub.partials import flaw
from pubsub.ports import OpenWave
from pubsub.sizes import limit

from .messages import Order, Work
from .ports import WorkerHost
from .spec import AppSpec
from .tasks import Contribution, Describe, Evaluate, Train

FLAWED = (
    f"a weight or metric is not finite, or there are more than {MAX_METRICS} metrics or names over {MAX_NAME} letters"
)
"""Why the local result was not handed in."""


def selected(beacon: bytes, member: bytes, fraction: float) -> bool:
    """Does ``member`` take part?  Every node can check it for every other; nobody keeps a list."""
    if fraction >= 1.0:
        return True
    draw = int.from_bytes(hashlib.sha256(beacon + member).digest()[:8], "big")
    return draw < fraction * 2**64


def seed_of(app_seed: int, round_: int, member: bytes) -> int:
    """The seed of one training, so that whoever knows who contributed can repeat it (63 bits)."""
    material = app_seed.to_bytes(16, "big", signed=True) + round_.to_bytes(8, "big") + member
    return int.from_bytes(hashlib.sha256(material).digest()[:8], "big") >> 1


class Worker:
    """This node's work for one application."""

    __slots__ = ("_host", "_job", "_kept", "_model", "_round", "_wave", "_work", "spec")

    def __init__(self, spec: AppSpec, host: WorkerHost) -> None:
        self.spec, self._host = spec, host
        self._wave: OpenWave | None = None
        self._work: Work | None = None
        self._round = 0
        self._model: Value | None = None
        self._job = 0
        """The running job; 0 when there is none."""
        self._kept: Partial | None = None

    def opened(self, wave: OpenWave, order: Order, eligible: bool, now: int) -> None:
        """Take part, or say at once that there is nothing."""
        me = self._host.me.id
        sits_out = not eligible or not wave.may_contribute or me in wave.closed
        if sits_out or (order.work is Work.TRAIN and not selected(order.beacon, me, self.spec.fraction)):
            self._host.forest.contribute(self.spec.id, wave.id, None, now)
            return
        same = (self._work, self._round, self._model) == (order.work, wave.id.round, wave.model)
        self._wave = wave
        if same and self._kept is not None:
            self._host.forest.contribute(self.spec.id, wave.id, self._kept, now)
        elif not (same and self._job):
            self._begin(wave, order.work, now)  # also when the model is on its way: there may be a better source now

    def _begin(self, wave: OpenWave, work: Work, now: int) -> None:
        self.drop()
        self._wave, self._work, self._round, self._model = wave, work, wave.id.round, wave.model
        forest, bundle = self._host.forest, self.spec.bundle
        holdings, sources = forest.holdings, forest.sources(self.spec.id, wave.source)

        def have_model(at: int) -> None:
            holdings.ensure(bundle, bundle.size, sources, start, at)

        def start(at: int) -> None:
            still = self._wave is not None and not self._job and self._kept is None
            if still and (self._work, self._round, self._model) == (work, wave.id.round, wave.model):
                self._start(work, at)

        holdings.ensure(wave.model, limit(self.spec.initial), sources, have_model, now)

    def _start(self, work: Work, now: int) -> None:
        wave, spec = self._wave, self.spec
        assert wave is not None and self._model is not None
        me, round_ = self._host.me.id, self._round
        if work is Work.TRAIN:
            seed = seed_of(spec.seed, round_, me)
            task = Train(spec.id, spec, round_, self._model, seed, spec.evaluate)
            self._job = self._host.jobs.run(task, self._done)
        elif work is Work.EVALUATE:
            self._job = self._host.jobs.run(Evaluate(spec.id, spec, round_, self._model), self._done)
        else:
            self._job = self._host.jobs.run(Describe(spec.id, spec), self._done)

    def _done(self, result: Contribution | None, error: str, now: int) -> None:
        self._job = 0
        wave = self._wave
        if wave is None:
            return
        if result is None:
            self._host.complain(self.spec.id, wave.id.round, error, now)
            self._host.forest.contribute(self.spec.id, wave.id, None, now)
            return
        kept = Partial(result.weight, result.value, (self._host.me.id,), result.metrics)
        if flaw(kept) is not None:
            self._host.complain(self.spec.id, wave.id.round, FLAWED, now)
            self._host.forest.contribute(self.spec.id, wave.id, None, now)
            return
        self._kept = kept
        if result.value.blob:
            self._host.out.pin(result.value.blob)
        self._host.forest.contribute(self.spec.id, wave.id, self._kept, now)

    def committed(self, round_: int) -> None:
        """The round is decided: whatever was kept for it is history."""
        if self._round <= round_:
            self.drop()

    def resign(self, now: int) -> None:
        """Work no more: nothing is handed in to the wave under way unless that was done already."""
        wave = self._wave
        if wave is not None and self._kept is None:
            self._host.forest.contribute(self.spec.id, wave.id, None, now)
        self.drop()

    def drop(self) -> None:
        """Forget the contribution and stop what still runs."""
        if self._job > 0:
            self._host.jobs.cancel(self._job)
        if self._kept is not None and self._kept.value.blob:
            self._host.out.unpin(self._kept.value.blob)
        self._job, self._kept, self._wave, self._work, self._model = 0, None, None, None, None
