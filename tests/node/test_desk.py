"""The issuer's desk: what an invitation says."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from node.desk import MAX_LIFE, JoinDesk
from node.identity.invite import MAX_SEEDS, Invitation, decode_invitation
from node.kvstore import KVStore
from node.supervisor import Supervisor
from protocol.errors import UsageError
from protocol.messages import Contact

from .identity.lab import Lab

NOW = int(time.time())
MEMBERS = tuple(Contact(bytes([n]) * 16, (f"192.0.2.{n}:7447",) if n else ()) for n in range(12))


def invited(path: Path, *, listen: str = "127.0.0.1:0", advertise: tuple[str, ...] = (), life: int = 60) -> Invitation:
    async def run() -> Invitation:
        lab, supervisor = Lab(NOW), Supervisor()
        desk = JoinDesk(
            lab.membership(),
            lab.authority,
            KVStore(path / "issuer.db"),
            supervisor=supervisor,
            members=lambda: MEMBERS,
            revoked=lambda _: False,
            unix_time=lambda: NOW,
        )
        try:
            port = desk.start(listen, advertise)
            token, expires = await desk.invite(life)
            assert expires == NOW + life
            invitation = decode_invitation(token)
            assert all(address.endswith(f":{port}") for address in invitation.issuer.addresses)
            assert (invitation.issuer.id, invitation.fingerprint) == (lab.issuer.node, lab.document.fingerprint)
            return invitation
        finally:
            await desk.close()
            await supervisor.close()

    return asyncio.run(run())


def test_it_names_the_join_listener_and_members_to_dial(tmp_path: Path) -> None:
    invitation = invited(tmp_path)
    assert invitation.issuer.addresses[0].startswith("127.0.0.1:")
    assert invitation.seeds == MEMBERS[1 : MAX_SEEDS + 1]


def test_where_the_operator_says_the_node_is_reached_joiners_go_too(tmp_path: Path) -> None:
    addresses = invited(tmp_path, advertise=("gate.example:7447", "[2001:db8::1]:7447")).issuer.addresses
    assert [address.rpartition(":")[0] for address in addresses] == ["gate.example", "[2001:db8::1]"]


@pytest.mark.parametrize("life", [0, -1, MAX_LIFE + 1])
def test_a_life_that_cannot_be(tmp_path: Path, life: int) -> None:
    with pytest.raises(UsageError, match=f"cannot last {life} seconds"):
        invited(tmp_path, life=life)
