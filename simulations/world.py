"""A scenario brought to life: real node cores on an engine, the applications that are submitted to them, their faults.

The world plays every part that is outside the protocol: the operator who starts and replaces machines and binds data,
the developer who submits an application from some node, and fate.  It listens to who says that it is root, so that fate
can be aimed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fl.notices import Bind, Start, SteppedDown, TookOver, Trust
from node.core import CoreConfig, NodeCore
from protocol import ids
from protocol.ids import AppId, NodeId
from protocol.messages import Contact
from protocol.streams import Stream

from .artifacts import Artifacts
from .clock import SECOND
from .compute import ComputeConfig, ComputePort, IntegerCompute
from .developer import EPOCH_NS, Developer, Submission
from .disk import DiskConfig
from .engine import Engine
from .faults import MENDS, Fault, FaultPlan
from .host import Disk, Host, State
from .liars import Liar
from .network import Barrier, Network, NetworkConfig, Noise, Pairs
from .scenario import Scenario, ns
from .signing import KeyedHashSigner, KeyedHashVerifier, endorsed
from .weather import Weather

CLOCK_SKEW_NS = 2 * SECOND
"""Wall clocks differ by up to this much either way."""
UPTIME_NS = 30 * 24 * 3600 * SECOND
"""Machines have been up for as long as this when the run starts: their monotonic clocks agree on nothing."""
SEED_DRAWS = 64
"""Hosts that are looked at for the seeds of one node; the first node of all finds none, and is the first."""
MEGABIT = 125_000.0
DAY_NS = 24 * 3600 * SECOND
CLOCK_ERRORS_NS = (40 * DAY_NS, -380 * DAY_NS, -3 * 3600 * SECOND)
"""A descriptor lives for 30 days, and a record that lives for more than 400 is refused: by the first clock descriptors
are over, by the second they live too long."""


class World:
    """Everything there is in one run."""

    def __init__(
        self, scenario: Scenario, seed: int, *, compute: ComputePort | None = None, check_wire: bool = False,
        core_config: CoreConfig | None = None,
    ) -> None:  # fmt: skip
        self.scenario, self.seed = scenario, seed
        self.core_config = core_config or CoreConfig()
        self.artifacts = Artifacts()
        self.integers = IntegerCompute(_compute_config(scenario), self.artifacts, seed)
        self.engine = Engine(
            seed,
            Network(_network_config(scenario), seed),
            self._core,
            compute or self.integers,
            artifacts=self.artifacts,
            disk=DiskConfig(int(scenario.disks.write_ms * 1e6), int(scenario.disks.spread_ms * 1e6)),
            check_wire=check_wire,
            step_limit=scenario.limits.max_events * 4,
        )
        self.members: list[Host] = []
        """The hosts of the scenario, by index; a replacement takes the place of the one that it replaces."""
        self.faults: Counter[str] = Counter()
        """How often what went wrong."""
        self.plan = FaultPlan(scenario.faults, scenario.nodes.count, seed, scenario.applications.count)
        self._signers: list[KeyedHashSigner] = []
        self._verifier = KeyedHashVerifier()
        self._stream = Stream(seed, "world")
        self.developer = Developer(
            scenario, seed, self.engine, self.artifacts, self.integers, self._listeners, self._stream, self._accepted
        )
        self.submissions, self.by_app = self.developer.submissions, self.developer.by_app
        self._names = self.developer.bindings()
        self._clock_errors: dict[int, int] = {}
        """Host → by how many ns its wall clock is ahead."""
        self.liars: dict[NodeId, None] = {}
        """Nodes that do not keep to the protocol."""
        self.deaf: dict[NodeId, None] = {}
        """Nodes whose operators named no owner: applications concern them only as a part of the ring."""
        self.weather = Weather(self.engine.network)
        self._lost: dict[int, None] = {}
        """Hosts whose disk is gone: an identity without its memory must never speak again."""
        self._entered = 0
        """Members up to this index have been started at least once."""
        self.engine.tap(TookOver, self._took_over)
        self.engine.tap(SteppedDown, self._stepped_down)

    # ---- setting up ----

    def populate(self) -> None:
        """Schedule the arrival of all nodes and of all applications.  Returns at once; nothing has run yet."""
        nodes = self.scenario.nodes
        for index in range(nodes.count):
            host = self._new_host(index, dialable=index < self.scenario.dialable)
            self.members.append(host)
            self.engine.schedule.at(ns(nodes.join_s * index / nodes.count), self._enter, host, index)
        self._spoil_clocks()
        self._corrupt()
        for submission in self.submissions if self.scenario.faults.deaf_beside_id else ():
            self.deaf[self.beside(self.developer.first_id(submission), 1)[0].id] = None
        self.faults["deaf"] += len(self.deaf)
        if self.scenario.faults.cut_beside_id:
            for submission in self.submissions:
                self.cut(self._pair_beside(submission))
        self.developer.begin()

    def beside(self, app: AppId, count: int) -> list[Host]:
        """The members nearest to an id among those that have an address."""
        dialable = [host for host in self.members if host.contact.dialable]
        return sorted(dialable, key=lambda host: ids.closeness(app, host.id))[:count]

    def _pair_beside(self, submission: Submission) -> Pairs:
        first, second = sorted(host.index for host in self.beside(self.developer.first_id(submission), 2))
        self.faults["pair-cut"] += 1
        return Pairs(frozenset([(first, second)]))

    def _spoil_clocks(self) -> None:
        faults, stream = self.scenario.faults, Stream(self.seed, "wrong clocks")
        for index in stream.sample(range(self.scenario.nodes.count), faults.wrong_clocks):
            self._clock_errors[index] = stream.choice(CLOCK_ERRORS_NS)
        if faults.clocks_beside_id:
            for submission in self.submissions:
                pair = self.beside(self.developer.first_id(submission), 2)
                stream.shuffle(pair)
                self._clock_errors.update(
                    {host.index: wrong for host, wrong in zip(pair, CLOCK_ERRORS_NS, strict=False)}
                )
        self.faults["wrong-clock"] += len(self._clock_errors)

    def _corrupt(self) -> None:
        """Some nodes lie.  What they send is no evidence of what the protocol does.  They are workers: whoever has no
        part in any application has nothing to lie about."""
        stream, members = Stream(self.seed, "liars"), self.members
        workers = [host for index, host in enumerate(members) if index in self._names]
        for host in stream.sample(workers, round(self.scenario.faults.liars * len(members))):
            self.liars[host.id] = self.engine.unwatched[host.id] = None
        self.faults["liar"] += len(self.liars)

    def lies(self) -> Counter[str]:
        """What liars told in their present lives, and how often."""
        cores = (self.engine.by_id[node].core for node in self.liars)
        told = [core.told for core in cores if isinstance(core, Liar)]
        return Counter({lie: sum(sum(one.get(lie, {}).values()) for one in told) for lies in told for lie in lies})

    def _listeners(self) -> list[Host]:
        """Where an application can be submitted: the others say at once that they do not know its owner."""
        return [host for host in self.members if host.id not in self.deaf] if self.deaf else self.members

    def takes_part(self, host: Host) -> bool:
        """Does ``host`` keep to the protocol, and listen to the owner?  A wrong clock is no excuse."""
        return host.id not in self.liars and host.id not in self.deaf

    def _new_host(self, member: int, *, dialable: bool) -> Host:
        number = len(self.engine.hosts)
        signer = KeyedHashSigner(self.seed, "node", number)
        self._signers.append(signer)
        own = Stream(self.seed, "clock", number)
        contact = Contact(ids.ring_id(0, signer.public_key, signer.nonce), (f"sim:{number}",) if dialable else ())
        return self.engine.add(contact, own.below(UPTIME_NS))

    def _core(self, host: Host) -> NodeCore:
        skew = Stream(self.seed, "skew", host.index).below(2 * CLOCK_SKEW_NS) - CLOCK_SKEW_NS
        core = Liar if host.id in self.liars else NodeCore
        return core(
            host.contact,
            self.core_config,
            signer=self._signers[host.index],
            verifier=self._verifier,
            roll=endorsed(host.contact.id),
            seed=Stream(self.seed, "core", host.index, host.boot).bits() >> 1,
            wall_offset=EPOCH_NS - host.clock_offset + skew + self._clock_errors.get(host.index, 0),
            restored=host.disk.durable if host.disk is not None else {},
            owns=self.developer.owner.public_key.__eq__ if host.id not in self.deaf else None,
        )

    def _enter(self, host: Host, member: int) -> None:
        """Start the process of ``host`` as its operator would: with seeds, bindings and trust."""
        self._entered = max(self._entered, member + 1)
        self.weather.well(host, self.engine.now)
        self.engine.start(
            host,
            Start(self._seeds(host)),
            Trust(frozenset([self.developer.owner.public_key])),
            Bind(self._names.get(member, frozenset())),
        )

    def _seeds(self, host: Host) -> tuple[Contact, ...]:
        """Some who are there already: drawn one by one, since a list of all of them for each would be quadratic.

        After a blackout nobody is, and a node starts from contacts that it remembers.
        """
        found: dict[int, Contact] = {}
        remembered: dict[int, Contact] = {}
        for _ in range(SEED_DRAWS):
            other = self.members[self._stream.below(self._entered)]
            if other is not host and other.contact.dialable:
                (found if other.alive else remembered)[other.index] = other.contact
            if len(found) == self.scenario.nodes.seeds:
                break
        return tuple((found or remembered).values())[: self.scenario.nodes.seeds]

    # ---- roots ----

    def _took_over(self, now: int, host: Host, effect: Any) -> None:
        submission = self.by_app.get(effect.notice.app)
        if submission is not None:
            submission.roots[host.index] = effect.notice.epoch

    def _accepted(self, submission: Submission) -> None:
        """A majority of its voters holds all that it needs: nobody needs its submitter any more."""
        assert submission.spec is not None
        home = self.engine.by_id[submission.spec.home.id]
        if self.scenario.faults.submitter_gone and home.alive:
            self.faults["submitter-gone"] += 1
            self._lost[home.index] = None
            self.engine.schedule.after(0, self._power_off, home)

    def _power_off(self, host: Host) -> None:
        self.crash(host, power=True, keep_disk=True)

    def _stepped_down(self, now: int, host: Host, effect: Any) -> None:
        submission = self.by_app.get(effect.notice.app)
        if submission is not None:
            submission.roots.pop(host.index, None)

    # ---- faults (``faults.Target``) ----

    def begin_faults(self) -> None:
        """Schedule the whole plan, counted from now."""
        start = self.engine.now
        for delay, fault in self.plan.entries:
            self.engine.schedule.at(start + delay, self._carry_out, fault, None)
        for strike, mend, kind, cure in self.plan.pairs:
            self.engine.schedule.at(start + strike, self._strike_root, start + mend, kind, cure)

    def end_faults(self) -> None:
        """Mend whatever the plan left broken."""
        self.noise(None)
        for cut in list(self.engine.network.cuts):
            self.heal(cut)
        for host in self.members:
            self.thaw(host)

    def _carry_out(self, fault: Fault, victim: Host | None) -> None:
        host = self.members[fault.host] if fault.host >= 0 else victim
        if fault.kind not in MENDS:
            self.faults[fault.kind] += 1
        fault.carry_out(self, host)

    def _strike_root(self, mend: int, kind: str, cure: str) -> None:
        victim = self.a_root()
        if victim is not None:
            self._carry_out(Fault(kind), victim)
            self.engine.schedule.at(mend, self._carry_out, Fault(cure), victim)

    def a_root(self) -> Host | None:
        """The running root of the application that has the newest epoch, lowest index first."""
        for submission in self.submissions:
            for index in sorted(submission.roots, key=lambda i: -submission.roots[i]):
                host = self.engine.hosts[index]
                if host.state is State.RUNNING and host in self.members:
                    return host
        return None

    def crash(self, host: Host, *, power: bool, keep_disk: bool) -> None:
        for submission in self.submissions:
            submission.roots.pop(host.index, None)
        if not keep_disk:
            self._lost[host.index] = None
        self.weather.unwell(host)
        self.engine.crash(host, power=power, keep_disk=keep_disk)

    def restart(self, host: Host) -> None:
        if not host.alive and host.index not in self._lost:
            self._enter(host, self.members.index(host))

    def replace(self, host: Host) -> None:
        """A machine with a new key takes over the data and the place of ``host``."""
        if host.alive or host not in self.members:
            return
        member = self.members.index(host)
        self.members[member] = self._new_host(member, dialable=host.contact.dialable)
        self._enter(self.members[member], member)

    def freeze(self, host: Host) -> None:
        if host.state is State.RUNNING:
            self.weather.unwell(host)
            self.engine.freeze(host)

    def thaw(self, host: Host) -> None:
        if host.state is State.FROZEN:
            self.weather.well(host, self.engine.now)
            self.engine.thaw(host)

    def cut(self, cut: Barrier) -> None:
        self.engine.network.cuts.append(cut)
        self.weather.changed(self.engine.now)
        self.engine.heal()

    def heal(self, cut: Barrier) -> None:
        if cut in self.engine.network.cuts:
            self.engine.network.cuts.remove(cut)
            self.weather.changed(self.engine.now)
            self.engine.heal()

    def stop(self, application: int) -> None:
        self.developer.stop(application)

    def noise(self, noise: Noise | None) -> None:
        self.engine.network.set_noise(noise)
        self.weather.changed(self.engine.now)

    def slow(self, host: Host, *, disk: float, compute: float) -> None:
        host.compute_scale = compute
        if disk > 1 or compute > 1:
            self.weather.unwell(host)
        elif host.state is State.RUNNING:
            self.weather.well(host, self.engine.now)
        if host.disk is None:
            host.disk = Disk()
        host.disk.scale = disk

    # ---- views ----

    def running(self) -> list[Host]:
        """Members whose process runs and is not stopped."""
        return [host for host in self.members if host.state is State.RUNNING]

    def core(self, host: Host) -> NodeCore:
        """The core of a host whose process exists."""
        core = host.core
        assert isinstance(core, NodeCore)
        return core

    def alive(self, node: NodeId) -> bool:
        """Does a process of this identity run?"""
        host = self.engine.by_id.get(node)
        return host is not None and host.state is State.RUNNING

    def has_majority(self, voters: Sequence[Contact]) -> bool:
        """Can these voters still decide anything, whatever those among them do who lie?"""
        able = [voter for voter in voters if voter.id not in self.deaf and voter.id not in self.liars]
        return 2 * sum(self.alive(voter.id) for voter in able) > len(voters)


def _network_config(scenario: Scenario) -> NetworkConfig:
    links = scenario.links
    return NetworkConfig(
        sites=links.sites,
        base_ns=int(links.base_ms * 1e6),
        span_ns=int(links.span_ms * 1e6),
        jitter=links.jitter,
        control_rate=links.control_mbit * MEGABIT,
        up_rate=links.up_mbit * MEGABIT,
        down_rate=links.down_mbit * MEGABIT,
        dial_timeout_ns=ns(links.dial_timeout_s),
        link_timeout_ns=ns(links.link_timeout_s),
        idle_close_ns=ns(links.idle_close_s),
        shared=links.shared,
        late_share=links.late_share,
    )


def _compute_config(scenario: Scenario) -> ComputeConfig:
    compute = scenario.compute
    return ComputeConfig(
        train_ns=ns(compute.train_s),
        sigma=compute.sigma,
        straggler_share=compute.straggler_share,
        straggler_factor=compute.straggler_factor,
        merge_rate=compute.merge_mbyte_s * 1e6,
    )
