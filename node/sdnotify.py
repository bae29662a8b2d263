"""Telling the service manager how the daemon is: systemd's notification protocol, sd_notify(3).

One datagram of ``KEY=VALUE`` lines to the unix socket that ``NOTIFY_SOCKET`` names; a leading ``@`` stands for the
abstract namespace.  ``READY=1`` ends ``systemctl start``; ``WATCHDOG=1``, sent from the event loop, proves that the
loop still turns, and systemd restarts a daemon that stops sending it.  Without a service manager nothing happens.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


def notify(message: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send ``message``, for example ``READY=1``.  A manager that has gone is no concern of ours."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection, contextlib.suppress(OSError):
        connection.sendto(message.encode(), address)


def watchdog_s(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """Seconds between two ``WATCHDOG=1``, half of what the manager allows; None when it expects none from us."""
    allowed = environ.get("WATCHDOG_USEC", "")
    meant = environ.get("WATCHDOG_PID", "")
    if not allowed.isdecimal() or int(allowed) == 0 or (meant and meant != str(os.getpid() if pid is None else pid)):
        return None
    return int(allowed) / 2_000_000
