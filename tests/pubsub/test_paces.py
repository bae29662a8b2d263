"""How often somebody may do something."""

from __future__ import annotations

from pubsub.paces import Paces


def taken(paces: Paces, key: bytes, times: int, now: int) -> int:
    return sum(paces.take(key, now) for _ in range(times))


def test_a_burst_is_followed_by_one_per_pause() -> None:
    paces = Paces(4, 10, 8)
    assert taken(paces, b"a", 9, 0) == 4
    assert taken(paces, b"a", 9, 25) == 2
    assert taken(paces, b"a", 9, 29) == 0
    assert taken(paces, b"a", 9, 30) == 1
    assert taken(paces, b"a", 9, 10_000) == 4


def test_nobody_uses_up_what_is_another_s() -> None:
    paces = Paces(2, 10, 8)
    assert taken(paces, b"a", 100, 0) == 2
    assert taken(paces, b"b", 100, 0) == 2


def test_keys_are_bounded_and_those_that_were_quiet_longest_are_forgotten() -> None:
    paces = Paces(1, 10, 2)
    assert [paces.take(key, 0) for key in (b"a", b"b", b"a", b"c", b"a")] == [True, True, False, True, False]
    assert len(paces) == 2
    assert paces.take(b"b", 0)
