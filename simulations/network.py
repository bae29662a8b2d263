"""What the network does to packets: distance, jitter, loss, duplication, reordering, cuts.

Hosts stand in the unit square, clustered in sites; the one-way latency between two of them is a base, plus their
distance, plus a share of jitter drawn per message.  That keeps the triangle inequality mostly true, as on real
networks, which is what proximity neighbour selection lives on (Castro et al. 2002, section 4).

Faults are of two sorts.  A *cut* separates a group of hosts from all others, both ways or one way only, from one moment
to another; or it separates single *pairs* that can both talk to everybody else, as broken routes and firewalls do.
*Noise* loses, doubles or reorders single messages; a stream transport would hide it, and the protocol must not depend
on its being hidden (a dialled path may change under a message, a daemon may drop from a full queue).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from protocol.streams import Stream

from .clock import MICROSECOND, MILLISECOND, SECOND


def dice(seed: int, purpose: str) -> Random:
    """The engine-wide generator for one purpose, so that a draw added to one shifts no other.

    Machines use ``protocol.streams``; here there are a handful of generators in all, drawn from once per message,
    and the one in C is twenty times faster.
    """
    return Random(Stream(seed, "dice", purpose).bits())  # noqa: S311 - simulation, not security


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Distances and capacities."""

    sites: int = 8
    """Clusters of hosts; hosts of one site are near each other."""
    base_ns: int = 200 * MICROSECOND
    """One-way latency between neighbours."""
    span_ns: int = 60 * MILLISECOND
    """One-way latency from one side of the square to the other, on top of the base."""
    jitter: float = 0.1
    """Each message takes up to this share of its link's latency longer."""
    control_rate: float = 12.5e6
    """Bytes/s of a host's control uplink (100 Mbit/s)."""
    up_rate: float = 12.5e6
    """Bytes/s of a host's uplink for bulk transfers, shared by its flows."""
    down_rate: float = 12.5e6
    """Bytes/s of a host's downlink for bulk transfers, shared by its flows."""
    dial_timeout_ns: int = 3 * SECOND
    """A dial that nobody answers is given up after this."""
    link_timeout_ns: int = 30 * SECOND
    """A link on which data stay unacknowledged for this long is broken by the kernel (TCP_USER_TIMEOUT)."""
    idle_close_ns: int = 0
    """Links that carried nothing for this long are closed, as no death; 0: never."""
    shared: bool = False
    """Messages and transfers share a host's uplink; otherwise each has one of its own."""
    late_share: float = 0.5
    """Of the links held up by a cut, the share that deliver what they held when it heals; the others are reset."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Probabilities per message."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    late_ns: int = 200 * MILLISECOND
    """A second copy, or a message that is overtaken, is late by up to this."""


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """No packet crosses between ``group`` and the rest; one way only if ``outward`` or ``inward`` is off."""

    group: frozenset[int]
    outward: bool = True
    """Packets that leave the group are dropped."""
    inward: bool = True
    """Packets that enter the group are dropped."""

    def blocks(self, source: int, target: int) -> bool:
        inside = source in self.group
        if inside == (target in self.group):
            return False
        return self.outward if inside else self.inward


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """No packet crosses between the two hosts of any of ``pairs``, either way: both may talk to everybody else."""

    pairs: frozenset[tuple[int, int]]
    """Each pair with its smaller index first."""

    def blocks(self, source: int, target: int) -> bool:
        return ((source, target) if source < target else (target, source)) in self.pairs


Barrier = Cut | Pairs
"""Whatever keeps packets from crossing."""


class Network:
    """Answers how long and whether; who is told about it is the business of ``links``."""

    __slots__ = ("_noise_draw", "_positions", "_seed", "config", "cuts", "disturbed", "draw", "noise")

    def __init__(self, config: NetworkConfig, seed: int) -> None:
        self.config = config
        self.cuts: list[Barrier] = []
        self.noise: Noise | None = None
        self.disturbed: Counter[str] = Counter()
        """Messages that noise has lost, doubled or reordered."""
        self._seed = seed
        self.draw = dice(seed, "jitter").random
        """Uniform in [0, 1): the jitter of one message."""
        self._noise_draw = dice(seed, "noise").random
        self._positions: dict[int, tuple[float, float]] = {}

    def set_noise(self, noise: Noise | None) -> None:
        """What happens to messages from now on; None: nothing."""
        self.noise = noise

    def position(self, index: int) -> tuple[float, float]:
        """Where host ``index`` stands, in the unit square."""
        place = self._positions.get(index)
        if place is None:
            site = Stream(self._seed, "site", Stream(self._seed, "of", index).below(self.config.sites))
            offset = Stream(self._seed, "place", index)
            place = (
                0.9 * site.uniform() + 0.1 * offset.uniform(),
                0.9 * site.uniform() + 0.1 * offset.uniform(),
            )
            self._positions[index] = place
        return place

    def latency(self, a: int, b: int) -> int:
        """One-way, in ns, without jitter; the same in both directions."""
        (ax, ay), (bx, by) = self.position(a), self.position(b)
        return self.config.base_ns + int(self.config.span_ns * math.hypot(ax - bx, ay - by) / math.sqrt(2))

    def blocked(self, source: int, target: int) -> bool:
        """No packet gets from ``source`` to ``target`` now."""
        for cut in self.cuts:  # noqa: SIM110 - asked for every message while a cut lasts
            if cut.blocks(source, target):
                return True
        return False

    def disturb(self) -> tuple[int, ...]:
        """Extra delays, in ns, of the copies of one message that arrive: none when it is lost."""
        noise, draw, late = self.noise, self._noise_draw, 0
        if noise is None:
            return (0,)
        if draw() < noise.loss:
            self.disturbed["loss"] += 1
            return ()
        if draw() < noise.reorder:
            self.disturbed["reorder"] += 1
            late = int(noise.late_ns * draw())
        if draw() < noise.duplicate:
            self.disturbed["duplicate"] += 1
            return (late, int(noise.late_ns * draw()))
        return (late,)

    def heals_late(self) -> bool:
        """A link that a cut held up delivers what it held; otherwise it is reset."""
        return self._noise_draw() < self.config.late_share

    def cut(self, group: Iterable[int], *, outward: bool = True, inward: bool = True) -> Cut:
        """Separate ``group`` from all others until ``Links.heal`` is called with the returned cut."""
        cut = Cut(frozenset(group), outward, inward)
        self.cuts.append(cut)
        return cut
