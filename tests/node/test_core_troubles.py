"""Whole cores back to back: what goes wrong on one node is known on all that have a part in the application."""

from __future__ import annotations

from typing import Any

import pytest

from fl import troubles
from fl.messages import Ailment, Complaint, Condition, Trouble
from fl.notices import Bind, Follow, Refuse, RoundCommitted, StatusChanged, Troubled
from protocol.errors import Code
from protocol.events import Received
from protocol.signing import Sealer
from simulations.signing import KeyedHashVerifier
from tests.node.cores import SECOND, Fabric, Machine

TRACE = "File \"app.py\", line 8, in train\nKeyError: 'nope'"
ERROR = f"train() of app failed at app.py:8: KeyError: 'nope'\n{TRACE}"


@pytest.fixture
def fabric() -> Fabric:
    fabric = Fabric(7)
    fabric.start()
    return fabric


def status(machine: Machine) -> tuple[str, str]:
    said = machine.told(StatusChanged)
    return (said[-1].status, said[-1].detail) if said else ("", "")


def complaints(machine: Machine) -> tuple[Complaint, ...]:
    told = machine.told(Troubled)
    return told[-1].complaints if told else ()


def root(fabric: Fabric, app: bytes) -> Machine:
    """Whoever is root now."""
    return next(m for m in fabric.machines if m.core is not None and m.core.forest.groves[app].tree.is_root)


def test_all_hear_that_every_training_fails_with_the_traceback_and_that_nobody_is_left(fabric: Fabric) -> None:
    for machine in fabric.machines:
        machine.failing = ERROR
    fabric.submit(fan_out=2)
    fabric.run_until(lambda: all(status(machine)[0] == "failing" for machine in fabric.machines), 40 * SECOND)
    for machine in fabric.machines:
        assert "0 of 7 workers are there; 7 nodes cannot contribute, the first is node-" in status(machine)[1]
        said = complaints(machine)
        assert len(said) == 7
        assert all(one.trace == TRACE and one.kind is Ailment.FAILED and one.name.startswith("node-") for one in said)
        assert machine.penalties == []


def test_a_single_failure_is_told_and_ends_with_the_next_contribution(fabric: Fabric) -> None:
    bad = fabric.machines[3]
    bad.failing = ERROR
    fabric.submit(rounds=400, min_workers=6)
    others = [machine for machine in fabric.machines if machine is not bad]
    fabric.run_until(lambda: all(complaints(machine) for machine in others))
    assert {one.node for machine in others for one in complaints(machine)} == {bad.me.id}
    assert all(status(machine) == ("running", "") for machine in fabric.machines)
    bad.failing = ""
    fabric.run_until(lambda: not any(complaints(machine) for machine in fabric.machines))


def test_waiting_is_told_to_all_members(fabric: Fabric) -> None:
    fabric.submit(min_workers=9)
    fabric.run_until(lambda: {status(m) for m in fabric.machines} == {("waiting", "7 of 9 workers are there")})


def test_whoever_waits_for_nodes_that_are_well_is_not_failing(fabric: Fabric) -> None:
    spec = fabric.submit(min_workers=8)
    fabric.run(SECOND)
    fabric.machines[0].command(Refuse(spec.id, "no such column"))
    fabric.run_until(lambda: "cannot contribute: node-0: no such column" in status(fabric.machines[5])[1])
    fabric.run(60 * SECOND)
    assert all(status(machine)[0] == "waiting" for machine in fabric.machines[1:])


def test_one_node_that_fails_for_good_is_the_end_of_a_run_that_cannot_do_without_it(fabric: Fabric) -> None:
    fabric.machines[0].failing = ERROR
    fabric.submit(min_workers=7)
    fabric.run_until(lambda: all(status(machine)[0] == "failing" for machine in fabric.machines), 60 * SECOND)
    fabric.machines[0].failing = ""
    fabric.run_until(fabric.finished)


def test_a_refusal_from_outside_of_the_tree_reaches_the_submitter(fabric: Fabric) -> None:
    for machine in fabric.machines:
        machine.command(Bind(frozenset()))
    spec = fabric.submit(min_workers=1)
    home, stranger = fabric.machines[0], fabric.machines[4]
    home.command(Follow(spec.id))
    stranger.command(Bind(frozenset({"data"})))
    fabric.run(SECOND)
    stranger.command(Refuse(spec.id, "node-4: field 'x' has another shape"))
    fabric.run_until(lambda: bool(complaints(home)))
    (one,) = complaints(home)
    assert (one.node, one.kind) == (stranger.me.id, Ailment.REFUSED)
    fabric.run_until(lambda: status(home)[0] == "failing", 60 * SECOND)


def test_a_new_root_goes_on_with_what_the_old_one_had_told(fabric: Fabric) -> None:
    for machine in fabric.machines:
        machine.failing = ERROR
    spec = fabric.submit(min_workers=6)
    fabric.run_until(lambda: all(status(machine)[0] == "failing" for machine in fabric.machines), 40 * SECOND)
    first = root(fabric, spec.id)
    first.crash()
    for machine in fabric.machines:
        machine.notices.clear()
    rest = [machine for machine in fabric.machines if machine is not first]
    fabric.run_until(lambda: all(status(machine)[0] == "failing" for machine in rest), 120 * SECOND)


def test_whoever_joins_late_is_told_how_things_stand(fabric: Fabric) -> None:
    late = fabric.machines[6]
    late.crash()
    spec = fabric.submit(min_workers=9)
    fabric.run_until(lambda: status(fabric.machines[1])[0] == "waiting")
    late.boot(fabric.machines[0].me)
    fabric.run_until(lambda: status(late) == ("waiting", "7 of 9 workers are there"), 60 * SECOND)
    assert spec.id in late.core.apps.apps  # type: ignore[union-attr]


# ---- liars -----------------------------------------------------------------------------------------------------------


def inject(machine: Machine, peer: Machine, message: Any) -> None:
    machine.feed(Received(peer.me.id, message))


def complaint(of: Machine, by: Machine, app: bytes, sentence: str = "it lies", kind: Ailment = Ailment.FAILED) -> Any:
    """A complaint that names ``of`` and is sealed by ``by``."""
    said = Complaint(of.me.id, kind, 1, of.name, sentence)
    return Trouble(app, said, Sealer(by.signer, KeyedHashVerifier()).seal("trouble", troubles._sealed(app, said)))


def test_nobody_can_put_a_complaint_into_the_mouth_of_another(fabric: Fabric) -> None:
    spec = fabric.submit(rounds=1000)
    fabric.run_until(lambda: all(machine.told(RoundCommitted) for machine in fabric.machines))
    chief = root(fabric, spec.id)
    liar, victim = [machine for machine in fabric.machines if machine is not chief][:2]
    inject(chief, liar, complaint(victim, liar, spec.id))
    fabric.run(2 * SECOND)
    assert (liar.me.id, Code.BAD_SIGNATURE) in chief.penalties
    assert not any(complaints(machine) for machine in fabric.machines)


def test_made_up_complaints_end_nothing_and_are_bounded(fabric: Fabric) -> None:
    spec = fabric.submit(rounds=1000)
    fabric.run_until(lambda: all(machine.told(RoundCommitted) for machine in fabric.machines))
    chief = root(fabric, spec.id)
    liar = next(machine for machine in fabric.machines if machine is not chief)
    invented = [Machine(fabric, f"ghost-{index}", dialable=True) for index in range(200)]
    for ghost in invented:
        inject(chief, liar, complaint(ghost, ghost, spec.id, kind=Ailment.REFUSED))
    before = len(chief.commits())
    fabric.run_until(lambda: len(chief.commits()) > before + 20)
    assert chief.core is not None
    assert chief.core.forest.counters["troubles_flooded"] == 200 - 16
    assert all(status(machine)[0] == "running" for machine in fabric.machines)
    assert all(len(complaints(machine)) <= 8 for machine in fabric.machines)


def test_a_condition_counts_only_from_the_parent_and_under_the_seal_of_the_root(fabric: Fabric) -> None:
    spec = fabric.submit(rounds=1000)
    fabric.run_until(lambda: all(machine.told(RoundCommitted) for machine in fabric.machines))
    chief = root(fabric, spec.id)
    member = next(machine for machine in fabric.machines if machine is not chief)
    assert member.core is not None
    parent = fabric.by_id[member.core.forest.groves[spec.id].tree.parent or b""]
    stranger = next(machine for machine in fabric.machines if machine not in (member, parent))
    seal = Sealer(stranger.signer, KeyedHashVerifier()).seal("condition", b"whatever")
    lie = Condition(spec.id, 1, 999, "failing", "all is lost", (), seal)
    before = status(member)
    inject(member, stranger, lie)
    assert member.penalties == []
    inject(member, parent, lie)
    assert member.penalties == [(parent.me.id, Code.BAD_SIGNATURE)]
    assert status(member) == before
