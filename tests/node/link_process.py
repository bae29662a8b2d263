"""A process of its own with one end of a link: ``python -m tests.node.link_process`` reads what it is from stdin.

It dials the peer that it is told, says that it has, and lives until it is killed.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec

from dht.messages import Ping
from node.identity.credentials import Credentials
from node.identity.keys import Key
from node.links.manager import LinkConfig
from protocol.messages import Contact

from .fabric import Member
from .hosts import Host


class Setup(msgspec.Struct):
    """Who to be and whom to dial."""

    id: bytes
    credentials: Credentials
    peer: Contact


async def main() -> None:
    setup = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Setup)
    member = Member(setup.id, Key.generate(), setup.credentials)
    host = Host(member, {setup.peer.id: setup.peer}, LinkConfig())
    address = (await host.links.listen(["127.0.0.1:0"], {}))[0]
    host.links.send(setup.peer.id, Ping(1))
    print(address, flush=True)  # noqa: T201 - this is how the test hears where to dial
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
