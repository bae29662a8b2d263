"""When a leaf certificate is due for renewal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.identity.certificates import Leaf
from node.identity.issuing import BACKDATE, LEAF_LIFE
from node.identity.renewal import is_due, renew_at, seconds_left

MADE = 1_800_000_000
LEAF = Leaf(b"", b"", MADE - BACKDATE, MADE + LEAF_LIFE)


def test_a_fresh_leaf_is_not_due_and_an_old_one_is() -> None:
    assert not is_due(LEAF, MADE)
    assert not is_due(LEAF, MADE + LEAF_LIFE // 2)
    assert is_due(LEAF, MADE + LEAF_LIFE * 3 // 4)
    assert is_due(LEAF, MADE + LEAF_LIFE * 100)


def test_a_third_of_the_life_is_left_when_it_is_due() -> None:
    assert LEAF.not_after - renew_at(LEAF) >= LEAF_LIFE // 3


def test_a_clock_that_was_set_back_beyond_the_window_makes_it_due() -> None:
    assert not is_due(LEAF, MADE - BACKDATE)
    assert is_due(LEAF, MADE - BACKDATE - 1)


@given(st.integers(0, 4_000_000_000))
def test_the_wait_ends_exactly_when_it_is_due(now: int) -> None:
    left = seconds_left(LEAF, now)
    assert left >= 0
    assert is_due(LEAF, now + left)
    assert left == 0 or not is_due(LEAF, now + left - 1)
