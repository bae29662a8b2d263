"""How long a candidate keeps the others away, and what it costs it."""

from __future__ import annotations

from protocol.messages import Contact
from pubsub.config import SECOND, TreeConfig
from pubsub.lease import MAX_CANDIDATES, Lease
from tests.pubsub.quiet import QuietRing
from tests.pubsub.seals import node

CONFIG = TreeConfig()
A, B = Contact(node(1), ("10.0.0.1:1",), 1), Contact(node(2), ("10.0.0.2:1",), 1)
TURN = CONFIG.candidacy


def lease() -> Lease:
    return Lease("vote:", CONFIG, QuietRing((A, B)))


def test_asking_again_prolongs_nothing() -> None:
    held = lease()
    for at in range(0, TURN + 1, TURN // 10):
        held.take(A, at)
        assert held.bars(B.id, at)
    assert not held.bars(B.id, TURN + 1)


def test_who_wins_nothing_sits_out_ever_longer() -> None:
    held, now, pauses = lease(), 0, []
    for _ in range(8):
        held.take(A, now)
        over = now + TURN
        now = over + 1
        while held.bars(A.id, now):
            now += SECOND // 10
        pauses.append((now - over) // SECOND)
    assert pauses == [6, 12, 20, 20, 20, 20, 20, 20]
    assert not held.bars(B.id, now)


def test_others_have_the_time_in_which_one_sits_out() -> None:
    """One that asks whenever it may, for ten minutes: how much of them does it hold?"""
    held, kept = lease(), 0
    for now in range(0, 600 * SECOND, SECOND // 10):
        kept += held.other(B.id, now)
        if not held.bars(A.id, now):
            held.take(A, now)
    assert kept < 1000, "less than a sixth of the time"


def test_who_gives_back_at_once_sits_out_for_little() -> None:
    held, pauses = lease(), []
    now = 0
    for _ in range(7):
        held.take(A, now)
        held.give_back(A.id, now + 1)
        assert not held.other(B.id, now + 1)
        over = now + 1
        while held.bars(A.id, now):
            now += SECOND // 100
        pauses.append((now - over) // (SECOND // 10))
    assert pauses == [14, 28, 56, 112, 200, 200, 200]


def test_a_lease_is_good_for_a_few_epochs_until_it_is_won() -> None:
    held = lease()
    for _ in range(CONFIG.climb):
        assert not held.bars(A.id, 0)
        held.take(A, 0)
    assert held.bars(A.id, 0)
    held.prolong(A, 1)
    assert not held.bars(A.id, 1)


def test_holding_and_giving_back_in_turns_is_no_way_round() -> None:
    held, kept = lease(), 0
    for now in range(0, 600 * SECOND, SECOND // 10):
        kept += held.other(B.id, now)
        if held.holder == A and now % (2 * SECOND) == 0:
            held.give_back(A.id, now)
        if not held.bars(A.id, now):
            held.take(A, now)
    assert kept < 1000


def test_proof_of_having_won_wipes_the_slate() -> None:
    held = lease()
    held.take(A, 0)
    held.bars(B.id, TURN + 1)
    assert held.bars(A.id, TURN + 1)
    held.prolong(A, TURN + 2)
    held.give_back(A.id, TURN + 3)
    assert not held.bars(A.id, TURN + 3)


def test_the_dead_keep_nobody_away_and_owe_nothing() -> None:
    ring = QuietRing((A, B))
    held = Lease("vote:", CONFIG, ring)
    held.take(A, 0)
    ring.dead = [A.id]
    assert not held.bars(B.id, 1)
    held.take(B, 1)
    ring.dead = []
    held.give_back(B.id, 1)
    assert not held.bars(A.id, 2)


def test_the_holder_alone_is_watched() -> None:
    ring = QuietRing((A, B))
    held = Lease("vote:", CONFIG, ring)
    held.take(A, 0)
    held.prolong(B, 1)
    assert ring.watched == [(B.id, "vote:")]
    held.end()
    assert ring.watched == []


def test_a_crowd_of_candidates_is_remembered_in_part() -> None:
    held = lease()
    for index in range(3 * MAX_CANDIDATES):
        one = Contact(index.to_bytes(16, "big"), ("10.0.0.1:1",), 1)
        held.in_pace(one.id, 0)
        held.take(one, index * 2 * TURN)
    assert len(held._paces) <= MAX_CANDIDATES
    assert len(held._failures) <= MAX_CANDIDATES
