"""Penalties: what counts, what leaks away, what is enough, and how much is remembered."""

from __future__ import annotations

from node.links.penalties import HALF_LIFE, Penalties
from protocol.errors import Code

PEER = b"p" * 16


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_stream_of_violations_bans_a_handful_does_not() -> None:
    clock = Clock()
    penalties = Penalties(limit=3, ban=100, clock=clock)
    assert not any(penalties.count(PEER, Code.UNKNOWN_KIND) for _ in range(100))
    assert [penalties.count(PEER, Code.MALFORMED) for _ in range(4)] == [False, False, False, True]
    assert penalties.banned(PEER)
    clock.now = 100.0
    assert not penalties.banned(PEER)
    for _ in range(20):
        assert not penalties.count(PEER, Code.MALFORMED)
        clock.now += HALF_LIFE
    assert penalties.counts == {"UNKNOWN_KIND": 100, "MALFORMED": 24}


def test_a_wrong_artifact_weighs_more() -> None:
    penalties = Penalties(limit=10, ban=100, clock=Clock())
    assert [penalties.count(PEER, Code.BAD_DIGEST) for _ in range(2)] == [False, True]


def test_the_table_forgets_the_least_recently_counted() -> None:
    penalties = Penalties(limit=10, ban=100, clock=Clock())
    for number in range(5000):
        penalties.count(number.to_bytes(16, "big"), Code.MALFORMED)
        penalties.count(PEER, Code.UNKNOWN_KIND)
    assert len(penalties._scores) <= 1024
    assert penalties.score((4999).to_bytes(16, "big")) == 1.0
    assert penalties.score((0).to_bytes(16, "big")) == 0.0
