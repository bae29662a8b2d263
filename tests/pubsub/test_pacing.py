"""How long a wave is waited for where nothing from above says so."""

from __future__ import annotations

from pubsub.config import TreeConfig
from pubsub.pacing import Pacing, Step
from pubsub.ports import Gathering
from tests.pubsub.harness import SECOND

CONFIG = TreeConfig()
NEW_REIGN = Gathering(9, 1 * SECOND, 10 * SECOND)


def pacing(quorum: float = 0.5, gathering: Gathering | None = None, since: int = 0) -> Pacing:
    one = Pacing(CONFIG, quorum)
    one.begin(0, since, gathering)
    return one


def test_a_wave_is_closed_when_all_have_answered() -> None:
    assert pacing().next(4, 4, 4, SECOND)[0] is Step.CLOSE


def test_a_quorum_gives_the_others_as_long_again() -> None:
    assert pacing().next(1, 4, 1, 3 * SECOND) == (Step.WAIT, 0)
    assert pacing().next(2, 4, 2, 3 * SECOND) == (Step.HURRY, 6 * SECOND)


def test_without_a_quorum_half_of_the_answers_end_the_wait_some_day() -> None:
    """Whatever quorum was asked for: one that hangs does not hold up a round for ever."""
    whole = pacing(quorum=1.0)
    assert whole.next(3, 4, 3, 1 * SECOND) == (Step.WAIT, 1 * SECOND + CONFIG.last_patience)
    assert whole.next(3, 4, 3, 9 * SECOND) == (Step.WAIT, 1 * SECOND + CONFIG.last_patience)
    assert pacing(quorum=1.0).next(3, 4, 3, 100 * SECOND) == (Step.WAIT, 400 * SECOND)


def test_a_new_reign_waits_for_newcomers_until_nobody_came_for_a_while() -> None:
    new = pacing(gathering=NEW_REIGN)
    assert new.next(1, 1, 1, 2 * SECOND) == (Step.WAIT, 3 * SECOND)
    assert new.next(2, 2, 4, 5 * SECOND) == (Step.WAIT, 6 * SECOND)
    assert new.next(2, 2, 4, 12 * SECOND)[0] is Step.CLOSE


def test_a_new_reign_waits_for_nobody_when_as_many_are_there_as_before() -> None:
    assert pacing(gathering=NEW_REIGN).next(3, 3, 9, 1000)[0] is Step.CLOSE


def test_while_some_are_not_back_a_quorum_of_those_who_are_decides_nothing_soon() -> None:
    """What is in at once was made for the last root; others may still be at work as long as that took."""
    new = pacing(gathering=NEW_REIGN, since=-30 * SECOND)
    assert new.next(2, 3, 4, 1000) == (Step.WAIT, 30 * SECOND + 2000)
    assert new.next(2, 3, 9, 2000)[0] is Step.HURRY
