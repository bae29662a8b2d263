"""A member that routes joins in everybody else's name: whole cores, many rounds, and nobody loses anything."""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.errors import Code
from protocol.ids import NodeId
from protocol.messages import Contact, Routed
from pubsub.messages import TreeJoin
from tests.node.cores import MS, SECOND, Fabric, Machine

SIZE, ROUNDS = 12, 30
EVERY = 50 * MS
"""Between two volleys of lies: one to each node in the name of each other."""


class Wire(Fabric):
    """Somebody reads every join on its way."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.overheard: list[TreeJoin] = []

    def deliver(self, src: Machine, peer: NodeId, message: Any) -> None:
        if isinstance(message, Routed) and isinstance(message.message, TreeJoin) and message.message.seal is not None:
            self.overheard.append(message.message)
        super().deliver(src, peer, message)


def lie(fabric: Wire, liar: Machine, app: bytes, serial: int) -> None:
    """To everybody, in the name of everybody: joins that were made up, and joins that were once meant."""
    genuine = fabric.overheard[: 4 * SIZE]
    for victim in fabric.machines:
        if victim is liar:
            continue
        contacts = [victim.me, Contact(victim.me.id, ("nowhere:1",), 1 << 40)]
        joins = [TreeJoin(app, contacts[serial % 2], 1 << 61, orphan=bool(serial % 3))]
        joins += [join for join in genuine if join.joiner.id == victim.me.id]
        stolen = next((join.seal for join in genuine if join.joiner.id == victim.me.id), None)
        joins.append(TreeJoin(app, victim.me, (1 << 60) + serial, seal=stolen))
        for target in fabric.machines:
            for join in joins if target is not liar else ():
                fabric.deliver(liar, target.me.id, Routed(app, join.joiner, 2, join))


def history(lying: bool) -> tuple[Wire, Machine, int]:
    """(fabric, the liar, how long the rounds took, ns)."""
    fabric = Wire(SIZE)
    fabric.start()
    app = fabric.submit(rounds=ROUNDS, fan_out=3).id
    fabric.run_until(lambda: any(head.round == 1 for head in fabric.machines[0].commits()))
    groves = {machine: machine.core.forest.groves[app] for machine in fabric.machines if machine.core is not None}
    liar = next(machine for machine, grove in groves.items() if not grove.tree.is_root and not grove.tree.children)
    assert fabric.overheard
    began, serial = fabric.now, 0

    def volley() -> None:
        nonlocal serial
        serial += 1
        lie(fabric, liar, app, serial)
        if not fabric.finished():
            fabric.after(EVERY, volley)

    if lying:
        volley()
    fabric.run_until(fabric.finished)
    return fabric, liar, fabric.now - began


def test_joins_in_the_name_of_all_others_cost_no_round_and_nobody_is_blamed_but_the_liar() -> None:
    calm, _, usual = history(lying=False)
    fabric, liar, took = history(lying=True)
    rounds = {head.round: head for head in fabric.machines[0].commits()}
    assert set(range(1, ROUNDS + 1)) <= set(rounds)
    assert all(len(rounds[number].contributors) == SIZE for number in range(1, ROUNDS + 1))
    assert took <= usual + SECOND
    blamed = {peer for machine in fabric.machines for peer, _ in machine.penalties}
    assert blamed == {liar.me.id}
    assert {code for machine in fabric.machines for _, code in machine.penalties} == {Code.BAD_SIGNATURE}
    assert not any(machine.penalties for machine in calm.machines)
    for machine in fabric.machines:
        assert machine.core is not None
        assert machine.core.contact(machine.me.id) in (None, machine.me)
        known = [machine.core.contact(other.me.id) for other in fabric.machines]
        assert all(contact is None or contact.incarnation == 1 for contact in known)


def test_a_join_with_another_s_seal_is_as_good_as_none() -> None:
    fabric = Wire(4)
    fabric.start()
    app = fabric.submit(rounds=3).id
    fabric.run_until(fabric.finished)
    one, two, three = fabric.machines[1:]
    join = fabric.overheard[-1]
    other = next(machine for machine in (one, two, three) if machine.me.id != join.joiner.id)
    before = len(other.penalties)
    fabric.deliver(three if other is not three else two, other.me.id, Routed(
        app, join.joiner, 2, msgspec.structs.replace(join, joiner=one.me, attempt=join.attempt + 1)
    ))  # fmt: skip
    fabric.run(SECOND)
    assert [code for _, code in other.penalties[before:]] == [Code.BAD_SIGNATURE]
