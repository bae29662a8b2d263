"""The discrete-event driver of node cores: the same machines as in the daemon, under virtual time.

The engine pops the next call from the schedule, hands the event that it means to one core, and executes the effects
that come back in order.  It keeps to the driver's contract (DESIGN section 3) and adds nothing: whatever a core can see
here it can see in the daemon.  Everything drawn is drawn from the one seed, and every event goes into a running hash
over (time, node, kind of event, kinds of effects): two runs with one digest did the same thing at the same moments.

Hosts do not share a clock: each sees the engine's time plus its own constant, as each real machine counts from its
own boot.  A core that compares another node's times with its own is found out at once.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from protocol import effects as fx
from protocol import events as ev
from protocol.errors import Code
from protocol.ids import NodeId
from protocol.messages import Contact, Message, Routed

from .artifacts import Artifacts
from .clock import Call, Schedule
from .compute import ComputePort
from .disk import DiskConfig, Disks
from .flows import Flows
from .host import Factory, Host, State
from .links import Links
from .network import Network

Hook = Callable[[int, Host, ev.Event, list[fx.Effect]], None]
"""Called with (now, node, event, effects) after the effects were executed."""

JobHook = Callable[[int, Host, Any, int], None]
"""Called with (now, node, task, how long it will take in ns) when a computation starts."""

Tap = Callable[[int, Host, Any], None]
"""Called with (now, node, ``Send``, ``Emit`` or ``Penalize`` effect) before it is executed."""

BACKLOG_LIMIT = 65536
"""Events that wait for a frozen process; its sockets hold no more."""

_EVENT_CODE: dict[type, int] = {
    ev.TimerFired: 1,
    ev.Command: 2,
    ev.PeerUp: 3,
    ev.PeerDown: 4,
    ev.SendFailed: 5,
    ev.LinkSample: 6,
    ev.Stored: 7,
    ev.ComputeDone: 8,
    ev.TransferDone: 9,
    ev.TransferFailed: 10,
}
_DIRECT, _ROUTED = 0x100, 0x200
"""Added to the kind of a message, received or sent."""
_TRACE_CHUNK = 1 << 14
_SWEEPS = 32
"""Parts into which the hosts are divided when idle links are looked for."""


class Engine:
    """Hosts, what connects them, and the loop."""

    def __init__(
        self,
        seed: int,
        network: Network,
        factory: Factory,
        compute: ComputePort,
        *,
        artifacts: Artifacts | None = None,
        disk: DiskConfig | None = None,
        check_wire: bool = False,
        step_limit: int = 1 << 62,
    ) -> None:
        """``check_wire`` sends every message through the codec and asserts that it comes out as it went in."""
        self.seed = seed
        self.schedule = Schedule(step_limit)
        self.network = network
        self.artifacts = artifacts if artifacts is not None else Artifacts()
        self.hosts: list[Host] = []
        self.by_id: dict[NodeId, Host] = {}
        self.events = 0
        self.penalties: Counter[Code] = Counter()
        self.on_job: list[JobHook] = []
        self.on_event: list[Hook] = []
        self.taps: dict[type, list[Tap]] = {}
        """Class of a message sent or of a notice emitted, or ``Penalize`` → who wants to see it."""
        self.unwatched: dict[NodeId, None] = {}
        """Nodes whose messages nobody is shown: they do not keep to the protocol."""
        self.flows = Flows(self.schedule, network, self.by_id, self.artifacts, self.deliver)
        beside = self.flows.beside if network.config.shared else None
        self.links = Links(self.schedule, network, self.by_id, self.deliver, beside, check_wire=check_wire)
        self.disks = Disks(self.schedule, disk or DiskConfig(), seed, self.deliver)
        self._factory = factory
        self._compute = compute
        self._jobs: dict[tuple[int, int], int] = {}
        self._serial = 0
        self._trace: list[int] = []
        self._hasher = hashlib.blake2b(digest_size=16)
        self._execute = self._handlers()
        self._fires = self._timer
        """Bound once: a new bound method for each timer would cost time and memory."""
        if network.config.idle_close_ns:
            self.schedule.after(network.config.idle_close_ns, self._sweep, 0)

    @property
    def now(self) -> int:
        """Virtual time, ns."""
        return self.schedule.now

    @property
    def digest(self) -> str:
        """Hash over everything that happened so far."""
        hasher = self._hasher.copy()
        hasher.update(array("Q", self._trace))
        return hasher.hexdigest()

    def tap(self, kind: type, tap: Tap) -> None:
        """Show ``tap`` every effect that sends a message of type ``kind`` directly, or emits such a notice; or, for
        ``Penalize``, every penalty."""
        self.taps.setdefault(kind, []).append(tap)

    # ---- hosts ----

    def add(self, contact: Contact, clock_offset: int = 0) -> Host:
        """A machine whose process does not run yet."""
        host = Host(len(self.hosts), contact, clock_offset)
        self.hosts.append(host)
        self.by_id[contact.id] = host
        return host

    def start(self, host: Host, *requests: Any) -> None:
        """Start the process, from what its disk holds, and give it ``requests`` as its first commands."""
        assert host.core is None, f"{host} already runs"
        if host.boot:
            incarnation = host.contact.incarnation + 1
            host.contact = Contact(host.contact.id, host.contact.addresses, incarnation)
            self.artifacts.restarted(host)
        host.boot += 1
        was_off, host.state = host.state is State.OFF, State.RUNNING
        host.core = self._factory(host)
        for request in requests:
            self.command(host, request)
        if was_off:
            self.links.recheck()
        self.flows.recheck()

    def command(self, host: Host, request: Any) -> None:
        """Have the process told ``request``, now."""
        self.schedule.after(0, self._deliver_if, host, host.boot, ev.Command(request))

    def crash(self, host: Host, *, power: bool = False, keep_disk: bool = True) -> None:
        """Kill the process, or with ``power`` the machine; without its disk a host never comes back."""
        if host.core is None:
            return
        host.core = None
        host.boot += 1
        host.state = State.OFF if power else State.CRASHED
        host.timers = {}
        host.backlog = None
        self.disks.crashed(host)
        if power:
            self.links.machine_died(host)
        else:
            self.links.process_died(host)
        self.flows.process_died(host, silent=power)
        if not keep_disk:
            host.disk = None
            host.artifacts = None
            self.flows.disk_lost(host)

    def freeze(self, host: Host) -> None:
        """Stop the process where it is; its links stay up."""
        if host.state is State.RUNNING:
            host.state = State.FROZEN
            host.backlog = deque()
            self.flows.recheck()

    def thaw(self, host: Host) -> None:
        """Let the process go on: all that waited happens to it now, in order."""
        if host.state is not State.FROZEN:
            return
        backlog, host.backlog = host.backlog or deque(), None
        host.state = State.RUNNING
        self.flows.recheck()
        for call, args in backlog:
            self.schedule.after(0, call, *args)

    def heal(self) -> None:
        """Tell links and flows that who can reach whom has changed; call it after adding or removing cuts."""
        self.links.recheck()
        self.flows.recheck()

    def _sweep(self, turn: int) -> None:
        """A share of the hosts at a time: a timer per link would cost more than all else that a link does."""
        patience = self.network.config.idle_close_ns
        self.links.close_idle(self.hosts[turn::_SWEEPS], self.now - patience)
        self.schedule.after(patience // (2 * _SWEEPS), self._sweep, (turn + 1) % _SWEEPS)

    # ---- the loop ----

    def deliver(self, host: Host, event: ev.Event) -> None:
        """Let ``event`` happen to ``host`` and execute what its core answers."""
        if host.backlog is not None:
            self._queue(host, self._deliver_if, host, host.boot, event)
            return
        core = host.core
        assert core is not None
        now = self.schedule.now
        effects = core.handle(event, now + host.clock_offset)
        self.events += 1
        trace = self._trace
        trace.append(now)
        trace.append(host.index << 32 | len(effects) << 12 | (_EVENT_CODE.get(event.__class__) or _code(event)))
        execute = self._execute
        for effect in effects:
            code, call = execute[effect.__class__]
            trace.append(code)
            call(host, effect)
        if len(trace) > _TRACE_CHUNK:
            self._hasher.update(array("Q", trace))
            trace.clear()
        for hook in self.on_event:
            hook(now, host, event, effects)

    def _queue(self, host: Host, call: Call, *args: Any) -> None:
        assert host.backlog is not None
        if len(host.backlog) < BACKLOG_LIMIT:
            host.backlog.append((call, args))

    def _deliver_if(self, host: Host, boot: int, event: ev.Event) -> None:
        if host.boot == boot and host.core is not None:
            self.deliver(host, event)

    def _send(self, host: Host, effect: fx.Send) -> None:
        message = effect.message
        self._trace.append(_kind(message))
        taps = self.taps.get(message.__class__)
        if taps is not None and host.id not in self.unwatched:
            for tap in taps:
                tap(self.schedule.now, host, effect)
        self.links.send(host, effect.peer, message)

    # ---- effects ----

    def _handlers(self) -> dict[type, tuple[int, Callable[[Host, Any], None]]]:
        """Class of an effect → its code in the trace, and who executes it."""
        calls: dict[type, Callable[[Host, Any], None]] = {
            fx.Send: self._send,
            fx.SetTimer: self._set_timer,
            fx.CancelTimer: self._cancel_timer,
            fx.Connect: lambda host, effect: self.links.connect(host, effect.peer),
            fx.Disconnect: lambda host, effect: self.links.disconnect(host, effect.peer, effect.why),
            fx.Store: lambda host, effect: self.disks.store(host, effect.key, effect.value),
            fx.Compute: self._start_job,
            fx.CancelCompute: self._cancel_job,
            fx.StartTransfer: lambda host, effect: self.flows.start(host, effect.peer, effect.blob, effect.size),
            fx.CancelTransfer: lambda host, effect: self.flows.cancel(host, effect.blob),
            fx.Pin: lambda host, effect: self.artifacts.pin(host, effect.blob, effect.keep),
            fx.Emit: self._emit,
            fx.Penalize: self._penalize,
        }
        return {effect: (code, call) for code, (effect, call) in enumerate(calls.items(), 1)}

    def _set_timer(self, host: Host, effect: fx.SetTimer) -> None:
        due = effect.at - host.clock_offset
        armed = host.timers.get(effect.timer)
        if armed is not None and armed[1] <= due:
            # The entry in the heap comes up early, finds the new time and goes back: a deadline that is pushed
            # on with every message costs one entry, not one per message.
            host.timers[effect.timer] = (due, armed[1], armed[2])
            return
        self._arm(host, effect.timer, due)

    def _arm(self, host: Host, timer: ev.Timer, due: int) -> None:
        self._serial = serial = self._serial + 1
        host.timers[timer] = (due, due, serial)
        self.schedule.at(due, self._fires, host, timer, serial)

    def _cancel_timer(self, host: Host, effect: fx.CancelTimer) -> None:
        armed = host.timers.get(effect.timer)
        if armed is not None:
            host.timers[effect.timer] = (None, armed[1], armed[2])

    def _timer(self, host: Host, timer: ev.Timer, serial: int) -> None:
        armed = host.timers.get(timer)
        if armed is None or armed[2] != serial:
            return
        if host.backlog is not None:
            self._queue(host, self._timer, host, timer, serial)
            return
        due = armed[0]
        if due is not None and due > self.schedule.now:
            self._arm(host, timer, due)
            return
        del host.timers[timer]
        if due is not None:
            self.deliver(host, ev.TimerFired(timer, due + host.clock_offset))

    def _start_job(self, host: Host, effect: fx.Compute) -> None:
        outcome = self._compute.run(host, effect.task)
        self._serial = serial = self._serial + 1
        self._jobs[host.index, effect.job] = serial
        took = int(outcome.took_ns * host.compute_scale)
        done = ev.ComputeDone(effect.job, outcome.result, outcome.error)
        for hook in self.on_job:
            hook(self.schedule.now, host, effect.task, took)
        self.schedule.after(took, self._job_done, host, host.boot, serial, done)

    def _cancel_job(self, host: Host, effect: fx.CancelCompute) -> None:
        self._jobs.pop((host.index, effect.job), None)

    def _job_done(self, host: Host, boot: int, serial: int, done: ev.ComputeDone) -> None:
        if self._jobs.get((host.index, done.job)) == serial:
            del self._jobs[host.index, done.job]
            self._deliver_if(host, boot, done)

    def _emit(self, host: Host, effect: fx.Emit) -> None:
        for tap in self.taps.get(effect.notice.__class__, ()):
            tap(self.schedule.now, host, effect)

    def _penalize(self, host: Host, effect: fx.Penalize) -> None:
        self.penalties[effect.code] += 1
        for tap in self.taps.get(fx.Penalize, ()):
            tap(self.schedule.now, host, effect)


def _code(event: ev.Event) -> int:
    assert isinstance(event, ev.Received), event
    return _kind(event.message)


def _kind(message: Message | Routed) -> int:
    return _ROUTED | message.message.KIND if isinstance(message, Routed) else _DIRECT | message.KIND
