"""Members without a daemon of their own, for attacks that need a certificate or somebody honest beside them."""

from __future__ import annotations

import time
from pathlib import Path

from node.demo.processes import DemoNode, Fleet
from node.identity import enrol
from node.identity.invite import decode_invitation
from node.identity.membership import Membership, node_key
from node.statedir import StateDir


async def join(fleet: Fleet, issuer: DemoNode, name: str) -> tuple[Membership, float]:
    """What ``mycelia join`` does, and the seconds that the issuer took."""
    invitation = decode_invitation((await issuer.service.invite(600)).token)
    now = int(time.time())
    with StateDir.create(Path(fleet.directory) / name).locked() as state:
        key = node_key(state)
        started = time.monotonic()
        joined = await enrol.join(invitation, key, now)
        took = time.monotonic() - started
        return Membership.enter(state, key, joined.endorsement, joined.document, now), took
