"""Fetching an artifact once, for everybody who wants it, from whoever has it."""

from __future__ import annotations

import pytest

from protocol.effects import Outbox, Penalize, StartTransfer
from protocol.errors import Code
from protocol.events import ComputeDone, TransferDone, TransferFailed
from protocol.ids import NodeId
from protocol.messages import Value
from pubsub.holdings import MAX_SOURCES, MAX_WAITERS, Holdings

BLOB = b"B" * 32
BIG = Value(100_000, b"", BLOB)
LIMIT = 100_000
A, B = b"a" * 16, b"b" * 16


class Bench:
    def __init__(self) -> None:
        self.out = Outbox()
        self.holdings = Holdings(self.out)
        self.log: list[str] = []

    def ensure(self, name: str, *sources: NodeId, value: Value = BIG) -> None:
        self.holdings.ensure(
            value, LIMIT, sources, lambda now: self.log.append(f"{name} has it"), 0,
            failed=lambda now: self.log.append(f"{name} goes without"),
        )  # fmt: skip

    def asked(self) -> list[NodeId]:
        return [effect.peer for effect in self.out.drain() if isinstance(effect, StartTransfer)]

    def done(self) -> bool:
        return self.holdings.handle(TransferDone(BLOB), 0)

    def fail(self) -> bool:
        return self.holdings.handle(TransferFailed(BLOB, 0), 0)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_is_inline_is_here(bench: Bench) -> None:
    bench.ensure("one", A, value=Value(2, b"hi"))
    bench.ensure("two", A, value=Value())
    assert bench.log == ["one has it", "two has it"]
    assert bench.asked() == []


def test_what_is_too_large_is_never_asked_for_and_held_against_who_named_it(bench: Bench) -> None:
    bench.ensure("one", A, B, value=Value(LIMIT + 1, b"", BLOB))
    assert bench.out.drain() == [Penalize(A, Code.OVERSIZE, "artifact larger than its application allows")]
    assert bench.log == ["one goes without"]
    assert len(bench.holdings) == 0
    bench.ensure("two", A)
    assert bench.asked() == [A]


def test_many_wait_for_one_transfer(bench: Bench) -> None:
    bench.ensure("one", A)
    bench.ensure("two", B)
    assert bench.asked() == [A]
    assert bench.log == []
    assert bench.done()
    assert bench.log == ["one has it", "two has it"]
    assert len(bench.holdings) == 0


def test_a_failed_transfer_goes_on_from_another_source(bench: Bench) -> None:
    bench.ensure("one", A)
    bench.ensure("two", B)
    assert bench.fail()
    assert bench.asked() == [A, B]
    bench.done()
    assert bench.log == ["one has it", "two has it"]


def test_each_source_is_tried_twice_and_then_everybody_is_told(bench: Bench) -> None:
    bench.ensure("one", A, B)
    for _ in range(4):
        assert bench.log == []
        bench.fail()
    assert bench.asked() == [A, B, A, B]
    assert bench.log == ["one goes without"]
    assert len(bench.holdings) == 0
    assert not bench.fail()


def test_who_asks_again_after_a_failure_starts_anew(bench: Bench) -> None:
    bench.ensure("one", A)
    bench.fail()
    bench.fail()
    bench.ensure("one", B)
    assert bench.asked()[-1] == B
    bench.done()
    assert bench.log == ["one goes without", "one has it"]


def test_a_continuation_may_ask_for_the_same_again(bench: Bench) -> None:
    def again(now: int) -> None:
        bench.ensure("two", B)

    bench.holdings.ensure(BIG, LIMIT, (A,), lambda now: None, 0, failed=again)
    bench.fail()
    bench.fail()
    assert bench.asked() == [A, A, B]
    bench.done()
    assert bench.log == ["two has it"]


def test_sources_and_waiters_are_bounded(bench: Bench) -> None:
    for index in range(MAX_WAITERS + 10):
        bench.ensure(str(index), b"%016d" % index)
    assert bench.log == [f"{MAX_WAITERS + index} goes without" for index in range(10)]
    failures = 1
    while len(bench.holdings):
        bench.fail()
        failures += 1
    assert failures <= 2 * MAX_SOURCES + 1


def test_events_of_others_are_not_its_own(bench: Bench) -> None:
    assert not bench.done()
    assert not bench.fail()
    assert not bench.holdings.handle(ComputeDone(1), 0)
