"""Transfers as fluid flows that share the capacity of their ends.

A flow gets the smaller of two equal shares: of its source's uplink and of its target's downlink.  Shares change only
where a flow begins, ends or is obstructed, which touches the flows of two hosts.  A source that is itself still
receiving the blob passes it on as it comes (cut-through, DESIGN section 4): a flow that has caught up with its *feed*
moves at the feed's own rate, and one that has not gets an event at the moment at which it will.  Progress survives a
failed transfer and, with the disk, a crash; the next transfer resumes there.

Messages have connections of their own beside those of transfers.  On a shared uplink every connection gets the same:
among n transfers a message gets one part of n + 1, and what it took is paid by the transfers, at the latest when they
would have been complete.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.events import Event, TransferDone, TransferFailed
from protocol.ids import BlobId, NodeId

from .artifacts import Artifacts
from .clock import SECOND, Schedule
from .host import Flow, Host, State
from .network import Network

STALL_NS = 10 * SECOND
"""A driver gives up a transfer that has not moved for this long."""


class Flows:
    """All transfers under way."""

    def __init__(
        self,
        schedule: Schedule,
        network: Network,
        hosts: dict[NodeId, Host],
        artifacts: Artifacts,
        deliver: Callable[[Host, Event], None],
    ) -> None:
        self.moved = 0
        """Bytes of completed transfers."""
        self._schedule = schedule
        self._network = network
        self._hosts = hosts
        self._artifacts = artifacts
        self._deliver = deliver
        self._outgoing: dict[int, dict[Flow, None]] = {}
        self._kept: dict[tuple[int, BlobId], float] = {}
        self._dirty: dict[Flow, None] = {}
        self._debt: dict[int, int] = {}
        """Bytes of messages that left a host beside its transfers, and that these have not paid for yet."""

    # ---- what a process asks for ----

    def start(self, target: Host, peer: NodeId, blob: BlobId, size: int) -> None:
        """Bring ``blob`` to ``target``; it hears ``TransferDone`` or ``TransferFailed``."""
        self.cancel(target, blob)
        if self._artifacts.holds(target, blob):
            self._tell(target, TransferDone(blob))
            return
        progress = self._kept.get((target.index, blob), 0.0)
        source = self._hosts.get(peer)
        if source is None or source is target:
            self._tell(target, TransferFailed(blob, int(progress), "unknown peer"))
            return
        flow = Flow(source, target, blob, size, progress, self._schedule.now)
        if target.receiving is None:
            target.receiving = {}
        target.receiving[blob] = flow
        self._schedule.after(3 * self._network.latency(source.index, target.index), self._begin, flow)

    def cancel(self, target: Host, blob: BlobId) -> None:
        """Stop receiving ``blob``; what came is kept."""
        flow = (target.receiving or {}).get(blob)
        if flow is not None:
            self._remove(flow)
            self._settle()

    def beside(self, index: int, size: int) -> int:
        """A message of ``size`` bytes leaves host ``index``: beside how many transfers?"""
        outgoing = self._outgoing.get(index)
        if not outgoing:
            return 0
        self._debt[index] = self._debt.get(index, 0) + size
        return len(outgoing)

    # ---- what happens to hosts ----

    def process_died(self, host: Host, *, silent: bool) -> None:
        """Nothing comes here any more; those who fetch from here fail at once, or stall if the machine is off."""
        for flow in list((host.receiving or {}).values()):
            self._remove(flow)
        for flow in list(self._outgoing.get(host.index, ())):
            if silent:
                self._dirty[flow] = None
            else:
                self._fail(flow, "closed")
        self._settle()

    def disk_lost(self, host: Host) -> None:
        """What was kept of broken transfers is gone."""
        for key in [key for key in self._kept if key[0] == host.index]:
            del self._kept[key]

    def recheck(self) -> None:
        """Who can reach whom changed, or who runs."""
        for flows in self._outgoing.values():
            self._dirty.update(flows)
        self._settle()

    # ---- the life of a flow ----

    def _begin(self, flow: Flow) -> None:
        if not flow.listed:
            return
        source = flow.source
        if not self._reachable(flow) or source.state is State.FROZEN:
            self._schedule.after(self._network.config.dial_timeout_ns, self._give_up, flow, "unreachable")
        elif source.core is None:
            self._give_up(flow, "refused")
        elif not self._artifacts.holds(source, flow.blob) and flow.blob not in (source.receiving or {}):
            self._give_up(flow, "not held")
        else:
            flow.begun = True
            flow.since = flow.still_since = self._schedule.now
            self._outgoing.setdefault(source.index, {})[flow] = None
            self._touch_ends(flow)
            self._settle()

    def _finish(self, flow: Flow) -> None:
        self._remove(flow)
        self._kept.pop((flow.target.index, flow.blob), None)
        self._artifacts.add(flow.target, flow.blob)
        self.moved += flow.size
        self._tell(flow.target, TransferDone(flow.blob))

    def _give_up(self, flow: Flow, why: str) -> None:
        if flow.listed:
            self._fail(flow, why)
            self._settle()

    def _fail(self, flow: Flow, why: str) -> None:
        self._remove(flow)
        self._tell(flow.target, TransferFailed(flow.blob, int(flow.progress), why))

    def _remove(self, flow: Flow) -> None:
        target = flow.target
        flow.advance(self._schedule.now)
        flow.rate = 0.0
        flow.generation += 1
        if flow.listed:
            assert target.receiving is not None
            del target.receiving[flow.blob]
        self._dirty.pop(flow, None)
        if flow.begun:
            del self._outgoing[flow.source.index][flow]
            flow.begun = False
            if flow.progress >= 1.0:
                self._kept[target.index, flow.blob] = flow.progress
            self._touch_ends(flow)

    def _tell(self, host: Host, event: Event) -> None:
        self._schedule.after(0, self._deliver_if, host, host.boot, event)

    def _deliver_if(self, host: Host, boot: int, event: Event) -> None:
        if host.boot == boot and host.core is not None:
            self._deliver(host, event)

    # ---- rates ----

    def _reachable(self, flow: Flow) -> bool:
        source, target, network = flow.source, flow.target, self._network
        if source.state is State.OFF:
            return False
        return not network.cuts or not (
            network.blocked(source.index, target.index) or network.blocked(target.index, source.index)
        )

    def _touch_ends(self, flow: Flow) -> None:
        """The shares at both ends of ``flow`` changed, and so may the rates of whatever feeds on it."""
        self._dirty.update(self._outgoing.get(flow.source.index, {}))
        self._dirty.update(self._outgoing.get(flow.target.index, {}))
        for other in (flow.target.receiving or {}).values():
            if other.begun:
                self._dirty[other] = None

    def _settle(self) -> None:
        """Recompute until nothing that changed has a consequence left.  Feeds form a forest, so this ends."""
        while self._dirty:
            flow = next(iter(self._dirty))
            del self._dirty[flow]
            self._update(flow)

    def _update(self, flow: Flow) -> None:
        now = self._schedule.now
        if flow.advance(now) >= flow.size and flow.source.index in self._debt:
            flow.progress -= min(float(self._debt.pop(flow.source.index)), flow.progress)
        if flow.progress >= flow.size and self._artifacts.holds(flow.source, flow.blob):
            self._finish(flow)
            return
        before = flow.rate
        flow.rate, until = self._rate(flow, now)
        flow.generation += 1
        if flow.rate > 0.0:
            delay = int((until - flow.progress) * SECOND / flow.rate) + 1
            self._schedule.after(delay, self._due, flow, flow.generation)
        else:
            if before > 0.0:
                flow.still_since = now
            self._schedule.at(flow.still_since + STALL_NS, self._stalled, flow, flow.generation)
        if flow.rate != before:
            for fed in self._outgoing.get(flow.target.index, ()):
                if fed.blob == flow.blob:
                    self._dirty[fed] = None

    def _rate(self, flow: Flow, now: int) -> tuple[float, float]:
        """The present rate of ``flow``, and the progress at which it must be asked for again."""
        source, target = flow.source, flow.target
        stopped = source.core is None or State.FROZEN in (source.state, target.state)
        if stopped or not self._reachable(flow):
            return 0.0, 0.0
        config = self._network.config
        coming = sum(1 for other in (target.receiving or {}).values() if other.begun)
        share = min(config.up_rate / len(self._outgoing[source.index]), config.down_rate / coming)
        if self._artifacts.holds(source, flow.blob):
            return share, flow.size
        feed = (source.receiving or {}).get(flow.blob)
        if feed is None or not feed.begun:
            there = feed.progress if feed is not None else self._kept.get((source.index, flow.blob), 0.0)
            return (share, there) if there - flow.progress >= 1.0 else (0.0, 0.0)
        if self._fed_by(feed, flow):
            return 0.0, 0.0
        ahead = feed.advance(now) - flow.progress
        if flow.progress >= flow.size:
            return 0.0, 0.0  # the feed paid for messages and is behind; its end is what this one waits for
        if ahead < 1.0:
            return min(share, feed.rate), flow.size
        if share <= feed.rate:
            return share, flow.size
        return share, min(float(flow.size), flow.progress + ahead * share / (share - feed.rate))

    def _fed_by(self, flow: Flow, ancestor: Flow) -> bool:
        """``flow`` lives, directly or not, on what ``ancestor`` brings: two that fetch from each other get nothing."""
        seen = 0
        feed: Flow | None = flow
        while feed is not None and seen < len(self._hosts):
            if feed is ancestor:
                return True
            seen += 1
            feed = (feed.source.receiving or {}).get(feed.blob)
        return False

    def _due(self, flow: Flow, generation: int) -> None:
        if flow.generation == generation:
            self._dirty[flow] = None
            self._settle()

    def _stalled(self, flow: Flow, generation: int) -> None:
        if flow.generation == generation and flow.rate == 0.0:
            self._give_up(flow, "stalled")
