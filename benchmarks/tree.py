"""Bulk down a tree: ``python -m benchmarks.tree [--mb 100] [--nodes 8] [--fan-out 2]``.

Real drivers, one process each, hand one artifact down a tree over mutual TLS: written to disk, hashed and verified at
every node, and passed on while it arrives.  The yardstick is one plain gRPC stream between two processes in the same
run.
"""

from __future__ import annotations

import asyncio
import time
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from sys import executable
from typing import Any

import msgspec

from protocol.messages import Contact
from tests.node.fabric import Fabric

from . import plain_stream
from .report import Aim, Report, leave, parser
from .tree_process import Fetch, Setup

MB = 1 << 20


class Member:
    """One process of the tree."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.contact: Contact
        self.base_kb = 0

    async def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = msgspec.json.decode(await self.process.stdout.readline())
        return answer

    def tell(self, message: msgspec.Struct) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(message) + b"\n")


async def start(size: int, nodes: int) -> tuple[list[Member], bytes]:
    """All processes up, the artifact made at the root."""
    members, blob = [], b""
    for index, identity in enumerate(Fabric(nodes).members):
        process = await create_subprocess_exec(executable, "-m", "benchmarks.tree_process", stdin=PIPE, stdout=PIPE)
        member = Member(process)
        member.tell(Setup(identity.id, identity.credentials, 0 if index else size))
        members.append(member)
    for index, member in enumerate(members):
        hello = await member.hear()
        member.contact = msgspec.convert(hello["contact"], Contact, builtin_types=(), strict=False)
        member.base_kb = hello["base_kb"]
        if not index:
            blob = msgspec.convert(hello["blob"], bytes)
    return members, blob


async def measure(size: int, nodes: int, fan_out: int) -> Report:
    plain = await plain_stream.rate(size)
    members, blob = await start(size, nodes)
    started = time.monotonic()
    for index in range(1, nodes):
        members[index].tell(Fetch(members[(index - 1) // fan_out].contact, blob, size))
    answers = await asyncio.gather(*(member.hear() for member in members[1:]))
    wall = max(answer["at"] for answer in answers) - started
    assert all(answer["ok"] for answer in answers), "a transfer failed"
    for member in members:
        assert member.process.stdin is not None
        member.process.stdin.close()
    await asyncio.gather(*(member.process.wait() for member in members))
    grown = [
        (answer["peak_kb"] - member.base_kb) * 1024 / size for answer, member in zip(answers, members[1:], strict=True)
    ]
    inner = [index for index in range(1, nodes) if index * fan_out + 1 < nodes]
    leaves = [index for index in range(1, nodes) if index not in inner]
    rate = (nodes - 1) * size / wall
    report = Report(
        "tree", facts={"nodes": nodes, "fan_out": fan_out, "megabytes": size / MB, "wall_s": round(wall, 3)}
    )
    report.facts |= {"plain_mb_s": round(plain / 1e6, 1), "tree_mb_s": round(rate / 1e6, 1)}
    report.aims += [
        Aim("(edges × bytes)/wall over a plain stream", rate / plain, 0.5, at_least=True),
        Aim("leaf above its base", max(grown[index - 1] for index in leaves), 2.0, unit="models"),
    ]
    if inner:
        report.aims.append(Aim("inner node above its base", max(grown[i - 1] for i in inner), 3.0, unit="models"))
    return report


def main() -> None:
    options = parser("tree", "Throughput and memory of an artifact going down a tree.")
    options.add_argument("--mb", type=int, default=100)
    options.add_argument("--nodes", type=int, default=8)
    options.add_argument("--fan-out", type=int, default=2)
    args = options.parse_args()
    leave(asyncio.run(measure(args.mb * MB, args.nodes, args.fan_out)), args.json)


if __name__ == "__main__":
    main()
