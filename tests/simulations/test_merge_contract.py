"""What a merge owes to everybody, under each of the three drivers: one bad input costs itself and nothing else.

The daemon adds tensors from its store, the emulation tensors in memory, the engine integers; what they leave out, and
whom they leave unblamed, is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from fl import aggregate, codec
from fl.spec import AppSpec
from fl.tasks import Merge, Merged
from node.artifacts import ArtifactStore
from node.compute import TaskRunner
from node.supervisor import Supervisor
from protocol.events import ComputeDone, Event
from protocol.messages import EMPTY, INLINE_LIMIT, Contact, Value
from simulations.artifacts import Artifacts
from simulations.compute import ComputeConfig, IntegerCompute
from simulations.host import Host
from simulations.learning import LearningCompute
from tests.fl.roles import spec
from tests.node.fabric import until

ME = Contact(bytes(16), ("sim:0",))
SMALL, LARGE = 4, INLINE_LIMIT
"""Elements: a value that rides along, and one that is named."""


class Driver(Protocol):
    """One way to compute; ``good`` and ``number`` are each other's inverse."""

    def spec(self) -> AppSpec: ...
    def good(self, number: int) -> Value: ...
    def foreign(self) -> Value: ...
    def number(self, value: Value) -> int: ...
    def merge(self, task: Merge) -> Merged: ...


def tensors(number: float, elements: int) -> bytes:
    return codec.encode({"w": np.full(elements, number, np.float32)})


class Daemon:
    """``node.compute`` over a store on disk."""

    def __init__(self, elements: int, path: Path) -> None:
        self._elements, self._loop, self._events = elements, asyncio.Runner(), list[Event]()
        self._store, self._supervisor = ArtifactStore(path), Supervisor()
        self._store.open()
        self._runner = TaskRunner(self._store, None, self._supervisor, self._events.append)

    def spec(self) -> AppSpec:
        return spec(initial=Value(1, b"x"), layout=aggregate.layout_of(tensors(0, self._elements)))

    def good(self, number: int) -> Value:
        return self._value(tensors(number, self._elements))

    def foreign(self) -> Value:
        return self._value(tensors(1, self._elements + 1))

    def _value(self, content: bytes) -> Value:
        if len(content) <= INLINE_LIMIT:
            return Value(len(content), content)
        return Value(len(content), blob=self._loop.run(self._store.put(content)))

    def number(self, value: Value) -> int:
        content = self._loop.run(self._store.read(value.blob)) if value.blob else value.inline
        return int(codec.decode(content)["w"][-1])

    def merge(self, task: Merge) -> Merged:
        async def work() -> Event:
            self._runner.start(1, task)
            await until(lambda: self._events)
            return self._events.pop()

        done = self._loop.run(work())
        assert isinstance(done, ComputeDone)
        assert isinstance(done.result, Merged), done.error
        return done.result

    def close(self) -> None:
        self._runner.close()
        self._loop.run(self._supervisor.close())
        self._store.close()
        self._loop.close()


class Emulation:
    """``simulations.learning``, which runs the user's functions in this process."""

    def __init__(self, elements: int, path: Path) -> None:
        self._elements, self._host = elements, Host(0, ME)
        self._compute = LearningCompute({}, Artifacts(), 1)

    def spec(self) -> AppSpec:
        return spec(layout=aggregate.layout_of(tensors(0, self._elements)))

    def good(self, number: int) -> Value:
        return self._compute.value(self._host, tensors(number, self._elements))

    def foreign(self) -> Value:
        return self._compute.value(self._host, tensors(1, self._elements + 1))

    def number(self, value: Value) -> int:
        return int(codec.decode(self._compute.content(value))["w"][-1])

    def merge(self, task: Merge) -> Merged:
        outcome = self._compute.run(self._host, task)
        assert isinstance(outcome.result, Merged), outcome.error
        return outcome.result


class EngineOfIntegers:
    """``simulations.compute``: integers of the size of a model."""

    def __init__(self, elements: int, path: Path) -> None:
        self._size, self._host = 4 * elements + 8, Host(0, ME)
        self._compute = IntegerCompute(ComputeConfig(), Artifacts(), 1)

    def spec(self) -> AppSpec:
        return spec(initial=self.good(0))

    def good(self, number: int) -> Value:
        return self._compute.value(self._host, number, self._size)

    def foreign(self) -> Value:
        return self._compute.value(self._host, 1, self._size + 4)

    def number(self, value: Value) -> int:
        return self._compute.integer(value)

    def merge(self, task: Merge) -> Merged:
        outcome = self._compute.run(self._host, task)
        assert isinstance(outcome.result, Merged), outcome.error
        return outcome.result


JUNK = Value(4, b"junk")
GONE = Value(INLINE_LIMIT + 1, blob=bytes(32))


@pytest.fixture(params=[(kind, size) for kind in (Daemon, Emulation, EngineOfIntegers) for size in (SMALL, LARGE)])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    kind, elements = request.param
    made = kind(elements, tmp_path)
    yield made
    if isinstance(made, Daemon):
        made.close()


def merged(driver: Driver, *inputs: Value) -> Merged:
    spec_ = driver.spec()
    return driver.merge(Merge(spec_.id, spec_, inputs, (1,) * len(inputs)))


def test_what_can_be_added_is(driver: Driver) -> None:
    result = merged(driver, driver.good(3), driver.good(-5), driver.good(9))
    assert (driver.number(result.value), result.rejected, result.lost) == (7, (), ())


@pytest.mark.parametrize("first", [True, False])
def test_junk_and_foreign_tensors_are_left_out_and_named(driver: Driver, first: bool) -> None:
    """In the first place too: no input is the measure of the others."""
    bad, good = (JUNK, driver.foreign()), (driver.good(3), driver.good(4))
    result = merged(driver, *(bad + good if first else good + bad))
    assert driver.number(result.value) == 7
    assert (result.rejected, result.lost) == ((0, 1) if first else (2, 3), ())


def test_what_is_not_in_the_store_is_left_out_and_not_held_against_anybody(driver: Driver) -> None:
    result = merged(driver, driver.good(3), GONE, JUNK, driver.good(4))
    assert (driver.number(result.value), result.rejected, result.lost) == (7, (2,), (1,))


def test_a_single_good_input_is_the_sum(driver: Driver) -> None:
    good = driver.good(5)
    assert merged(driver, JUNK, good) == Merged(good, rejected=(0,))
    assert merged(driver, good) == Merged(good)


def test_of_nothing_but_junk_nothing_is_left(driver: Driver) -> None:
    assert merged(driver, JUNK, driver.foreign()) == Merged(EMPTY, rejected=(0, 1))
