"""Where a node is reached: what it tells others after it has bound its listeners."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from .channels import split_address

MAX_ADDRESSES = 8
_ELSEWHERE = {socket.AF_INET: ("192.0.2.1", 9), socket.AF_INET6: ("2001:db8::1", 9)}
"""Documentation addresses (RFC 5737, RFC 3849): a route to them is a route to anywhere."""


def advertised(bound: Sequence[str]) -> tuple[str, ...]:
    """``bound`` with wildcards replaced by the addresses from which this host reaches others, at most eight."""
    found: dict[str, None] = {}
    for address in bound:
        host, port = split_address(address)
        if host == "::":
            hosts = [_own(socket.AF_INET6), _own(socket.AF_INET)]
        elif host == "0.0.0.0":  # noqa: S104 - compared, not bound
            hosts = [_own(socket.AF_INET)]
        else:
            hosts = [host]
        for own in hosts:
            if own:
                found[f"[{own}]:{port}" if ":" in own else f"{own}:{port}"] = None
    return tuple(found)[:MAX_ADDRESSES]


def _own(family: socket.AddressFamily) -> str:
    """The source address of packets that leave this host; loopback when none can.  Sends nothing."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE[family])
        except OSError:
            return "127.0.0.1" if family == socket.AF_INET else ""
        return str(probe.getsockname()[0])
