"""A daemon that exists only for tests of the control API and the command line: fixed answers, every call noted."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from dht.messages import Record
from fl import spec
from fl.sdk import App, outline
from fl.spec import AppSpec
from node.identity.fabric import decode_document, open_document
from node.identity.keys import Ed25519Verifier
from node.names import find_model
from node.service import (
    AppEvent,
    AppInfo,
    Invitation,
    ModelInfo,
    NodeStatus,
    PeerInfo,
    RoundEvent,
    StatusEvent,
    TrustedKey,
    TrustInfo,
)
from protocol.errors import MyceliaError
from protocol.messages import Contact, Value

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
HOME = Contact(b"h" * 16, ("192.0.2.1:7447",))
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
        self.state = "ready"
        self.peer_list = [
            PeerInfo(id="22" * 16, name="ward-2", addresses=["192.0.2.2:7447"], linked=True, rtt_ms=1.25),
            PeerInfo(id="33" * 16, addresses=[], linked=False, penalties=3),
        ]
        self.events: list[AppEvent] = [*EVENTS, StatusEvent(app="digits", status="finished")]
        self.owners = [TrustedKey(key="ab" * 32, why="fabric")]
        self.model_list: list[ModelInfo] = []
        self.blobs: dict[bytes, bytes] = {}
        self.followers = 0
        self.ended = asyncio.Event()
        """Set when a follower has gone."""
        self.endless = False
        self.prepare_error: MyceliaError | None = None
        self.process: subprocess.Popen[bytes] | None = None
        """Stands for the daemon's: ends when the daemon is told to."""

    async def status(self) -> NodeStatus:
        self.calls.append(("status",))
        now = msgspec.structs.replace(STATUS, state=self.state)
        return now if self.process is None else msgspec.structs.replace(now, pid=self.process.pid)

    async def peers(self) -> list[PeerInfo]:
        return self.peer_list

    async def applications(self) -> list[AppInfo]:
        return self.apps

    async def prepare(self, bundle: bytes, settings: list[str], continue_from: str) -> AppSpec:
        self.calls.append(("prepare", settings, continue_from))
        if self.prepare_error is not None:
            raise self.prepare_error
        prepared = outline(App(name="digits", model=dict, rounds=3))
        return msgspec.structs.replace(prepared, home=HOME, initial=Value(1, b"m"), bundle=Value(len(bundle), bundle))

    async def voters_for(self, app: bytes, count: int) -> list[Contact]:
        self.calls.append(("voters_for", app, count))
        return [Contact(bytes([n]) * 16, (f"192.0.2.{n}:7447",)) for n in range(count)]

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

    async def stop(self, order: Record) -> AppInfo:
        self.calls.append(("stop", order))
        return APP

    async def invite(self, lifetime_s: int) -> Invitation:
        self.calls.append(("invite", lifetime_s))
        return Invitation(token="myc1-token", expires=1_700_003_600.0)

    async def revoke(self, node: str) -> str:
        self.calls.append(("revoke", node))
        return "22" * 16

    async def trusted(self) -> TrustInfo:
        return TrustInfo(keys=self.owners)

    async def trust(self, key: str) -> TrustInfo:
        self.calls.append(("trust", key))
        self.owners.append(TrustedKey(key=key, why="added"))
        return await self.trusted()

    async def distrust(self, key: str) -> TrustInfo:
        self.calls.append(("distrust", key))
        self.owners = [owner for owner in self.owners if owner.key != key]
        return await self.trusted()

    async def change_document(self, document: Record) -> TrustInfo:
        self.calls.append(("change_document", document))
        named = [key.hex() for key in open_document(decode_document(document.body), Ed25519Verifier()).app_owners]
        return TrustInfo(keys=self.owners, named=named)

    async def models(self) -> list[ModelInfo]:
        return self.model_list

    async def model(self, reference: str) -> ModelInfo:
        return find_model(self.model_list, reference)

    async def download(self, blob: bytes) -> AsyncIterator[bytes]:
        content = self.blobs[blob]
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    async def leave(self) -> None:
        self.calls.append(("leave",))
        self._end()

    async def shutdown(self) -> None:
        self.calls.append(("shutdown",))
        self._end()

    def _end(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
