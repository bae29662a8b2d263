"""A child that makes up contributors, whole cores back to back: it costs the others nothing, and gains it nothing.

A key pair costs nothing, so the child has as many as it likes, and each seals what a contributor seals.  What it has
not is an authority of the fabric.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from protocol.errors import Code
from protocol.ids import NodeId, ring_id
from protocol.membership import vouch
from protocol.signing import Sealer
from pubsub.claims import claim
from pubsub.messages import MAX_CLAIMS, Partial, WaveUp
from simulations.signing import AUTHORITY, KeyedHashSigner, KeyedHashVerifier
from tests.node.cores import SECOND, Fabric, Machine

ROUNDS = 20
OWN = KeyedHashSigner(9, "an authority of its own")
INVENTED = {ring_id(0, key.public_key): key for key in (KeyedHashSigner(9, "made up", n) for n in range(MAX_CLAIMS))}

Voucher = Callable[[Machine, NodeId], bytes]
VOUCHERS: dict[str, Voucher] = {
    "none": lambda liar, member: b"",
    "its own": lambda liar, member: vouch(AUTHORITY, liar.me.id),
    "forged": lambda liar, member: vouch(AUTHORITY, member)[:8] + bytes(32),
    "by itself": lambda liar, member: vouch(OWN, member),
}


def crowded(liar: Machine, message: WaveUp, parent: NodeId, voucher: Voucher) -> WaveUp:
    """The same partial with as many contributors as a message can name."""
    assert message.partial is not None
    stated = dict(zip(message.partial.contributors, message.claims, strict=True))
    own = Partial(1.0, message.partial.value, ())
    for member, key in list(INVENTED.items())[: MAX_CLAIMS - len(stated)]:
        sealer = Sealer(key, KeyedHashVerifier())
        stated[member] = claim(sealer, voucher(liar, member), message.app, message.wave, own, parent)
    members = tuple(sorted(stated))
    partial = msgspec.structs.replace(message.partial, contributors=members)
    return msgspec.structs.replace(message, partial=partial, claims=tuple(stated[member] for member in members))


class Stage:
    """Seven nodes of which one, a child of the root, is the liar once the tree stands."""

    def __init__(self, voucher: Voucher, **fields: Any) -> None:
        self.fabric = Fabric(7)
        self.fabric.start()
        self.spec = self.fabric.submit(rounds=ROUNDS, fan_out=2, **fields)
        self.liar: Machine | None = None
        self.lies = 0
        self.fabric.run_until(self._cast)
        deliver = self.fabric.deliver

        def lying(src: Machine, peer: NodeId, message: Any) -> None:
            if src is self.liar and isinstance(message, WaveUp) and message.partial is not None:
                self.lies += 1
                message = crowded(src, message, peer, voucher)
            deliver(src, peer, message)

        self.fabric.deliver = lying  # type: ignore[method-assign]

    def _cast(self) -> bool:
        """Everybody is in the tree, and a child of the root without children is there to be the liar."""
        groves = {
            machine: machine.core.forest.groves.get(self.spec.id) for machine in self.fabric.machines if machine.core
        }
        if any(grove is None or not grove.tree.attached for grove in groves.values()):
            return False
        leaves = [
            machine for machine, grove in groves.items() if grove and grove.tree.parent and not grove.tree.children
        ]
        self.liar = leaves[-1]
        return True

    @property
    def honest(self) -> list[Machine]:
        return [machine for machine in self.fabric.machines if machine is not self.liar]


@pytest.mark.parametrize("kind", VOUCHERS)
def test_its_siblings_lose_no_round_and_it_is_found_out(kind: str) -> None:
    stage = Stage(VOUCHERS[kind], min_workers=6)
    stage.fabric.run_until(stage.fabric.finished, 900 * SECOND)
    assert stage.liar is not None
    assert stage.lies >= ROUNDS - 1
    honest = {machine.me.id for machine in stage.honest}
    seen = {head.round: set(head.contributors) for head in stage.honest[0].commits() if 1 <= head.round <= ROUNDS}
    assert len(seen) == ROUNDS
    assert all(honest <= contributors for contributors in seen.values())
    assert all(not contributors & INVENTED.keys() for contributors in seen.values())
    blamed = [penalty for machine in stage.honest for penalty in machine.penalties]
    assert {peer for peer, _ in blamed} <= {stage.liar.me.id}, "nobody else is blamed"
    if kind in ("its own", "forged"):
        assert blamed.count((stage.liar.me.id, Code.BAD_SIGNATURE)) >= stage.lies - 1  # the last may be under way


def test_inventions_do_not_make_up_for_workers_that_are_not_there() -> None:
    stage = Stage(VOUCHERS["forged"], min_workers=8)
    stage.fabric.run(60 * SECOND)
    assert stage.lies
    assert all(head.round == 0 for machine in stage.honest for head in machine.commits())


def test_who_goes_on_with_an_authority_that_nobody_knows_is_found_out() -> None:
    """It might be a new one, for a minute."""
    stage = Stage(VOUCHERS["by itself"], min_workers=8)
    stage.fabric.run(150 * SECOND)
    assert stage.liar is not None
    blamed = [penalty for machine in stage.honest for penalty in machine.penalties]
    assert set(blamed) == {(stage.liar.me.id, Code.UNAUTHORISED)}
