"""Whole cores back to back: the end of a run reaches a node that slept through it, when somebody there asks."""

from __future__ import annotations

import msgspec
import pytest

from fl.notices import Concluded, Recover
from protocol.events import Received
from pubsub.messages import HeadAnswer
from tests.node.cores import SECOND, Fabric, Machine


@pytest.fixture
def fabric() -> Fabric:
    fabric = Fabric(7)
    fabric.start()
    return fabric


def sleeper(fabric: Fabric) -> Machine:
    """A node that guards nothing; it is away while an application runs, and back when all is over."""
    late = fabric.machines[6]
    late.crash()
    fabric.run(8 * SECOND)
    fabric.submit(min_workers=6)
    fabric.run_until(fabric.finished)
    fabric.run(30 * SECOND)
    late.boot(fabric.machines[0].me)
    fabric.run_until(lambda: bool(late.told(Concluded)))
    return late


def test_a_node_that_slept_is_told_that_and_how_far_the_run_came_and_recovers_the_last_head(fabric: Fabric) -> None:
    late = sleeper(fabric)
    told = late.told(Concluded)[-1]
    last = fabric.machines[0].commits()[-1]
    assert (told.head.finished, told.head.round) == (True, last.round)
    assert not any(head.finished for head in late.commits())
    late.command(Recover(told.app, told.head.voters))
    fabric.run_until(lambda: any(head.finished for head in late.commits()), 10 * SECOND)
    found = late.commits()[-1]
    assert (found.round, found.model, found.contributors) == (last.round, last.model, last.contributors)
    assert all(machine.penalties == [] for machine in fabric.machines)


def test_nobody_but_who_was_asked_says_how_a_run_ended(fabric: Fabric) -> None:
    late = sleeper(fabric)
    told = late.told(Concluded)[-1]
    forged = msgspec.structs.replace(fabric.machines[0].commits()[-1], weight=1e9)
    outsider = fabric.machines[5]
    assert outsider.me.id not in [voter.id for voter in told.head.voters]
    for _ in range(2):
        late.feed(Received(outsider.me.id, HeadAnswer(told.app, None, forged)))
        late.command(Recover(told.app, told.head.voters))
        late.feed(Received(outsider.me.id, HeadAnswer(told.app, None, forged)))
    fabric.run(SECOND)
    assert [head.weight for head in late.commits() if head.finished] == [fabric.machines[0].commits()[-1].weight]


def test_a_head_that_is_not_the_last_ends_nothing(fabric: Fabric) -> None:
    late = sleeper(fabric)
    told = late.told(Concluded)[-1]
    voter = told.head.voters[0].id
    late.command(Recover(told.app, told.head.voters[:1]))
    running = msgspec.structs.replace(fabric.machines[0].commits()[-1], finished=False)
    late.feed(Received(voter, HeadAnswer(told.app, None, running)))
    fabric.run(SECOND)
    assert not any(head.finished for head in late.commits())


def test_a_last_head_that_nobody_committed_is_not_taken_from_the_voter_that_was_asked(fabric: Fabric) -> None:
    late = sleeper(fabric)
    told = late.told(Concluded)[-1]
    liar, *others = told.head.voters
    last = fabric.machines[0].commits()[-1]
    alone = msgspec.structs.replace(last.proof, seals=last.proof.seals[:1])
    for forged in (
        msgspec.structs.replace(last, weight=1e9),
        msgspec.structs.replace(last, voters=(liar,), weight=1e9),
        msgspec.structs.replace(last, proof=alone, epoch=last.epoch + 1),
    ):
        late.command(Recover(told.app, (liar,)))
        late.feed(Received(liar.id, HeadAnswer(told.app, None, forged)))
        assert not any(head.finished for head in late.commits())
    late.command(Recover(told.app, tuple(others)))
    fabric.run_until(lambda: any(head.finished for head in late.commits()), 10 * SECOND)
    assert late.commits()[-1].weight == last.weight
