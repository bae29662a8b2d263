"""What takes time: the compute port, and the integer arithmetic that stands in for learning.

Under the engine a contribution is an integer of arbitrary precision, derived from (application seed, round, node, model
it was trained on), and a model is the sum of everything that was ever committed.  Sums are exact whatever the order, so
a contribution that was lost, counted twice, or trained on the wrong model shows in the result at once.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Protocol

from fl import tasks
from fl.spec import AppSpec
from protocol.ids import NodeId
from protocol.messages import EMPTY, INLINE_LIMIT, Value
from protocol.streams import Stream

from .artifacts import Artifacts
from .clock import MICROSECOND, MILLISECOND, SECOND
from .host import Host


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended, and how long it took."""

    result: Any
    error: str
    took_ns: int


class ComputePort(Protocol):
    """Runs tasks for the engine.  The result is computed when the task starts and delivered when its time is up."""

    def run(self, host: Host, task: Any) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """How long things take."""

    train_ns: int = 2 * SECOND
    """Median duration of one training."""
    sigma: float = 0.4
    """Spread of the logarithm of a node's speed, and half of it again from job to job."""
    straggler_share: float = 0.02
    """Share of nodes that are slower still."""
    straggler_factor: float = 8.0
    merge_rate: float = 1e9
    """Bytes/s at which partials are merged and a round is finished."""


def contribution(spec: AppSpec, round_: int, node: NodeId, model: int) -> tuple[int, int]:
    """The (weighted update, weight) that ``node`` hands in for ``round_`` when it trains from ``model``."""
    seed = repr((spec.seed, round_, model)).encode() + node
    raw = hashlib.blake2b(seed, digest_size=16).digest()
    weight = 1 + raw[0] % 100
    return weight * int.from_bytes(raw[1:], "big", signed=True), weight


class IntegerCompute:
    """Executes ``fl.tasks`` on integers, with a log-normal duration per node and job."""

    def __init__(self, config: ComputeConfig, artifacts: Artifacts, seed: int) -> None:
        self._config = config
        self._artifacts = artifacts
        self._seed = seed
        self._jobs = 0

    def run(self, host: Host, task: Any) -> Outcome:
        """Raises nothing: what cannot be computed comes back as an error, as from a worker process."""
        self._jobs += 1
        if isinstance(task, tasks.Merge):
            return self._merge(host, task)
        for value in _inputs(task):
            if value.blob and not self._artifacts.holds(host, value.blob):
                return Outcome(None, f"artifact {value.blob.hex()[:8]} is not in the store", MILLISECOND)
        if isinstance(task, tasks.Train):
            return Outcome(self._train(host, task), "", self._duration(host, 1.0))
        if isinstance(task, tasks.Evaluate | tasks.Describe):
            _, weight = contribution(task.spec, 0, host.id, 0)
            measured = tasks.Contribution(EMPTY, float(weight), _metrics(weight))
            return Outcome(measured, "", self._duration(host, 0.1))
        assert isinstance(task, tasks.Finish), task
        model = self.integer(task.model) + self.integer(task.total)
        state = self.integer(task.state) + 1
        size = task.spec.initial.size
        finished = tasks.Finished(self.value(host, model, size), self.value(host, state, 32))
        return Outcome(finished, "", self._moving(2 * size))

    def _merge(self, host: Host, task: tasks.Merge) -> Outcome:
        """What a layout is to tensors, the size of the model is to an integer."""
        size, inputs = task.spec.initial.size, list(enumerate(task.inputs))
        lost = [at for at, value in inputs if value.blob and not self._artifacts.holds(host, value.blob)]
        rejected = [at for at, value in inputs if at not in lost and value.size != size]
        kept = [value for at, value in inputs if at not in lost and at not in rejected]
        total = self.value(host, sum(map(self.integer, kept)), size) if kept else EMPTY
        took = self._moving(sum(value.size for value in kept))
        return Outcome(tasks.Merged(total, tuple(rejected), tuple(lost)), "", took)

    def integer(self, value: Value) -> int:
        """The integer that ``value`` holds or names."""
        if value.blob:
            return int(self._artifacts.content(value.blob))
        return int.from_bytes(value.inline, "big", signed=True)

    def value(self, host: Host, number: int, size: int) -> Value:
        """``number`` as a value of ``size`` bytes, which ``host`` then holds if it is too large to ride along."""
        if size > INLINE_LIMIT:
            return Value(size, b"", self._artifacts.create(host, size, number))
        return Value(size, number.to_bytes(size, "big", signed=True))

    def _train(self, host: Host, task: tasks.Train) -> tasks.Contribution:
        update, weight = contribution(task.spec, task.round, host.id, self.integer(task.model))
        return tasks.Contribution(
            self.value(host, update, task.spec.initial.size), float(weight), _metrics(weight if task.evaluate else 0)
        )

    def _duration(self, host: Host, share: float) -> int:
        config = self._config
        own = Stream(self._seed, "speed", host.index)
        slow = config.straggler_factor if own.uniform() < config.straggler_share else 1.0
        job = Stream(self._seed, "job", self._jobs)
        factor = math.exp(config.sigma * (_normal(own) + 0.5 * _normal(job)))
        return int(config.train_ns * share * slow * factor) + MICROSECOND

    def _moving(self, size: int) -> int:
        return 50 * MICROSECOND + int(size * SECOND / self._config.merge_rate)


def _metrics(weight: int) -> dict[str, float]:
    return {"loss": float(weight), "loss.n": float(weight)} if weight else {}


def _inputs(task: Any) -> tuple[Value, ...]:
    if isinstance(task, tasks.Train | tasks.Evaluate):
        return (task.model,)
    if isinstance(task, tasks.Finish):
        return task.model, task.state, task.total
    return ()


def _normal(stream: Stream) -> float:
    """Box and Muller's way from two uniform draws to one normal draw."""
    return math.sqrt(-2.0 * math.log(1.0 - stream.uniform())) * math.cos(2.0 * math.pi * stream.uniform())
