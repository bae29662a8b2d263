"""A daemon that exists only for tests of the control API and the command line: fixed answers, every call noted."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from dht.messages import Record
from fl import spec
from node.service import (
    AppEvent,
    AppInfo,
    Invitation,
    ModelInfo,
    NodeStatus,
    PeerInfo,
    Placement,
    RoundEvent,
    StatusEvent,
    TrustedOwner,
    TrustInfo,
)
from protocol.errors import UsageError
from protocol.messages import Contact

STATUS = NodeStatus(
    id="00" * 16,
    name="ward-3",
    fabric="clinic",
    fabric_id="fa" * 32,
    version="0.1.0",
    pid=4711,
    zone=0,
    state="ready",
    leaf_member=False,
    issuer=True,
    addresses=["192.0.2.1:7447"],
    started=1_700_000_000.0,
    certificate_expires=1_700_086_400.0,
    links=2,
    applications=1,
    penalties=0,
)
APP = AppInfo(id="11" * 16, name="digits", owner="ab" * 32, status="running", role="root", round=2, rounds=3)
EVENTS: list[AppEvent] = [
    RoundEvent(
        app="digits",
        round=number,
        epoch=1,
        contributors=["00" * 16, "22" * 16],
        weight=100.0,
        metrics={"loss": 1.0 / number, "accuracy": 0.5 + 0.1 * number},
        closing=False,
        model="cd" * 32,
        at=1_700_000_000.0 + number,
    )
    for number in (1, 2, 3)
]


class FakeService:
    """Implements :class:`node.service.DaemonService`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.apps: list[AppInfo] = [APP]
        self.peer_list = [
            PeerInfo(id="22" * 16, addresses=["192.0.2.2:7447"], linked=True, rtt_ms=1.25),
            PeerInfo(id="33" * 16, addresses=[], linked=False, penalties=3),
        ]
        self.events: list[AppEvent] = [*EVENTS, StatusEvent(app="digits", status="finished")]
        self.owners = [TrustedOwner(key="ab" * 32, why="fabric")]
        self.model_list: list[ModelInfo] = []
        self.blobs: dict[bytes, bytes] = {}
        self.followers = 0
        self.ended = asyncio.Event()
        """Set when the daemon was asked to end, or a follower of an endless stream has gone."""
        self.endless = False

    async def status(self) -> NodeStatus:
        self.calls.append(("status",))
        return STATUS

    async def peers(self) -> list[PeerInfo]:
        return self.peer_list

    async def applications(self) -> list[AppInfo]:
        return self.apps

    async def placement(self, app: bytes, voters: int) -> Placement:
        self.calls.append(("placement", app, voters))
        contacts = [Contact(bytes([n]) * 16, (f"192.0.2.{n}:7447",)) for n in range(voters)]
        return Placement(zone=0, home=contacts[0], voters=contacts)

    async def submit(self, descriptor: Record) -> AppInfo:
        self.calls.append(("submit", descriptor))
        app = spec.decode(descriptor.body)
        return AppInfo(id=app.id.hex(), name=app.name, owner=app.owner.hex(), status="waiting", rounds=app.rounds)

    async def follow(self, app: str, after: int = 0) -> AsyncIterator[AppEvent]:
        self.calls.append(("follow", app, after))
        self.followers += 1
        try:
            for event in self.events:
                yield event
            if self.endless:
                await asyncio.Event().wait()
        finally:
            self.followers -= 1
            self.ended.set()

    async def stop(self, app: str) -> AppInfo:
        self.calls.append(("stop", app))
        if app != APP.name:
            raise UsageError(f"no application is called {app}", "see `mycelia ls`")
        return APP

    async def invite(self, lifetime_s: int) -> Invitation:
        self.calls.append(("invite", lifetime_s))
        return Invitation(token="myc1-token", expires=1_700_003_600.0)

    async def revoke(self, node: str) -> str:
        self.calls.append(("revoke", node))
        return "22" * 16

    async def trusted(self) -> TrustInfo:
        return TrustInfo(owners=self.owners)

    async def trust(self, key: str) -> TrustInfo:
        self.calls.append(("trust", key))
        self.owners.append(TrustedOwner(key=key, why="added"))
        return await self.trusted()

    async def distrust(self, key: str) -> TrustInfo:
        self.calls.append(("distrust", key))
        self.owners = [owner for owner in self.owners if owner.key != key]
        return await self.trusted()

    async def models(self) -> list[ModelInfo]:
        return self.model_list

    async def upload(self, blob: bytes, size: int, offset: int, data: bytes) -> int:
        held = self.blobs.get(blob, b"")
        self.blobs[blob] = held[:offset] + data
        if len(self.blobs[blob]) == size and hashlib.sha256(self.blobs[blob]).digest() != blob:
            raise UsageError("the content does not hash to its name")
        return len(self.blobs[blob])

    async def download(self, blob: bytes) -> AsyncIterator[bytes]:
        content = self.blobs[blob]
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    async def leave(self) -> None:
        self.calls.append(("leave",))
        self.ended.set()

    async def shutdown(self) -> None:
        self.calls.append(("shutdown",))
        self.ended.set()
