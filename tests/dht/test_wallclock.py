"""What time it is when clocks are wrong: the median decides, liars do not, and nobody is blamed."""

from __future__ import annotations

from dht.config import SECOND
from dht.wallclock import TOLERANCE, WallClock
from tests.dht.harness import Net, record

DAY = 86400
NOW = 1000 * DAY


def clock(error: int = 0) -> WallClock:
    return WallClock((NOW + error) * SECOND)


def said(one: WallClock, *walls: int) -> list[bool]:
    return [one.heard(bytes([number]), wall, 0) for number, wall in enumerate(walls)]


def test_two_who_agree_outvote_one_and_one_alone_does_not() -> None:
    for error in (40 * DAY, -380 * DAY, 3 * 3600):
        one = clock(error)
        assert said(one, NOW) == [False]
        assert (one.wall(0), one.confirmed) == (NOW + error, False)
        assert said(one, NOW, NOW + 2) == [False, True]
        assert abs(one.wall(0) - NOW) <= 2
        assert one.correction == one.wall(0) - one.own(0)


def test_a_few_seconds_and_a_minority_of_liars_move_nothing() -> None:
    one = clock()
    said(one, NOW + 3, NOW - 200, NOW + 40 * DAY, 1, NOW + TOLERANCE, NOW, 0)
    assert one.wall(0) == NOW
    assert one.correction == 0
    tie = clock()
    said(tie, NOW - 1, NOW - DAY, NOW - DAY)
    assert tie.correction == 0, "two against two"


def test_setting_the_clock_moves_neither_the_truth_nor_what_others_said() -> None:
    one = clock()
    said(one, NOW, NOW, NOW)
    assert one.set((NOW + 40 * DAY) * SECOND)
    assert (one.wall(0), one.own(0)) == (NOW, NOW + 40 * DAY)
    assert one.set(NOW * SECOND)
    assert (one.wall(0), one.correction) == (NOW, 0)


def test_samples_are_bounded() -> None:
    one = clock()
    for number in range(1000):
        one.heard(number.to_bytes(4, "big"), NOW + number, 0)
    assert len(one._samples) <= 24


def test_a_node_with_a_wrong_clock_says_so_and_holds_what_the_others_hold() -> None:
    for error in (40 * DAY, -380 * DAY):
        net = Net(11, wall=NOW)
        hosts = net.grow(8)
        wrong = net.add(8, (0,), wall_offset=(NOW + error) * SECOND)
        net.run(20 * SECOND)
        assert [abs(said - error) < 60 for said in wrong.up.clock if said][-1]
        hosts[0].ring.publish(record(b"x" * 16, expires=NOW + 30 * DAY), net.now)
        net.flush(hosts[0])
        net.run(60 * SECOND)
        assert len(wrong.ring.records) == 1, "judged by the clock of the others"
        assert not net.penalties
        assert not any(said for host in hosts for said in host.up.clock), "and nobody else doubts its own"
        wrong.ring.set_clock(NOW * SECOND, net.now)
        assert wrong.up.clock[-1] == 0
        assert len(wrong.ring.records) == 1


def test_who_was_there_before_the_others_is_told_the_time_when_they_come() -> None:
    net = Net(12, wall=NOW)
    hosts = net.grow(3)
    net.run(2 * SECOND)
    assert [host.ring.clock_confirmed for host in hosts] == [True] * 3


def test_what_a_wrong_clock_refused_comes_once_it_is_known_to_be_wrong() -> None:
    net = Net(12, wall=NOW)
    hosts = net.grow(8)
    hosts[0].ring.publish(record(b"x" * 16, expires=NOW + 30 * DAY), net.now)
    net.flush(hosts[0])
    net.run(10 * SECOND)
    wrong = net.add(8, (0,), wall_offset=(NOW + 40 * DAY) * SECOND)
    net.run_until(lambda: len(wrong.ring.records) == 1, 90 * SECOND)
    assert not net.penalties
