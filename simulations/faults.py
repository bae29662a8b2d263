"""Fault plans: what goes wrong, drawn from the seed before the run starts.

A plan is a list of moments at which something breaks and of moments at which it mends.  Everything mends at the end of
the window at the latest, except for hosts that never come back.  Only the choice of *which* root is hit waits for the
moment itself, since nobody knows before who that will be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from protocol.streams import Stream

from .host import Host
from .network import Barrier, Cut, Noise, Pairs
from .scenario import Faults, ns


class Target(Protocol):
    """What a plan is carried out on: ``world.World``."""

    def crash(self, host: Host, *, power: bool, keep_disk: bool) -> None: ...

    def restart(self, host: Host) -> None: ...

    def replace(self, host: Host) -> None:
        """A machine with a new key takes over the data and the place of ``host``, whose disk is lost."""
        ...

    def freeze(self, host: Host) -> None: ...

    def thaw(self, host: Host) -> None: ...

    def cut(self, cut: Barrier) -> None: ...

    def heal(self, cut: Barrier) -> None: ...

    def stop(self, application: int) -> None:
        """The owner of an application stops it."""
        ...

    def noise(self, noise: Noise | None) -> None: ...

    def slow(self, host: Host, *, disk: float, compute: float) -> None:
        """Factors by which the host's writes and computations take longer."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens once.  ``carry_out`` is called when its time has come."""

    kind: str
    host: int = -1
    """Index of the member that it hits; -1 for whoever is root, or for no one in particular."""
    cut: Barrier | None = None
    noise: Noise | None = None
    application: int = -1
    """Index of the one that is stopped."""
    factor: float = 1.0
    """By how much the host is slower."""

    def carry_out(self, target: Target, victim: Host | None) -> None:
        """Do it to ``target``; ``victim`` is the host that it hits, if any."""
        if self.cut is not None:
            (target.cut if self.kind != "heal" else target.heal)(self.cut)
        elif self.kind in ("noise", "quiet"):
            target.noise(self.noise)
        elif self.application >= 0:
            target.stop(self.application)
        elif self.kind == "slow-compute" and victim is not None:
            target.slow(victim, disk=1.0, compute=self.factor)
        elif victim is not None:
            _STRIKES[self.kind](target, victim)


_STRIKES = {
    "crash": lambda target, host: target.crash(host, power=False, keep_disk=True),
    "power": lambda target, host: target.crash(host, power=True, keep_disk=True),
    "blackout": lambda target, host: target.crash(host, power=True, keep_disk=True),
    "wipe": lambda target, host: target.crash(host, power=False, keep_disk=False),
    "return": lambda target, host: target.restart(host),
    "replace": lambda target, host: target.replace(host),
    "freeze": lambda target, host: target.freeze(host),
    "thaw": lambda target, host: target.thaw(host),
    "slow-disk": lambda target, host: target.slow(host, disk=100.0, compute=1.0),
    "full-speed": lambda target, host: target.slow(host, disk=1.0, compute=1.0),
}


MENDS = frozenset({"return", "replace", "thaw", "heal", "noise", "quiet", "full-speed"})
"""Entries that undo others, or that are counted by message."""


def kinds(faults: Faults) -> list[str]:
    """Names of the kinds of fault that ``faults`` asks for."""
    crashes = faults.crash_share > 0 or faults.crash_root or faults.power_root
    wanted = {
        "crash": crashes and (faults.replace_share < 1 or faults.crash_root),
        "replace": faults.crash_share > 0 and faults.replace_share > 0,
        "blackout": faults.blackouts > 0,
        "freeze": faults.freezes > 0,
        "cut": faults.cuts > 0,
        "one-way-cut": faults.one_way_cuts > 0,
        "loss": faults.loss > 0,
        "duplicate": faults.duplicate > 0,
        "reorder": faults.reorder > 0,
        "slow-disk": faults.slow_disks > 0,
        "slow-compute": faults.slow_compute > 0,
        "pair-cut": faults.pair_cuts > 0 or faults.cut_beside_id,
        "unreachable": faults.unreachable_share > 0,
        "deaf": faults.deaf_beside_id,
        "wrong-clock": faults.wrong_clocks > 0 or faults.clocks_beside_id,
        "submitter-gone": faults.submitter_gone,
        "stop": faults.stops > 0,
        "liar": faults.liars > 0,
    }
    return [kind for kind, asked in wanted.items() if asked]


class FaultPlan:
    """All faults of one run, in no particular order, with the time of each after the start of the window."""

    def __init__(self, faults: Faults, hosts: int, seed: int, applications: int = 0) -> None:
        self.window = ns(faults.duration_s)
        self.entries: list[tuple[int, Fault]] = []
        self.pairs: list[tuple[int, int, str, str]] = []
        """(strike, mend, kind of strike, kind of mending) of what hits whoever is root at the time."""
        self._faults = faults
        self._hosts = hosts
        self._applications = applications
        self._stream = Stream(seed, "faults")
        self._draw_crashes()
        self._draw_freezes()
        self._draw_cuts()
        self._draw_slowness()
        self._draw_blackouts()
        if faults.loss or faults.duplicate or faults.reorder:
            noise = Noise(faults.loss, faults.duplicate, faults.reorder, ns(faults.late_s))
            self.entries += [(0, Fault("noise", noise=noise)), (self.window, Fault("quiet"))]
        # A stream of their own: what is drawn for these shifts nothing of the above.
        self._stream = Stream(seed, "faults", "pairs and owners")
        self._draw_pairs()
        self._draw_stops()
        if faults.power_root:
            self.pairs.append((*self._span(faults.return_s), "power", "return"))

    def _span(self, mean_s: float) -> tuple[int, int]:
        """From when to when something lasts: between a fifth and nine fifths of the mean, all of it in the window."""
        length = min(int(ns(mean_s) * self._stream.uniform(0.2, 1.8)), self.window)
        start = self._stream.below(self.window - length + 1)
        return start, start + length

    def _draw_crashes(self) -> None:
        faults, stream = self._faults, self._stream
        if faults.crash_root:
            self.pairs.append((*self._span(faults.return_s), "crash", "return"))
        for index in stream.sample(range(self._hosts), round(faults.crash_share * self._hosts)):
            when, later = self._span(faults.return_s)
            wiped = stream.uniform() < faults.replace_share
            kind = "power" if stream.uniform() < faults.power_share else "crash"
            returns = stream.uniform() < faults.return_share
            if wiped:
                self.entries += [(when, Fault("wipe", index)), (later, Fault("replace", index))]
            else:
                self.entries.append((when, Fault(kind, index)))
                if returns:
                    self.entries.append((later, Fault("return", index)))

    def _draw_freezes(self) -> None:
        for number in range(self._faults.freezes):
            when, later = self._span(self._faults.freeze_s)
            if number == 0 and self._faults.freeze_root:
                self.pairs.append((when, later, "freeze", "thaw"))
            else:
                index = self._stream.below(self._hosts)
                self.entries += [(when, Fault("freeze", index)), (later, Fault("thaw", index))]

    def _draw_cuts(self) -> None:
        both, one_way = self._faults.cuts, self._faults.one_way_cuts
        for number in range(both + one_way):
            when, later = self._span(self._faults.cut_s)
            most = max(1, round(self._faults.cut_share * self._hosts))
            group = frozenset(self._stream.sample(range(self._hosts), 1 + self._stream.below(most)))
            outward = number < both or self._stream.uniform() < 0.5
            cut = Cut(group, outward, number < both or not outward)
            self.entries += [(when, Fault("cut" if number < both else "one-way-cut", cut=cut))]
            self.entries += [(later, Fault("heal", cut=cut))]

    def _draw_pairs(self) -> None:
        """Broken routes between two, for a while each; and a share of all routes for as long as the window lasts."""
        for _ in range(self._faults.pair_cuts):
            when, later = self._span(self._faults.cut_s)
            first, second = sorted(self._stream.sample(range(self._hosts), 2))
            cut = Pairs(frozenset([(first, second)]))
            self.entries += [(when, Fault("pair-cut", cut=cut)), (later, Fault("heal", cut=cut))]
        share = self._faults.unreachable_share
        if share:
            every = ((a, b) for b in range(self._hosts) for a in range(b))
            cut = Pairs(frozenset(pair for pair in every if self._stream.uniform() < share))
            self.entries += [(0, Fault("unreachable", cut=cut)), (self.window, Fault("heal", cut=cut))]

    def _draw_stops(self) -> None:
        for index in self._stream.sample(range(self._applications), self._faults.stops):
            self.entries.append((self._stream.below(self.window + 1), Fault("stop", application=index)))

    def _draw_blackouts(self) -> None:
        """Everybody at once; they do not all come back at the same moment."""
        for _ in range(self._faults.blackouts):
            when, later = self._span(self._faults.return_s)
            for index in range(self._hosts):
                self.entries.append((when, Fault("blackout", index)))
                self.entries.append((when + 1 + self._stream.below(later - when + 1), Fault("return", index)))

    def _draw_slowness(self) -> None:
        for kind, count in (("slow-disk", self._faults.slow_disks), ("slow-compute", self._faults.slow_compute)):
            for index in self._stream.sample(range(self._hosts), count):
                fault = Fault(kind, index, factor=self._faults.slow_factor)
                self.entries += [(0, fault), (self.window, Fault("full-speed", index))]
