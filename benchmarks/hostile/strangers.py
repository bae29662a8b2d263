"""Strangers at the ports of a real daemon: idle, talking garbage, slow with their handshakes, slow with their question.

All come from one address, which an honest member and an honest joiner share with them: the hardest case.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import time

from node.demo.processes import DemoNode, Fleet, anonymous_bytes, temporary_fleet
from node.identity.credentials import join_probe_context
from node.identity.invite import decode_invitation
from node.identity.membership import Membership
from node.links import channels
from node.links.streams import DialledStream
from protocol.errors import TransportError

from ..report import Aim
from .joining import join
from .measured import Measured

IDLE, GARBAGE, SLOW, QUESTIONS = 2000, 400, 200, 70
FRAMES, PER_CONNECTION = 100_000, 250
DIALS = 10
LONGEST = 20.0
"""Seconds that are waited for anything."""


class Crowd:
    """Sockets that were opened against somebody, and are closed in the end."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._open: list[socket.socket] = []

    async def visit(self, said: bytes = b"") -> None:
        """Connect, say it, and stay."""
        visitor = socket.socket()
        visitor.setblocking(False)
        self._open.append(visitor)
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LONGEST):
                await loop.sock_connect(visitor, self._target)
                if said:
                    await loop.sock_sendall(visitor, said)

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


def _hello() -> bytes:
    """A genuine first flight of TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = join_probe_context().wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


class Attack:
    """One daemon, one honest member without a daemon of its own, and the numbers."""

    def __init__(self, fleet: Fleet, target: DemoNode, measured: Measured) -> None:
        self._fleet, self._target, self._measured = fleet, target, measured
        self._me: Membership

    async def run(self) -> None:
        self._me, _ = await join(self._fleet, self._target, "member")
        await self._dials("before")
        before = anonymous_bytes(self._target.pid)
        peak = before
        for what, count, said in (
            ("idle connections", IDLE, b""),
            ("connections with garbage", GARBAGE, os.urandom(512)),
            ("slow handshakes", SLOW, _hello()),
        ):
            crowd = Crowd(self._fleet.ports[self._target.index])
            await asyncio.gather(*(crowd.visit(said) for _ in range(count)))
            await self._dials(f"beside {count} {what}")
            peak = max(peak, anonymous_bytes(self._target.pid))
            crowd.close()
        peak = max(peak, await self._frames())
        await self._questions()
        self._measured.facts["anonymous memory before and at its peak, MB"] = [round(before / 1e6), round(peak / 1e6)]
        self._measured.aims.append(Aim("memory during the attacks, times before", peak / before, 1.5))
        await self._survived()

    async def _dials(self, when: str) -> None:
        """What an honest member needs to have a link, after it was refused as often as may be within the time."""
        times = []
        for _ in range(DIALS):
            started = time.monotonic()
            while time.monotonic() - started < LONGEST:
                with contextlib.suppress(TransportError):
                    channel = await channels.open_channel(
                        bytes.fromhex(self._target.id), [self._address()], self._me.credentials, LONGEST
                    )
                    stream = await DialledStream.open(channel)
                    times.append(time.monotonic() - started)
                    await stream.close()
                    break
            else:
                times.append(LONGEST)
        self._measured.facts[f"honest dial {when}, ms, median and slowest"] = [
            round(1000 * value) for value in (sorted(times)[len(times) // 2], max(times))
        ]
        self._measured.aims.append(Aim(f"honest dial {when}", max(times), 1.0, unit="s"))

    def _address(self) -> str:
        return f"127.0.0.1:{self._fleet.ports[self._target.index]}"

    async def _frames(self) -> int:
        """Records that look like TLS, in a row, on connections one after the other."""
        frame = b"\x16\x03\x01\x00\x40\x01" + os.urandom(63)
        peak = 0
        for _ in range(FRAMES // PER_CONNECTION):
            crowd = Crowd(self._fleet.ports[self._target.index])
            await crowd.visit(frame * PER_CONNECTION)
            peak = max(peak, anonymous_bytes(self._target.pid))
            crowd.close()
        self._measured.facts["garbage frames"] = FRAMES
        await self._dials("after 1e5 garbage frames")
        return peak

    async def _questions(self) -> None:
        port = decode_invitation((await self._target.service.invite(600)).token).issuer.addresses[0]
        slow = []
        for _ in range(QUESTIONS):
            with contextlib.suppress(OSError):
                slow.append(await asyncio.open_connection("127.0.0.1", int(port.rpartition(":")[2])))
        _, took = await join(self._fleet, self._target, "late")
        for _, writer in slow:
            writer.close()
        self._measured.aims.append(Aim(f"join beside {QUESTIONS} slow questions", took, 1.0, unit="s"))

    async def _survived(self) -> None:
        assert self._target.process is not None
        status = await self._target.service.status()
        self._measured.facts["at the door"] = {
            name.removeprefix("strangers_"): int(count)
            for name, count in status.counters.items()
            if name.startswith("strangers_")
        }
        alive = self._target.process.poll() is None and status.pid == self._target.pid
        self._measured.aims.append(Aim("the daemon lives", float(alive), 1, at_least=True))
        failures = sum(count for name, count in status.counters.items() if name.startswith("failures_"))
        self._measured.aims.append(Aim("failures of its own", failures, 0))


async def _run(measured: Measured) -> None:
    with temporary_fleet(alpha=0.5, seed=1) as fleet:
        await fleet.start(1)
        await Attack(fleet, fleet.nodes[0], measured).run()


def measure() -> Measured:
    """Attack one daemon."""
    measured = Measured()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        asyncio.run(_run(measured))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return measured
