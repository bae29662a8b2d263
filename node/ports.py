"""A port that was picked once is kept.

Port 0 lets the system choose, which is how several nodes share a machine without anybody counting.  But peers remember
addresses: if a fabric's nodes all went down and came back elsewhere, none would find another.  So a node takes the port
of its last life again whenever it is still free.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from .links.channels import split_address

_PREFIX = "port/"


class Ports:
    """The ports of the last life, by purpose."""

    def __init__(self, restored: Mapping[str, bytes]) -> None:
        """``restored``: what the batches of earlier lives made durable."""
        found = {key.removeprefix(_PREFIX): value for key, value in restored.items() if key.startswith(_PREFIX)}
        self._ports = {name: int(value) for name, value in found.items() if value.isdigit()}

    def choose(self, purpose: str, address: str) -> str:
        """``address`` (``HOST:PORT``), port 0 replaced by that of last time if it is free.  Raises ConfigError."""
        host, port = split_address(address)
        again = self._ports.get(purpose, 0)
        if port or not again or not _free(host, again):
            return address
        return f"{address.rpartition(':')[0]}:{again}"

    def took(self, purpose: str, port: int) -> dict[str, bytes | None]:
        """Note what was bound; answers the batch that makes it durable."""
        if self._ports.get(purpose) == port:
            return {}
        self._ports[purpose] = port
        return {_PREFIX + purpose: str(port).encode()}


def _free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError:
        return False
    return True
