"""Who could have taken part: since when each host has been well, and since when the network has been calm.

The world notes here whatever goes wrong and whatever mends.  Checkers that ask why somebody was missing look here, so
that an absence is excused by what happened to the host and not by what the protocol made of it.
"""

from __future__ import annotations

from collections.abc import Callable

from .host import Host
from .network import Network


class Weather:
    """Since when all has been well, of each host and of the network."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._well: dict[int, int] = {}
        """Host → since when its process runs undisturbed, ns; those that are unwell are missing."""
        self._calm_since: int | None = 0
        self.on_unwell: list[Callable[[Host], None]] = []

    def well(self, host: Host, now: int) -> None:
        """Its process started, woke up, or is no longer slowed down."""
        self._well[host.index] = now

    def unwell(self, host: Host) -> None:
        """Dead, stopped or slowed down."""
        self._well.pop(host.index, None)
        for hook in self.on_unwell:
            hook(host)

    def changed(self, now: int) -> None:
        """Cuts or noise of the network changed."""
        calm = not self._network.cuts and self._network.noise is None
        self._calm_since = now if calm else None

    def well_since(self, host: Host) -> int | None:
        """Since when ``host`` has been well, ns; None when it is not."""
        return self._well.get(host.index)

    def calm_since(self) -> int | None:
        """Since when every packet has arrived that was sent to a living machine, ns; None while some do not."""
        return self._calm_since
