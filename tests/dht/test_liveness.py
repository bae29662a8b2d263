"""Failure detection against an attentive clock: fast for watched peers, never because of our own lag."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.config import MS, SECOND, RingConfig
from dht.liveness import Liveness
from dht.messages import Ping
from protocol.effects import Outbox, Send, SetTimer

ME, LOW, HIGH = b"m" * 16, b"a" * 16, b"z" * 16
CONFIG = RingConfig.lan()


class Bench:
    """Drives one detector: time, its timer, and a peer that answers or not."""

    def __init__(self, peer: bytes = HIGH) -> None:
        self.out = Outbox()
        self.live = Liveness(ME, CONFIG, self.out, 0, lambda: b"digest")
        self.peer = peer
        self.now = SECOND
        self.due: int | None = None
        self.pings: list[int] = []
        self.dead: list[tuple[int, int]] = []
        self.late = 0
        self.slept = False

    def collect(self) -> list[Ping]:
        pings = []
        for effect in self.out.drain():
            if isinstance(effect, SetTimer):
                self.due = effect.at
            elif isinstance(effect, Send):
                assert isinstance(effect.message, Ping)
                assert effect.message.digest == b"digest"
                self.pings.append(self.now)
                pings.append(effect.message)
        return pings

    def until(self, end: int, *, answer: int | None = None) -> None:
        """Fire timers up to ``end``; the peer answers after ``answer`` ns, if at all."""
        self.collect()
        while self.due is not None and self.due + self.late <= end and not self.dead:
            due, self.due = self.due, None
            self.now = due + self.late
            self.slept |= self.live.lagged(due, self.now)
            for peer, silence in self.live.tick(self.now):
                self.dead.append((self.now, silence))
                self.live.forget(peer, self.now)
            pings = self.collect()
            if pings and answer is not None:
                self.now += answer
                assert self.live.pong(self.peer, pings[-1].nonce, self.now) == answer
                self.live.heard(self.peer, self.now)
                self.collect()
        self.now = max(self.now, end)


def test_a_silent_watched_peer_is_dead_within_three_seconds() -> None:
    for peer in (LOW, HIGH):
        bench = Bench(peer)
        bench.live.watch(peer, "tree", bench.now, linked=True)
        bench.until(10 * SECOND)
        ((when, silence),) = bench.dead
        assert 2_500 * MS <= silence == when - SECOND <= 3 * SECOND
        assert len(bench.pings) >= 4


def test_who_answers_lives_and_costs_one_exchange_a_period() -> None:
    bench = Bench()
    bench.live.watch(HIGH, "tree", bench.now, linked=True)
    bench.until(101 * SECOND, answer=30 * MS)
    assert not bench.dead
    assert 90 <= len(bench.pings) <= 101
    assert not bench.live.suspected(HIGH)


def test_of_two_that_watch_each_other_the_smaller_id_asks_first() -> None:
    first, second = Bench(HIGH), Bench(LOW)
    for bench in (first, second):
        bench.live.watch(bench.peer, "tree", bench.now, linked=True)
        bench.until(4 * SECOND)
    assert first.pings[0] < second.pings[0]


def test_suspected_before_dead_and_cleared_by_any_word() -> None:
    bench = Bench()
    bench.live.watch(HIGH, "tree", bench.now, linked=True)
    bench.until(SECOND + 2 * SECOND)
    assert bench.live.suspected(HIGH)
    bench.live.heard(HIGH, bench.now)
    assert not bench.live.suspected(HIGH)
    bench.until(bench.now + 2 * SECOND)
    assert not bench.dead


def test_near_neighbours_are_pinged_seldom() -> None:
    bench = Bench()
    bench.live.set_neighbours([HIGH], bench.now)
    bench.live.heard(HIGH, bench.now)
    bench.until(101 * SECOND, answer=MS)
    assert 8 <= len(bench.pings) <= 10
    bench.until(130 * SECOND)
    assert bench.dead


def test_a_question_is_asked_once_and_forgotten_when_answered() -> None:
    bench = Bench()
    bench.live.question(HIGH, bench.now)
    (ping,) = bench.collect()
    assert bench.live.pong(HIGH, ping.nonce + 1, bench.now) is None
    assert bench.live.pong(HIGH, ping.nonce, bench.now + 5) == 5
    bench.live.heard(HIGH, bench.now + 5)
    assert bench.live.monitored == []
    assert bench.live.pong(HIGH, ping.nonce, bench.now + 5) is None


def test_an_unanswered_question_is_a_death_after_the_time_to_dial() -> None:
    bench = Bench()
    bench.live.question(HIGH, bench.now)
    bench.until(20 * SECOND)
    assert [silence for _, silence in bench.dead] == [CONFIG.dial_patience]


def test_watching_ends_with_the_last_purpose() -> None:
    bench = Bench()
    bench.live.watch(HIGH, "one", bench.now, linked=True)
    bench.live.watch(HIGH, "two", bench.now, linked=True)
    bench.live.unwatch(HIGH, "one")
    assert bench.live.watched(HIGH)
    bench.live.unwatch(HIGH, "two")
    bench.live.unwatch(HIGH, "two")
    assert not bench.live.watched(HIGH)
    assert bench.live.monitored == []


def test_a_refused_ping_counts_after_a_second_try() -> None:
    bench = Bench()
    bench.live.suspect(HIGH, bench.now)
    assert not bench.live.refused(HIGH, bench.now)
    assert bench.live.suspected(HIGH)
    assert bench.live.refused(HIGH, bench.now + CONFIG.suspect_after)
    assert not bench.live.refused(LOW, bench.now)


@given(st.integers(250, 2000))
def test_a_node_whose_timers_lag_suspects_nobody(lag_ms: int) -> None:
    bench = Bench()
    bench.late = lag_ms * MS
    bench.live.watch(HIGH, "tree", bench.now, linked=True)
    # The peer answers each ping, but our loop reads every answer so late that ours would be the blame.
    bench.until(120 * SECOND, answer=1_200 * MS)
    assert not bench.dead


def test_moderate_lag_delays_detection_in_proportion() -> None:
    bench = Bench()
    bench.late = 40 * MS
    bench.live.watch(HIGH, "tree", bench.now, linked=True)
    bench.until(10 * SECOND)
    assert bench.dead[0][1] <= 3 * SECOND


def test_after_a_sleep_everybody_gets_a_fresh_chance() -> None:
    bench = Bench()
    bench.live.watch(HIGH, "tree", bench.now, linked=True)
    bench.until(3 * SECOND)
    assert bench.live.suspected(HIGH)
    assert bench.due is not None
    due, woke = bench.due, bench.now + 3600 * SECOND
    assert bench.live.lagged(due, woke)
    assert not bench.live.suspected(HIGH)
    # Whatever timers were late by the same sleep, it is excused once.
    assert bench.live.lagged(due, woke)
    bench.now = woke
    assert bench.live.tick(woke) == []
    bench.until(woke + 2 * SECOND)
    assert not bench.dead
    bench.until(woke + 4 * SECOND)
    assert bench.dead
