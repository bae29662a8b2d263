"""A fabric in memory for tests: an authority, and nodes with keys and certificates of the real kind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from node.identity.certificates import Limits, verify_endorsement
from node.identity.credentials import Credentials, roots_pem
from node.identity.issuing import endorse, make_authority, make_leaf
from node.identity.keys import Key
from protocol.ids import NodeId

PATIENCE = 10.0
"""Seconds after which a condition that does not come is a failure; nothing waits that long otherwise."""


@dataclass
class Member:
    """A node as the fabric knows it."""

    id: NodeId
    key: Key
    credentials: Credentials


@dataclass
class Fabric:
    """One authority; ``members`` are sorted by id."""

    size: int
    name: str = "test"
    key: Key = field(default_factory=Key.generate)
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        now = int(time.time())
        authority = make_authority(self.key, self.name, now)
        for _ in range(self.size):
            key = Key.generate()
            endorsement = endorse(self.key, authority, key.public_key, 0, Limits(), now)
            credentials = Credentials(make_leaf(key, endorsement, now), roots_pem([authority]))
            said = verify_endorsement(endorsement, [authority], now)
            self.members.append(Member(said.node, key.endorsed(said.nonce), credentials))
        self.members.sort(key=lambda member: member.id)


async def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait, bounded, until ``condition`` holds."""
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.005)
