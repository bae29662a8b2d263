"""Disks: a write is durable only some time after it was asked for.

Writes of one host become durable in order.  A crash loses what had not been acknowledged, except that a prefix of it
may have reached the platter all the same: a protocol must live with "not stored", "stored" and "stored, but I never
heard".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocol.events import Event, Stored

from .clock import MICROSECOND, MILLISECOND, Schedule
from .host import Disk, Host
from .network import dice


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """Latency of a durable write."""

    write_ns: int = 300 * MICROSECOND
    """The least that a write takes."""
    spread_ns: int = 5 * MILLISECOND
    """Up to this much is added to each."""


class Disks:
    """Writes and what a crash leaves of them."""

    def __init__(
        self, schedule: Schedule, config: DiskConfig, seed: int, deliver: Callable[[Host, Event], None]
    ) -> None:
        self._schedule = schedule
        self._config = config
        self._draw = dice(seed, "disk").random
        self._deliver = deliver
        self.on_durable: list[Callable[[Host, str, bytes | None], None]] = []
        """Called with (host, key, value) for each write at the moment at which a crash cannot undo it any more."""

    def store(self, host: Host, key: str, value: bytes | None) -> None:
        """Begin a write; ``Stored(key)`` follows when it is durable."""
        disk = host.disk
        if disk is None:
            disk = host.disk = Disk()
        took = int((self._config.write_ns + self._config.spread_ns * self._draw()) * disk.scale)
        disk.free_at = max(disk.free_at, self._schedule.now) + took
        disk.pending.append((key, value))
        self._schedule.at(disk.free_at, self._written, host, host.boot)

    def crashed(self, host: Host) -> None:
        """Of the pending writes a prefix may have made it."""
        disk = host.disk
        if disk is None:
            return
        for _ in range(int((len(disk.pending) + 1) * self._draw())):
            self._commit(host, disk)
        disk.pending.clear()
        disk.free_at = 0

    def _written(self, host: Host, boot: int) -> None:
        if host.boot == boot and host.core is not None:
            assert host.disk is not None
            self._deliver(host, Stored(self._commit(host, host.disk)))

    def _commit(self, host: Host, disk: Disk) -> str:
        """Make the oldest pending write durable; returns its key."""
        key, value = disk.pending.popleft()
        if value is None:
            disk.durable.pop(key, None)
        else:
            disk.durable[key] = value
        for watch in self.on_durable:
            watch(host, key, value)
        return key
