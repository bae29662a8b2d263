"""The asyncio driver: one core, its links, its disk, its clock and its computations.

*One step at a time.* Events from everywhere go into one inbox. The drain takes them in order, lets the core handle
each, and executes the effects in order; what effects cause at once (a transfer of what is already here) goes to the
end of the inbox, so a step never begins inside another. Timers that are due are taken after the inbox, straight from
the queue, so a timer that an event has just cancelled does not fire.

*Time* is CLOCK_BOOTTIME in nanoseconds: it does not jump when the wall clock is set, and it goes on while the machine
sleeps, so that deadlines that passed in the meantime are overdue at the first step after waking.

*Failures.* A step that raises is a bug of ours: the supervisor logs it with its traceback and counts it, ``status``
shows it, and the node goes on with the next event. What peers do wrong and what disks do wrong never gets there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fl.notices import Leave, SetClock, Start
from protocol.effects import (
    CancelCompute,
    CancelTimer,
    CancelTransfer,
    Compute,
    Connect,
    Disconnect,
    Effect,
    Emit,
    Penalize,
    Pin,
    Send,
    SetTimer,
    StartTransfer,
    Store,
)
from protocol.errors import UsageError
from protocol.events import Command, Event, TimerFired
from protocol.ids import BlobId, NodeId, short
from protocol.messages import Contact

from . import descriptors
from .artifacts import ArtifactStore
from .commits import Commits, Durable
from .compute import TaskRunner, Workers
from .links.addresses import advertised
from .links.channels import Current
from .links.manager import LinkConfig, LinkManager
from .links.transfers import TransferConfig, Transfers
from .subscriptions import Hub, Subscription
from .supervisor import Supervisor
from .timers import Timers

log = logging.getLogger("mycelia.node")

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_TURN = 256
"""Steps after which the loop gets its turn to read and write."""
_CLOCK_PERIOD = 10_000_000_000
_CLOCK_GRAIN = 1_000_000_000
"""The wall clock is read every ten seconds; a jump of more than one second is told to the core.  In ns."""
_LATENESS = 512
"""Timers whose lateness is remembered for the metrics."""


class Core(Protocol):
    """What the driver drives: ``node.core.NodeCore``, or a toy in tests."""

    def handle(self, event: Event, now: int) -> Sequence[Effect]: ...

    def contact(self, peer: NodeId) -> Contact | None: ...


MakeCore = Callable[[Contact, Mapping[str, bytes], int], Core]
"""(me, restored keys, wall offset in ns) → the core.  Called once the listeners are bound and ``me`` is known."""


class DurableState(Durable, Protocol):
    """``node.kvstore.KVStore``."""

    def load(self) -> Mapping[str, bytes]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """What a daemon is told once; the operator's file is ``node.config``."""

    listen: tuple[str, ...] = ()
    """Addresses ``host:port`` to listen on.  Empty: the node only dials out and is a leaf member."""
    advertise: tuple[str, ...] = ()
    """Addresses that peers are told to dial, at most 8.  Default: those bound."""
    seeds: tuple[Contact, ...] = ()
    """Who to enter the ring through; without any, be the first."""
    incarnation: int = 0
    """Grows with each start."""
    patience: float = 2.0
    """Seconds for which a stopping daemon waits until its goodbyes are sent and its state is durable."""
    links: LinkConfig = field(default_factory=LinkConfig)
    transfers: TransferConfig = field(default_factory=TransferConfig)


def now() -> int:
    """The driver's clock, ns."""
    return time.clock_gettime_ns(_CLOCK)


class NodeDaemon:
    """See the module.  Make it, ``start`` it and ``stop`` it on one loop."""

    def __init__(
        self,
        me: NodeId,
        config: DaemonConfig,
        *,
        credentials: Current,
        make_core: MakeCore,
        state: DurableState,
        artifacts: ArtifactStore,
        workers: Workers | None = None,
    ) -> None:
        """``credentials`` is asked at each handshake (``Membership.credentials``).  ``state`` and ``artifacts`` become
        the daemon's: it opens and closes them.  Without ``workers`` the node runs no user code."""
        self.me = Contact(me, (), config.incarnation)
        self.supervisor = Supervisor()
        self.artifacts = artifacts
        self.links = LinkManager(me, config.links, credentials, self.supervisor, post=self.post, lookup=self._contact)
        self.transfers = Transfers(config.transfers, artifacts, self.links, self.supervisor, self.post)
        self.tasks = TaskRunner(artifacts, workers, self.supervisor, self.post)
        self._config = config
        self._make_core = make_core
        self._state = state
        self._commits = Commits(state, artifacts.persist_named, self.post, self.supervisor)
        self._hub = Hub()
        self._core: Core | None = None
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[Event] = deque()
        self._draining = False
        self._idle = asyncio.Event()
        self._timers = Timers()
        self._alarm: asyncio.TimerHandle | None = None
        self._steps = 0
        self._clock_read = 0
        self._wall_offset = 0
        self._lateness: deque[int] = deque(maxlen=_LATENESS)
        self._execute: dict[type[Effect], Callable[[Any], None]] = self._executors()

    # ---- life -------------------------------------------------------------------------------------------------------

    @property
    def core(self) -> Core:
        """The machine, to look at.  Raises UsageError before ``start``."""
        if self._core is None:
            raise UsageError("the daemon is not running")
        return self._core

    async def start(self) -> None:
        """Open the state, listen, and enter the ring.  Raises ConfigError, StorageError; then everything is closed."""
        try:
            descriptors.raise_limit()
            restored = await asyncio.to_thread(self._state.load)
            await asyncio.to_thread(self.artifacts.open)
            bound = await self.links.listen(self._config.listen, self.transfers.handlers())
            addresses = self._config.advertise if bound else ()
            self.me = Contact(self.me.id, (addresses or advertised(bound))[:8], self.me.incarnation)
            self._clock_read = now()
            self._wall_offset = time.time_ns() - self._clock_read
            self._core = self._make_core(self.me, restored, self._wall_offset)
        except BaseException:
            await self._close()
            raise
        log.info("node %s listens on %s", short(self.me.id), ", ".join(bound) or "nothing: it only dials out")
        # Before whatever peers have sent since the listeners opened.
        self._inbox.appendleft(Command(Start(self._config.seeds)))
        self._wake()

    async def stop(self) -> None:
        """Leave politely, as far as that goes within the configured patience, and close everything.  Idempotent."""
        if self._core is not None:
            self.command(Leave())
            try:
                async with asyncio.timeout(self._config.patience):
                    await self._settled()
                    await self._commits.flushed()
            except TimeoutError:
                log.warning("stopping although not everything was durable: %s", self._commits.failure or "disk is slow")
        await self._close()

    async def _close(self) -> None:
        self._core = None
        self._inbox.clear()
        if self._alarm is not None:
            self._alarm.cancel()
        self.tasks.close()
        await self.transfers.close()
        await self.links.close(self._config.patience)
        await self.supervisor.close()
        self._hub.close()
        await self._state.close()
        self.artifacts.close()

    # ---- for the programs above -------------------------------------------------------------------------------------

    def command(self, request: Any) -> None:
        """Ask the core for something: a request of ``fl.notices``."""
        self.post(Command(request))

    def subscribe(self, limit: int = 1024) -> Subscription:
        """Every notice from now on; ``Lost(count)`` when more than ``limit`` of them waited."""
        return self._hub.subscribe(limit)

    async def fetch(self, peer: NodeId, blob: BlobId, size: int) -> None:
        """Bring an artifact of ``size`` bytes here from ``peer``.  Raises TransportError."""
        await self.transfers.bring(peer, blob, size)

    def revoke(self, peer: NodeId) -> None:
        """``peer`` is no longer a member: cut it off and keep it out."""
        self.links.revoke(peer)
        self.transfers.drop(peer)

    def metrics(self) -> dict[str, int | float]:
        """Counters since the start, and gauges; names are stable."""
        late = sorted(self._lateness)
        values: dict[str, int | float] = {
            "steps": self._steps,
            "timers": len(self._timers),
            "loop_lag_p99_ms": late[len(late) * 99 // 100] / 1e6 if late else 0.0,
            "anonymous_mb": _anonymous() / 1e6,
            "links": len(self.links.peers()),
            "commits": self._commits.count,
            "disk_failing": int(bool(self._commits.failure)),
            "computing": self.tasks.running,
        }
        values |= {f"links_{name}": count for name, count in self.links.counters.items()}
        values |= self.links.strangers()
        values |= {f"transfers_{name}": count for name, count in self.transfers.counters.items()}
        values |= {f"tasks_{name}": count for name, count in self.tasks.counts.items()}
        values |= {f"penalties_{name.lower()}": count for name, count in self.links.penalties.counts.items()}
        values |= {f"failures_{what.replace(' ', '_')}": count for what, count in self.supervisor.failures.items()}
        return values | self.artifacts.metrics()

    # ---- steps ------------------------------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Hand ``event`` to the core, after those that already wait."""
        self._inbox.append(event)
        self._wake()

    def _wake(self) -> None:
        if not self._draining:
            self._draining = True
            self._idle.clear()
            self._loop.call_soon(self._drain)

    def _follow_clock(self) -> None:
        """The machine's wall clock may be set at any time, by hand or by the network."""
        if now() - self._clock_read < _CLOCK_PERIOD:
            return
        self._clock_read = now()
        offset = time.time_ns() - self._clock_read
        if abs(offset - self._wall_offset) > _CLOCK_GRAIN:
            self._wall_offset = offset
            self._inbox.append(Command(SetClock(offset)))

    def _drain(self) -> None:
        if self._core is None:
            self._rest()
            return
        self._follow_clock()
        for _ in range(_TURN):
            if self._inbox:
                self._step(self._inbox.popleft())
            elif not self._fire():
                self._rest()
                return
        # Too much for one turn: timers must not starve behind an inbox that never empties.
        for _ in range(_TURN):
            if not self._fire():
                break
        self._loop.call_soon(self._drain)

    def _rest(self) -> None:
        self._draining = False
        self._idle.set()
        self._arm()

    def _fire(self) -> bool:
        """Hand the next due timer to the core; False when none is due."""
        fired = self._timers.pop(now())
        if fired is None:
            return False
        self._lateness.append(now() - fired[1])
        self._step(TimerFired(*fired))
        return True

    def _step(self, event: Event) -> None:
        core = self._core
        if core is None:
            return
        self._steps += 1
        effects: Sequence[Effect] = ()
        with self.supervisor.guard("step"):
            effects = core.handle(event, now())
        for effect in effects:
            with self.supervisor.guard("effect"):
                self._execute[type(effect)](effect)

    async def _settled(self) -> None:
        """Wait until no event waits."""
        while self._draining:
            await self._idle.wait()

    def _arm(self) -> None:
        # Anew after every drain: the loop's clock stops while the machine sleeps, ours does not, so an alarm that was
        # set before would ring late.
        due = self._timers.next_due()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if due is not None and self._core is not None:
            self._alarm = self._loop.call_later(max(0, due - now()) / 1e9, self._wake)

    # ---- effects ----------------------------------------------------------------------------------------------------

    def _executors(self) -> dict[type[Effect], Callable[[Any], None]]:
        return {
            Send: lambda effect: self.links.send(effect.peer, effect.message),
            SetTimer: lambda effect: self._timers.set(effect.timer, effect.at),
            CancelTimer: lambda effect: self._timers.cancel(effect.timer),
            Connect: lambda effect: self.links.connect(effect.peer),
            Disconnect: lambda effect: self.links.disconnect(effect.peer, effect.why),
            Store: lambda effect: self._commits.store(effect.key, effect.value),
            Compute: lambda effect: self.tasks.start(effect.job, effect.task),
            CancelCompute: lambda effect: self.tasks.cancel(effect.job),
            StartTransfer: lambda effect: self.transfers.start(effect.peer, effect.blob, effect.size),
            CancelTransfer: lambda effect: self.transfers.cancel(effect.blob),
            Pin: lambda effect: self.artifacts.pin(effect.blob, effect.keep),
            Emit: lambda effect: self._hub.publish(effect.notice),
            Penalize: self._penalize,
        }

    def _penalize(self, effect: Penalize) -> None:
        log.info("%s: %s %s", short(effect.peer), effect.code.name.lower(), effect.detail)
        self.links.penalise(effect.peer, effect.code)

    def _contact(self, peer: NodeId) -> Contact | None:
        return self._core.contact(peer) if self._core is not None else None


def _anonymous() -> int:
    """Anonymous memory of this process in bytes; 0 where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
