"""Transfers as flows: shared rates, resumption, and what happens when an end goes away."""

from __future__ import annotations

import pytest

from protocol import effects as fx
from protocol import events as ev
from simulations.artifacts import Artifacts
from simulations.clock import SECOND

from .toy import Lab

MB = 1_000_000


class Bulk:
    """A blob of 10 MB at host 0, links of 1 MB/s, and the moments at which it arrived elsewhere."""

    def __init__(self, count: int) -> None:
        self.lab = Lab(count, up_rate=float(MB), down_rate=float(MB), span_ns=0, base_ns=1000)
        self.blob = self.lab.engine.artifacts.create(self.lab.host(0), 10 * MB, 42)

    def fetch(self, target: int, source: int, after: int = 0) -> None:
        self.lab.run(after)
        self.lab.do(target, fx.StartTransfer(self.lab.host(source).id, self.blob, 10 * MB))

    def done(self, target: int) -> float:
        times = [now for now, event in self.lab.toy(target).seen if isinstance(event, ev.TransferDone)]
        assert len(times) == 1
        return (times[0] - self.lab.host(target).clock_offset) / SECOND

    def failed(self, target: int) -> ev.TransferFailed:
        (event,) = self.lab.toy(target).events(ev.TransferFailed)
        assert isinstance(event, ev.TransferFailed)
        return event


def test_one_transfer_takes_size_over_rate() -> None:
    bulk = Bulk(2)
    bulk.fetch(1, 0)
    bulk.lab.run(20 * SECOND)
    assert bulk.done(1) == pytest.approx(10, abs=0.01)
    assert bulk.lab.engine.artifacts.holds(bulk.lab.host(1), bulk.blob)
    bulk.fetch(1, 0)
    bulk.lab.run(1)
    assert len(bulk.lab.toy(1).events(ev.TransferDone)) == 2


def test_transfers_share_an_uplink_and_inherit_it() -> None:
    bulk = Bulk(3)
    bulk.fetch(1, 0)
    bulk.fetch(2, 0, after=5 * SECOND)
    bulk.lab.run(60 * SECOND)
    assert bulk.done(1) == pytest.approx(15, abs=0.01)
    assert bulk.done(2) == pytest.approx(20, abs=0.01)


def test_a_chain_passes_on_what_comes_and_never_more() -> None:
    bulk = Bulk(4)
    bulk.fetch(1, 0)
    bulk.fetch(2, 1, after=2 * SECOND)
    bulk.fetch(3, 2, after=2 * SECOND)
    bulk.lab.run(60 * SECOND)
    assert bulk.done(1) == pytest.approx(10, abs=0.01)
    assert bulk.done(1) <= bulk.done(2) <= bulk.done(3)
    assert bulk.done(3) == pytest.approx(14, abs=0.01)


def test_a_fast_link_behind_a_slow_one_catches_up_and_waits() -> None:
    bulk = Bulk(4)
    bulk.fetch(1, 0)
    bulk.fetch(3, 0)  # halves the feed of host 1
    bulk.fetch(2, 1, after=4 * SECOND)
    bulk.lab.run(60 * SECOND)
    assert bulk.done(1) == pytest.approx(20, abs=0.01)
    assert bulk.done(2) == pytest.approx(20, abs=0.01)


def test_progress_survives_and_the_next_transfer_resumes() -> None:
    bulk = Bulk(3)
    bulk.lab.engine.artifacts.add(bulk.lab.host(2), bulk.blob)
    bulk.fetch(1, 0)
    bulk.lab.run(6 * SECOND)
    bulk.lab.engine.crash(bulk.lab.host(0))
    bulk.lab.run(SECOND)
    assert bulk.failed(1).progress == pytest.approx(6 * MB, rel=0.01)
    bulk.fetch(1, 2)
    bulk.lab.run(5 * SECOND)
    assert bulk.done(1) == pytest.approx(11, abs=0.01)


def test_whoever_feeds_on_a_broken_transfer_waits_for_it_to_resume() -> None:
    bulk = Bulk(4)
    bulk.lab.engine.artifacts.add(bulk.lab.host(3), bulk.blob)
    bulk.fetch(1, 0)
    bulk.fetch(2, 1)
    bulk.lab.run(4 * SECOND)
    bulk.lab.engine.crash(bulk.lab.host(0))
    bulk.fetch(1, 3, after=3 * SECOND)
    bulk.lab.run(10 * SECOND)
    assert bulk.done(1) == bulk.done(2) == pytest.approx(13, abs=0.01)


def test_a_transfer_that_does_not_move_is_given_up() -> None:
    bulk = Bulk(2)
    bulk.fetch(1, 0)
    bulk.lab.run(2 * SECOND)
    bulk.lab.engine.crash(bulk.lab.host(0), power=True)
    bulk.lab.run(9 * SECOND)
    assert not bulk.lab.toy(1).events(ev.TransferFailed)
    bulk.lab.run(2 * SECOND)
    assert bulk.failed(1).why == "stalled"


def test_two_that_fetch_from_each_other_get_nothing() -> None:
    bulk = Bulk(3)
    bulk.fetch(1, 2)
    bulk.fetch(2, 1)
    bulk.lab.run(30 * SECOND)
    assert bulk.failed(1).why == "stalled"


def test_what_a_peer_does_not_hold_fails_at_once() -> None:
    bulk = Bulk(3)
    bulk.fetch(1, 2)
    bulk.lab.run(SECOND)
    assert bulk.failed(1) == ev.TransferFailed(bulk.blob, 0, "not held")


def test_a_cut_stalls_and_its_healing_resumes() -> None:
    bulk = Bulk(2)
    bulk.fetch(1, 0)
    bulk.lab.run(2 * SECOND)
    cut = bulk.lab.network.cut([0])
    bulk.lab.engine.heal()
    bulk.lab.run(5 * SECOND)
    bulk.lab.network.cuts.remove(cut)
    bulk.lab.engine.heal()
    bulk.lab.run(10 * SECOND)
    assert bulk.done(1) == pytest.approx(15, abs=0.01)


def test_cancelled_and_dead_transfers_say_nothing() -> None:
    bulk = Bulk(3)
    bulk.fetch(1, 0)
    bulk.fetch(2, 0)
    bulk.lab.run(2 * SECOND)
    bulk.lab.do(1, fx.CancelTransfer(bulk.blob))
    bulk.lab.engine.crash(bulk.lab.host(2))
    bulk.lab.engine.start(bulk.lab.host(2))
    bulk.lab.run(60 * SECOND)
    for index in (1, 2):
        assert not bulk.lab.toy(index).events(ev.TransferDone)
        assert not bulk.lab.toy(index).events(ev.TransferFailed)


def test_a_store_over_its_quota_forgets_what_is_not_pinned_oldest_first() -> None:
    lab = Lab(1)
    store, host = Artifacts(quota=1000), lab.host(0)
    pinned = store.create(host, 400, 0)
    store.pin(host, pinned, keep=True)
    blobs = [store.create(host, 300, number) for number in range(1, 4)]
    assert [store.holds(host, blob) for blob in (pinned, *blobs)] == [True, False, True, True]
    store.restarted(host)
    newest = store.create(host, 300, 4)
    assert [store.holds(host, blob) for blob in (pinned, *blobs, newest)] == [False, False, True, True, True]
