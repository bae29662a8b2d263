"""Link managers on loopback for tests, with everything that they report written down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from node.artifacts import ArtifactStore
from node.links.manager import LinkConfig, LinkManager
from node.links.transfers import TransferConfig, Transfers
from node.supervisor import Supervisor
from protocol.events import Event, PeerDown, PeerUp, Received
from protocol.ids import NodeId
from protocol.messages import Contact, Message

from .fabric import Fabric, Member, until


class Host:
    """One daemon's links without a core: events are collected, contacts are looked up in ``book``."""

    def __init__(
        self, member: Member, book: dict[NodeId, Contact], config: LinkConfig, directory: Path | None = None
    ) -> None:
        self.id = member.id
        self.book = book
        self.events: list[Event] = []
        self.supervisor = Supervisor()
        self.links = LinkManager(
            member.id,
            config,
            lambda: member.credentials,
            self.supervisor,
            post=self.events.append,
            lookup=book.get,
        )
        self.artifacts: ArtifactStore | None = None
        if directory is not None:
            self.artifacts = ArtifactStore(directory / member.id.hex())
            self.artifacts.open()
            self.transfers = Transfers(
                TransferConfig(), self.artifacts, self.links, self.supervisor, self.events.append
            )

    @property
    def handlers(self) -> dict[str, Any]:
        return self.transfers.handlers() if self.artifacts else {}

    def received(self, peer: NodeId) -> list[object]:
        return [event.message for event in self.events if isinstance(event, Received) and event.peer == peer]

    def changes(self, peer: NodeId) -> list[str]:
        """``up`` and the reasons of ``PeerDown``, in order."""
        words = []
        for event in self.events:
            if isinstance(event, PeerUp) and event.peer == peer:
                words.append("up")
            elif isinstance(event, PeerDown) and event.peer == peer:
                words.append(event.why)
        return words

    async def tell(self, other: Host, message: Message) -> None:
        """Send ``message`` and wait until it has arrived."""
        before = len(other.received(self.id))
        self.links.send(other.id, message)
        await until(lambda: len(other.received(self.id)) > before)

    async def stop(self) -> None:
        if self.artifacts:
            await self.transfers.close()
        await self.links.close()
        await self.supervisor.close()
        if self.artifacts:
            self.artifacts.close()
        assert not self.supervisor.failures


@asynccontextmanager
async def hosts(
    count: int,
    config: LinkConfig | None = None,
    *,
    silent: Sequence[int] = (),
    fabric: Fabric | None = None,
    directory: Path | None = None,
) -> AsyncIterator[list[Host]]:
    """``count`` hosts in the order of their ids; those in ``silent`` do not listen: they are outbound-only.

    With a ``directory`` they have artifacts and transfers as well.
    """
    fabric = fabric or Fabric(count)
    book: dict[NodeId, Contact] = {}
    made = [Host(member, book, config or LinkConfig(), directory) for member in fabric.members]
    try:
        for index, host in enumerate(made):
            bound = () if index in silent else await host.links.listen(["127.0.0.1:0"], host.handlers)
            book[host.id] = Contact(host.id, bound)
        yield made
    finally:
        await asyncio.gather(*(host.stop() for host in made))
