"""Sixteen daemons on one machine, each its own process, key, certificate and state directory.

Everything goes the way that an operator goes: the first directory founds the fabric, the others join with a
one-line invitation over the issuer's TLS listener, and every daemon is ``mycelia up``.  Only the torch preload is
shared: one fork server from which all daemons take their workers, since sixteen imports of torch would take half a
minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from node.config_reference import toml_value
from node.contacts import save_contacts
from node.control import connect
from node.identity import enrol
from node.identity.invite import decode_invitation
from node.identity.membership import Membership, found, node_key
from node.service import DaemonService
from node.statedir import StateDir, write_file
from protocol.errors import MyceliaError, TransportError

START_LIMIT = 60.0
"""Seconds that all daemons together may take to become ready."""


@dataclass
class DemoNode:
    """One daemon: where it lives and how it is doing."""

    index: int
    state: Path
    id: str = ""
    process: subprocess.Popen[bytes] | None = None
    condition: str = "starting"
    """``up``, ``killed`` or ``frozen``, as far as the demo itself did it."""

    @property
    def service(self) -> DaemonService:
        return connect(self.state / "control.sock")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals, condition: str) -> None:
        """Send ``number`` to the daemon, and only to it."""
        os.kill(self.pid, number)
        self.condition = condition


@dataclass
class Fleet:
    """All daemons of one demo."""

    directory: Path
    alpha: float
    """Dirichlet concentration of the label skew."""
    seed: int
    nodes: list[DemoNode] = field(default_factory=list)
    fork_server: subprocess.Popen[bytes] | None = None

    ports: list[int] = field(default_factory=list)
    """Where each daemon listens: fixed, so that a fabric that was killed as a whole finds itself again."""
    advertised: dict[int, int] = field(default_factory=dict)
    """Index → port that peers are told to dial instead, where something stands between."""

    spawned: Callable[[DemoNode], object] = lambda node: None
    """Told of every daemon that was started."""

    @property
    def fork_socket(self) -> Path:
        """Where the shared fork server listens."""
        return self.directory / "fork.sock"

    def node(self, node_id: str) -> DemoNode:
        return next(node for node in self.nodes if node.id == node_id)

    async def start(self, count: int) -> None:
        """Found, invite, join, start.  Raises TransportError when a daemon does not become ready in time."""
        self.fork_server = subprocess.Popen(
            [sys.executable, "-m", "fl.learn.forkserver", str(self.fork_socket)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.directory / "fork.log").open("wb"),
        )  # fmt: skip
        self.ports = self.ports or free_ports(count)
        self.nodes = [DemoNode(index, self.directory / f"n{index:02d}") for index in range(count)]
        for node in self.nodes:
            StateDir.create(node.state)
            write_file(node.state / "config.toml", self._config(node.index).encode())
        founder = self.nodes[0]
        with StateDir.create(founder.state).locked() as state:
            founder.id = found(state, "demo", 0, int(time.time())).node.hex()
        self._spawn(founder)
        await self._ready(founder)
        for node in self.nodes[1:]:
            await self._join(founder, node)
            self._spawn(node)
        await asyncio.gather(*(self._ready(node) for node in self.nodes))

    def binding(self, index: int) -> dict[str, object]:
        """The share of the digits that lies on node ``index``."""
        return {
            "kind": "digits", "partition": "dirichlet", "part": index, "parts": len(self.nodes), "alpha": self.alpha,
            "seed": self.seed,
        }  # fmt: skip

    def _config(self, index: int) -> str:
        sections: dict[str, dict[str, object]] = {
            "node": {
                "name": f"n{index:02d}",
                "listen": f"127.0.0.1:{self.ports[index]}",
                "join_listen": "127.0.0.1:0",
                "advertise": [f"127.0.0.1:{self.advertised.get(index, self.ports[index])}"],
            },
            "worker": {"fork_server": str(self.fork_socket)},
            "data.digits": self.binding(index),
        }
        lines = []
        for name, keys in sections.items():
            lines += [f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in keys.items()), ""]
        return "\n".join(lines)

    async def restart(self, node: DemoNode) -> None:
        """Start a daemon that was killed; returns when it is a member of the ring again."""
        self._spawn(node)
        await self._ready(node)

    def _spawn(self, node: DemoNode) -> None:
        node.process = subprocess.Popen(
            [sys.executable, "-m", "node", "-C", str(node.state), "up"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(node.state / "stderr.log").open("ab"),
        )  # fmt: skip
        self.spawned(node)

    async def _join(self, founder: DemoNode, node: DemoNode) -> None:
        """What ``mycelia join`` does, without a process of its own for each."""
        invitation = decode_invitation((await founder.service.invite(600)).token)
        now = int(time.time())
        with StateDir.create(node.state).locked() as state:
            key = node_key(state)
            joined = await enrol.join(invitation, key, now)
            save_contacts(state, joined.seeds)
            node.id = Membership.enter(state, key, joined.endorsement, joined.document, now).node.hex()

    async def _ready(self, node: DemoNode) -> None:
        """Wait until the daemon is a full member of the ring."""
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            if node.process is not None and node.process.poll() is not None:
                raise TransportError(f"node {node.index} stopped while starting", f"read {node.state}/stderr.log")
            with contextlib.suppress(MyceliaError):
                if (await node.service.status()).state == "ready":
                    node.condition = "up"
                    return
            await asyncio.sleep(0.05)
        raise TransportError(f"node {node.index} was not ready in {START_LIMIT:.0f} s", f"read {node.state}/stderr.log")

    def close_daemons(self) -> None:
        """Stop the daemons; the fork server stays."""
        _stop([node.process for node in self.nodes if node.process is not None])

    def close(self) -> None:
        """Stop every process that this object started."""
        self.close_daemons()
        if self.fork_server is not None:
            _stop([self.fork_server])

    def anonymous_mb(self) -> float:
        """The largest anonymous memory of a live daemon, MB (Linux ``smaps_rollup``)."""
        sizes = [anonymous_bytes(node.pid) for node in self.nodes if node.condition == "up"]
        return max(sizes, default=0) / 1e6


@contextlib.contextmanager
def temporary_fleet(alpha: float, seed: int) -> Iterator[Fleet]:
    """A fleet in a directory of its own; when the context ends, its processes are stopped and the directory is gone."""
    with tempfile.TemporaryDirectory(prefix="mycelia-demo-") as directory:
        fleet = Fleet(Path(directory), alpha, seed)
        try:
            yield fleet
        finally:
            fleet.close()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody uses at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def anonymous_bytes(pid: int) -> int:
    """Anonymous resident memory of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:")), 0)


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
    for process in processes:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
