"""Ring, forest and roles as one machine: from nothing to a finished application, through crashes and bad input."""

from __future__ import annotations

import msgspec
import pytest

from dht.messages import Ping
from dht.records import Kind
from fl.notices import (
    Bind,
    FindVoters,
    Leave,
    PeerDead,
    Publish,
    ReplicasFound,
    RingReady,
    RoleChanged,
    StatusChanged,
    TookOver,
)
from fl.worker import seed_of
from node.core import CoreConfig, NodeCore
from protocol import events as ev
from protocol.errors import Code, UsageError
from protocol.messages import Message
from simulations.signing import KeyedHashVerifier
from tests.node.cores import SECOND, Fabric, Machine, number


def check_sums(fabric: Fabric) -> None:
    """Each committed model is the sum of what its contributors made."""
    heads = {head.round: head for machine in fabric.machines for head in machine.commits()}
    total = 0
    for round_ in sorted(heads):
        if round_ and not heads[round_].finished:
            total += sum(seed_of(0, round_, member) % 1000 for member in heads[round_].contributors)
        assert number(heads[round_].model) == total


def started(size: int, leaves: int = 0) -> Fabric:
    fabric = Fabric(size, leaves)
    fabric.start()
    return fabric


def round_of(fabric: Fabric) -> int:
    return max((head.round for machine in fabric.machines for head in machine.commits()), default=0)


def test_an_application_runs_from_its_descriptor_to_its_end() -> None:
    fabric = started(7)
    assert all(machine.told(RingReady) for machine in fabric.machines)
    fabric.submit(rounds=4)
    fabric.run_until(fabric.finished)
    check_sums(fabric)
    for machine in fabric.machines:
        assert [head.round for head in machine.commits()] == [0, 1, 2, 3, 4, 5]
        assert all(len(head.contributors) == 7 for head in machine.commits()[1:])
        assert not machine.penalties
    assert len([machine for machine in fabric.machines if machine.told(TookOver)]) == 1


def test_a_node_alone_does_everything_itself() -> None:
    fabric = started(1)
    fabric.submit()
    fabric.run_until(fabric.finished)
    check_sums(fabric)


def test_the_death_of_the_root_costs_no_round() -> None:
    fabric = started(7)
    fabric.submit(rounds=200, min_workers=1)
    fabric.run_until(lambda: round_of(fabric) == 3)
    next(machine for machine in fabric.machines if machine.told(TookOver)).crash()
    fabric.run_until(fabric.finished)
    check_sums(fabric)
    assert len([machine for machine in fabric.machines if machine.told(TookOver)]) == 2


def test_a_fabric_restarted_from_its_disks_goes_on() -> None:
    fabric = started(6)
    fabric.submit(rounds=30)
    fabric.run_until(lambda: round_of(fabric) == 4)
    before = round_of(fabric)
    for machine in fabric.machines:
        machine.crash()
    fabric.run(5 * SECOND)
    seed = fabric.machines[0].me
    for machine in fabric.machines:
        machine.notices.clear()
        machine.boot(*([seed] if machine.me.id != seed.id else []))
    fabric.run_until(fabric.finished)
    rounds = sorted({head.round for machine in fabric.machines for head in machine.commits()})
    assert rounds[0] in (before - 1, before)
    assert rounds[-1] == 31


def test_a_restarted_node_takes_part_in_the_next_round() -> None:
    fabric = started(5)
    fabric.submit(rounds=200, min_workers=4)
    fabric.run_until(lambda: round_of(fabric) == 3)
    machine = next(machine for machine in fabric.machines if not machine.told(TookOver))
    machine.crash()
    fabric.run(3 * SECOND)
    machine.boot(next(one.me for one in fabric.machines if one is not machine))
    fabric.run_until(lambda: any(machine.me.id in head.contributors for head in machine.commits()[-1:]))


def test_nodes_that_only_dial_out_work_like_others() -> None:
    fabric = started(4, leaves=2)
    fabric.submit(rounds=3)
    fabric.run_until(fabric.finished)
    check_sums(fabric)
    assert len(fabric.machines[0].commits()[-2].contributors) == 6
    for leaf in fabric.machines[4:]:
        assert all(role.role in ("worker", "none") for role in leaf.told(RoleChanged))


def test_its_owner_stops_it_everywhere() -> None:
    fabric = started(5)
    spec = fabric.submit(rounds=10**6)
    fabric.run_until(lambda: round_of(fabric) == 2)
    fabric.machines[3].command(Publish(fabric.record(Kind.STOP, spec.id, b"")))
    fabric.run_until(lambda: all(machine.told(StatusChanged)[-1].status == "stopped" for machine in fabric.machines))
    fabric.run(60 * SECOND)
    for machine in fabric.machines:
        assert machine.core is not None
        assert not machine.core.forest.groves
        assert not machine.core.apps.apps
        assert not machine.penalties


def test_voters_for_a_new_application_are_found() -> None:
    fabric = started(6)
    fabric.machines[2].command(FindVoters(7, b"\0\0" + b"k" * 14, 5))
    fabric.run_until(lambda: bool(fabric.machines[2].told(ReplicasFound)))
    (found,) = fabric.machines[2].told(ReplicasFound)
    assert (found.token, len(found.contacts)) == (7, 5)


def test_who_leaves_is_known_to_have_left() -> None:
    fabric = started(4)
    leaver = fabric.machines[2]
    leaver.command(Leave())
    fabric.run(2 * SECOND)
    assert [dead.why for dead in fabric.machines[0].told(PeerDead) if dead.peer == leaver.me.id] == ["left"]


# ---- what is durable -----------------------------------------------------------------------------------------------


def idle(machine: Machine, restored: dict[str, bytes]) -> NodeCore:
    return NodeCore(
        machine.me, CoreConfig(), signer=machine.signer, verifier=KeyedHashVerifier(), seed=1, restored=restored
    )


def test_records_survive_and_are_not_written_again() -> None:
    fabric = started(3)
    fabric.submit(rounds=2)
    fabric.run_until(fabric.finished)
    machine = fabric.machines[1]
    kept = {key: content for key, content in machine.disk.items() if key.startswith("record/")}
    assert len(kept) == 2
    machine.crash()
    machine.disk.clear()
    machine.disk.update(kept)
    machine.boot(fabric.machines[0].me)
    assert {key: content for key, content in machine.disk.items() if key.startswith("record/")} == kept
    assert machine.core is not None
    assert not machine.core.forest.known, "what is over does not begin again"


def test_records_that_are_no_longer_valid_leave_the_disk() -> None:
    fabric = Fabric(1)
    machine = fabric.machines[0]
    old = fabric.record(Kind.STOP, b"s" * 16, b"", expires=0)
    forged = msgspec.structs.replace(fabric.record(Kind.STOP, b"t" * 16, b""), signature=b"no")
    for index, record in enumerate((old, forged)):
        machine.disk[f"record/2/{index}"] = msgspec.msgpack.encode(record)
    machine.boot()
    assert list(machine.disk) == ["record/2/0"], "the clock may be wrong, while nobody confirms it"
    core = machine.core
    assert core is not None
    core.ring._clock.heard(b"a", core.ring.wall(fabric.now), fabric.now)
    core.ring._clock.heard(b"b", core.ring.wall(fabric.now), fabric.now)
    core.clock_changed(0, fabric.now)
    assert list(machine.disk) == ["record/2/0"], "those who confirm it may be wrong too"
    for effect in core.handle(ev.TimerFired(("core.shelf",), fabric.now), fabric.now):
        machine._carry_out(effect)
    assert not machine.disk


def test_a_second_life_remembers_its_vote_and_its_membership() -> None:
    fabric = started(3)
    fabric.submit(rounds=50)
    fabric.run_until(lambda: round_of(fabric) == 3)
    machine = fabric.machines[1]
    core = idle(machine, machine.disk)
    (voter,) = core.forest.voters.values()
    assert voter.ballot.accepted is not None
    assert voter.ballot.accepted.round >= 2
    assert any(key.startswith("member/") for key in machine.disk)


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_a_command_that_nobody_serves_is_an_error_of_the_caller() -> None:
    machine = Fabric(1).machines[0]
    with pytest.raises(UsageError, match="does not know the command int"):
        idle(machine, {}).handle(ev.Command(42), 0)


class Later(Message):
    """A message of a newer version that this one has no use for."""


def test_a_message_that_nobody_handles_is_counted() -> None:
    fabric = started(2)
    one, other = fabric.machines
    one.feed(ev.Received(other.me.id, Later()))
    assert one.penalties == [(other.me.id, Code.UNEXPECTED)]
    one.feed(ev.Received(other.me.id, Ping(1)))
    assert len(one.penalties) == 1


def test_events_that_nobody_waits_for_change_nothing() -> None:
    fabric = started(2)
    one, other = fabric.machines
    before = len(one.notices)
    for event in (
        ev.ComputeDone(99, None, "late"),
        ev.TransferDone(b"B" * 32),
        ev.TransferFailed(b"B" * 32, 0),
        ev.Stored("record/1/aa"),
        ev.TimerFired(("fl.next", b"?" * 16), fabric.now),
        ev.TimerFired(("tree.wave", b"?" * 16), fabric.now),
        ev.TimerFired(("of", "nobody"), fabric.now),
        ev.LinkSample(other.me.id, 1000),
        ev.SendFailed(other.me.id, Later()),
    ):
        one.feed(event)
    assert len(one.notices) == before
    assert not one.penalties


def test_records_of_kinds_without_a_judge_are_refused() -> None:
    fabric = started(2)
    one = fabric.machines[0]
    one.command(Publish(fabric.record(Kind.REVOCATION, b"n" * 16, b"")))
    assert not [key for key in one.disk if key.startswith("record/")]


def test_an_operators_wish_may_come_before_the_ring() -> None:
    fabric = Fabric(1)
    machine = fabric.machines[0]
    core = idle(machine, {})
    assert core.handle(ev.Command(Bind(frozenset({"data"}))), 0) == []
    assert core.contact(b"?" * 16) is None
    assert core.authorise(fabric.record(Kind.REVOCATION, b"n" * 16, b"")) is False
