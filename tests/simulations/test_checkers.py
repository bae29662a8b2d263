"""The checkers themselves: what they must notice, told to them directly."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec
import pytest

from protocol.effects import Send
from protocol.messages import Contact, Message, Routed, Value
from protocol.signing import Seal
from pubsub.heads import Head
from pubsub.messages import Accepted, Committed, Promise, TreeAccept, TreeJoin
from pubsub.voter import Ballot, Voter
from simulations.checkers import Heads, Places, Report
from simulations.checkers.base import MAX_VIOLATIONS
from simulations.checkers.bounds import oversize
from simulations.host import Host
from simulations.scenario import Applications, Nodes, Scenario
from simulations.world import World

APP = b"a" * 16
NO_SEAL = Seal(b"", b"", b"")


class Court:
    """Five voters, and a checker that reads their disks."""

    def __init__(self) -> None:
        self.world = World(Scenario(nodes=Nodes(count=8), applications=Applications(count=0, workers=1)), 1)
        self.world.populate()
        self.report = Report()
        self.heads = Heads(self.world, self.report, exact=True)
        self.voters = tuple(host.contact for host in self.world.members[:5])

    def head(self, epoch: int, round_: int, model: bytes = b"m", *, voters: tuple[Contact, ...] = ()) -> Head:
        value = Value(len(model), model)
        return Head(APP, epoch, round_, self.voters[0], voters or self.voters, value)

    def write(self, index: int, ballot: Ballot) -> None:
        for watch in self.world.engine.disks.on_durable:
            watch(self.world.members[index], Voter.key(APP), msgspec.msgpack.encode(ballot))

    def accept(self, head: Head, indices: Iterator[int] | range) -> None:
        for index in indices:
            self.write(index, Ballot(head.epoch, head.root, head))

    def say(self, index: int, message: Promise | Accepted | Committed, peer: int = 0) -> None:
        host: Host = self.world.members[index]
        for tap in self.world.engine.taps[type(message)]:
            tap(0, host, Send(self.voters[peer].id, message))

    @property
    def rules(self) -> list[str]:
        return sorted({violation.rule for violation in self.report.violations})


@pytest.fixture
def court() -> Court:
    return Court()


def test_an_orderly_history_is_accepted(court: Court) -> None:
    for round_ in range(3):
        head = court.head(1, round_)
        court.accept(head, range(5))
        court.say(0, Committed(head))
    court.accept(court.head(4, 2), range(2, 5))
    court.say(3, Accepted(APP, (4, 2, 0), bytes(32), NO_SEAL))
    assert court.rules == []
    assert court.heads.chains[APP].order == [(1, 0, 0), (1, 1, 0), (1, 2, 0), (4, 2, 0)]


def test_two_heads_of_one_round(court: Court) -> None:
    court.accept(court.head(1, 0), range(3))
    court.accept(court.head(2, 0, b"other"), range(2, 5))
    assert court.rules == ["one-head-per-round"]


def test_two_heads_of_one_epoch(court: Court) -> None:
    court.write(0, Ballot(1, court.voters[0], court.head(1, 0)))
    court.write(1, Ballot(1, court.voters[0], court.head(1, 0, b"other")))
    assert court.rules == ["one-root-per-epoch"]


def test_a_minority_commits_nothing(court: Court) -> None:
    head = court.head(1, 0)
    court.accept(head, range(2))
    assert court.heads.chains[APP].newest is None
    court.say(0, Committed(head))
    assert court.rules == ["majority-before-commit"]


def test_a_broken_promise(court: Court) -> None:
    court.write(0, Ballot(5, court.voters[0]))
    court.write(0, Ballot(4, court.voters[0]))
    assert court.rules == ["promise-kept"]


def test_one_epoch_promised_to_two(court: Court) -> None:
    court.write(0, Ballot(5, court.voters[0]))
    court.write(0, Ballot(5, court.voters[1]))
    court.write(1, Ballot(5, court.voters[0]))
    assert court.report.total == 1
    again = msgspec.structs.replace(court.voters[0], incarnation=7)
    court.write(1, Ballot(5, again))
    assert court.rules == ["one-promise-per-epoch"]
    assert court.report.total == 2


def test_an_acceptance_taken_back(court: Court) -> None:
    court.write(0, Ballot(5, court.voters[0], court.head(5, 3)))
    court.write(0, Ballot(6, court.voters[0]))
    assert court.rules == ["acceptance-kept"]


def test_said_before_it_was_durable(court: Court) -> None:
    court.say(0, Promise(APP, 1, 0, NO_SEAL), peer=1)
    court.say(0, Accepted(APP, (1, 0, 0), bytes(32), NO_SEAL))
    assert court.rules == ["durable-before-said"]
    assert court.report.total == 2
    court.write(0, Ballot(1, court.voters[1], court.head(1, 0)))
    court.say(0, Promise(APP, 1, 0, NO_SEAL), peer=1)
    court.say(0, Accepted(APP, (1, 0, 0), bytes(32), NO_SEAL))
    assert court.report.total == 2
    court.say(0, Promise(APP, 1, 0, NO_SEAL), peer=2)
    assert court.report.total == 3


def test_voters_change_one_at_a_time(court: Court) -> None:
    court.accept(court.head(1, 0), range(5))
    court.accept(court.head(1, 1, voters=court.voters[:4]), range(5))
    assert court.rules == []
    court.accept(court.head(1, 2, voters=(*court.voters[:3], court.world.members[6].contact)), range(5))
    assert court.rules == ["one-voter-at-a-time"]


def test_rounds_do_not_go_back(court: Court) -> None:
    court.accept(court.head(1, 4), range(5))
    court.accept(court.head(2, 3), range(5))
    assert "rounds-never-back" in court.rules


def test_a_report_is_bounded() -> None:
    report = Report()
    for number in range(1000):
        report.add("rule", number, "text")
    assert len(report.violations) == MAX_VIOLATIONS
    assert report.total == 1000
    assert str(report.violations[0]) == "    0.000 s  rule: text"


def test_oversize_tables_are_found_wherever_they_are(court: Court) -> None:
    host = court.world.members[0]
    court.world.engine.start(host)
    core = court.world.core(host)
    assert list(oversize(core, 100)) == []
    core.forest.counters.update((str(number), number) for number in range(101))
    assert list(oversize(core, 100)) == [("NodeCore.forest.counters", 101)]
    assert list(oversize(deque(range(7)), 6)) == [("deque", 7)]


# ---- places in trees ----


def test_a_place_for_who_did_not_ask_is_noticed() -> None:
    world = World(Scenario(nodes=Nodes(count=8), applications=Applications(count=0, workers=1)), 1)
    world.populate()
    report = Report()
    Places(world, report)
    parent, *joiners = world.members[:5]

    def say(host: Host, peer: Host, message: Message | Routed) -> None:
        for tap in world.engine.taps[type(message)]:
            tap(0, host, Send(peer.id, message))

    direct, routed, carried, liar = joiners
    world.liars[liar.id] = None
    say(direct, parent, TreeJoin(APP, direct.contact, 5))
    say(routed, parent, Routed(APP, routed.contact, 1, TreeJoin(APP, routed.contact, 6)))
    say(direct, parent, Routed(APP, carried.contact, 2, TreeJoin(APP, carried.contact, 7)))
    for joiner, attempt in ((direct, 5), (routed, 6), (liar, 8)):
        say(parent, joiner, TreeAccept(APP, attempt, (parent.id,)))
    assert not report.violations
    say(parent, carried, TreeAccept(APP, 7, (parent.id,)))
    say(parent, direct, TreeAccept(APP, 4, (parent.id,)))
    assert [violation.rule for violation in report.violations] == ["asked-for-its-place"] * 2
