"""What a run is made of, as read from ``scenarios/*.toml``.

A scenario fixes everything but the seed: sizes, distances, what is trained, what goes wrong and when.  Reading is
strict: an unknown key or a value of the wrong type is a ConfigError that names the file and the key.  The reference in
``docs/reference-scenarios.md`` is generated from the docstrings under the fields.

Time line of a run: nodes enter the ring for ``nodes.join_s``; the applications are submitted over the next
``applications.submit_s``; faults strike in the window that starts ``faults.start_s`` after that (the *safety phase*);
then everything heals, those that are to come back come back, and whatever can still finish must do so within
``limits.liveness_s`` (the *liveness phase*, after TigerBeetle's simulator).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, dataclass_transform

import msgspec

from protocol.errors import ConfigError

from .clock import SECOND

Count = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Duration = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: immutable, strict."""


class Nodes(Section):
    """How many nodes there are and how they arrive."""

    count: Count = 32
    """Full nodes and leaf members together."""
    outbound_share: Share = 0.0
    """Share of nodes without an address of their own: leaf members, which only dial out."""
    join_s: Duration = 10.0
    """Virtual seconds over which the nodes enter the ring, one after the other."""
    seeds: Annotated[int, msgspec.Meta(ge=1, le=8)] = 3
    """Contacts, drawn from those who are there already, that a new node starts from."""


class Links(Section):
    """Distances and capacities of the network."""

    sites: Count = 8
    """Clusters of hosts; hosts of one site are near each other."""
    base_ms: Positive = 0.2
    """One-way latency between neighbours."""
    span_ms: Duration = 60.0
    """One-way latency from one end of the plane to the other, on top of the base."""
    jitter: Duration = 0.1
    """Each message takes up to this share of its link's latency longer."""
    control_mbit: Positive = 100.0
    """Uplink of a host for messages, Mbit/s."""
    up_mbit: Positive = 100.0
    """Uplink of a host for transfers, shared by those under way, Mbit/s."""
    down_mbit: Positive = 100.0
    """Downlink of a host for transfers, shared by those under way, Mbit/s."""
    dial_timeout_s: Positive = 3.0
    """A dial that nobody answers fails after this."""
    link_timeout_s: Positive = 30.0
    """A link on which data stay unacknowledged is broken after this."""
    idle_close_s: Duration = 60.0
    """A link that carried nothing for this long is closed, as no death; 0 keeps all links for ever."""
    late_share: Share = 0.5
    """Of the links that a cut held up, the share that deliver late when it heals; the others are reset."""
    shared: bool = False
    """Messages and transfers share a host's uplink, as fairly as connections do; otherwise each has its own."""


class Disks(Section):
    """Latency of durable writes."""

    write_ms: Duration = 0.3
    """The least that a write takes."""
    spread_ms: Duration = 5.0
    """Up to this much more, drawn per write."""


class Compute(Section):
    """How long work takes."""

    train_s: Positive = 2.0
    """Median duration of one training."""
    sigma: Duration = 0.4
    """Spread of the logarithm of a node's speed; from job to job it varies by half of that again."""
    straggler_share: Share = 0.02
    """Share of nodes that are slower still."""
    straggler_factor: Positive = 8.0
    """By how much."""
    merge_mbyte_s: Positive = 1000.0
    """Rate at which partials are merged and a round is finished, 10^6 bytes/s."""


class Applications(Section):
    """What is trained.  All applications of a scenario are alike but for their names, seeds, submitters and workers."""

    count: Natural = 3
    """Number of applications."""
    submit_s: Duration = 5.0
    """Virtual seconds over which they are submitted."""
    rounds: Count = 5
    """Training rounds of each."""
    workers: Count = 8
    """Nodes that hold data of each application."""
    min_workers: Count = 1
    """A round with fewer contributors is not committed."""
    fan_out: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Children that a member of a tree takes."""
    voters: Annotated[int, msgspec.Meta(ge=1, le=9)] = 5
    """Guardians of each round head."""
    quorum: Share = 0.5
    """Share of the answers from which a node without history starts the grace period."""
    fraction: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Share of the workers that select themselves in a round."""
    evaluate: bool = True
    """Workers measure the model before they train, and once more at the end."""
    model_bytes: Annotated[int, msgspec.Meta(ge=32)] = 64
    """Size of a model and of an update.  Up to 65536 they ride in messages; larger ones are transferred."""
    bundle_bytes: Natural = 0
    """Size of the code, which is transferred before anybody can work; 0: there is none to transfer."""
    patience: Natural = 0
    """Rounds without improvement after which training stops early; 0: it never does."""


class Faults(Section):
    """What goes wrong, how often, and for how long.  Who is hit, and exactly when, is drawn from the seed."""

    start_s: Duration = 5.0
    """Begin of the window, after the last submission."""
    duration_s: Duration = 60.0
    """Length of the window."""
    crash_share: Share = 0.0
    """Share of nodes that crash."""
    power_share: Share = 0.5
    """Of those, the share whose whole machine loses power: silence instead of closed links."""
    return_share: Share = 0.5
    """Of those, the share that come back, with what their disk holds."""
    return_s: Positive = 20.0
    """Mean time until a crashed node comes back."""
    replace_share: Share = 0.0
    """Of the crashed nodes, the share that lose their disk and are replaced by a node with a new key."""
    blackouts: Natural = 0
    """Moments at which every machine loses power at once; each comes back after `return_s` or so."""
    freezes: Natural = 0
    """Processes that are stopped for a while."""
    freeze_s: Positive = 10.0
    """Mean length of a stop."""
    freeze_root: bool = False
    """The first stop hits a node that is root of an application at that moment."""
    crash_root: bool = False
    """The first crash hits a node that is root of an application at that moment."""
    power_root: bool = False
    """The machine of a node that is root of an application at that moment loses power."""
    submitter_gone: bool = False
    """Every submitter's machine is gone for good as soon as its descriptor is accepted."""
    cuts: Natural = 0
    """Partitions: a random group is cut off from the rest, both ways."""
    one_way_cuts: Natural = 0
    """Partitions that let packets through in one direction."""
    cut_s: Positive = 10.0
    """Mean length of a partition; none is shorter than a fifth of this."""
    cut_share: Share = 0.3
    """A partition takes up to this share of the nodes."""
    pair_cuts: Natural = 0
    """Pairs of nodes that cannot talk to each other for a while, though both talk to everybody else."""
    unreachable_share: Share = 0.0
    """Share of all pairs of nodes that cannot talk to each other during the window."""
    cut_beside_id: bool = False
    """The two nodes nearest to an application's id cannot talk to each other from the beginning to the window's end."""
    wrong_clocks: Natural = 0
    """Nodes whose wall clock is days or months wrong, from the beginning to the end."""
    clocks_beside_id: bool = False
    """Of the two nodes nearest to an application's id one is 40 days ahead and the other 380 days behind."""
    deaf_beside_id: bool = False
    """The node nearest to an application's id listens to no owner: it takes no descriptor, from beginning to end."""
    liars: Share = 0.0
    """Share of nodes that lie from the beginning to the end, in all the ways of `simulations/liars.py`."""
    stops: Natural = 0
    """Applications that their owner stops during the window."""
    loss: Share = 0.0
    """Probability that a message is lost, during the window."""
    duplicate: Share = 0.0
    """Probability that a message arrives twice, during the window."""
    reorder: Share = 0.0
    """Probability that a message overtakes or is overtaken, during the window."""
    late_s: Duration = 0.2
    """A second copy, or a message that is overtaken, is late by up to this."""
    slow_disks: Natural = 0
    """Disks that are a hundred times slower during the window."""
    slow_compute: Natural = 0
    """Nodes that compute slower during the window."""
    slow_factor: Positive = 10.0
    """By how much."""


class Limits(Section):
    """How long a run may take, and what it owes at the end."""

    liveness_s: Positive = 120.0
    """Virtual seconds after the last fault within which everything that can finish must have finished."""
    settle_s: Duration = 20.0
    """Virtual seconds that ring and trees are given to settle at the end, before they are checked."""
    min_events: Natural = 0
    """The run goes on, idle if need be, until this many events have been handled."""
    max_events: Count = 50_000_000
    """Events after which the run is given up as endless."""


class Scenario(Section):
    """One scenario.  Every section and every key has a default."""

    name: str = "unnamed"
    """Shown in reports."""
    seed: Natural = 0
    """Used when the command line gives none."""
    nodes: Nodes = Nodes()
    links: Links = Links()
    disks: Disks = Disks()
    compute: Compute = Compute()
    applications: Applications = Applications()
    faults: Faults = Faults()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        workers, dialable = self.applications.workers, self.dialable
        if workers > self.nodes.count:
            raise ConfigError(f"applications.workers is {workers}, but there are {self.nodes.count} nodes")
        if self.applications.min_workers > workers:
            raise ConfigError(f"applications.min_workers is {self.applications.min_workers}, above its workers")
        if self.applications.voters > dialable:
            raise ConfigError(f"applications.voters is {self.applications.voters}, but {dialable} nodes can be dialled")

    @property
    def dialable(self) -> int:
        """Nodes with an address: the first ones of the run."""
        return max(1, self.nodes.count - int(self.nodes.count * self.nodes.outbound_share))


def load(path: Path) -> Scenario:
    """Read a scenario.  Raises ConfigError when the file cannot be read, or says something that is not understood."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "give the path of a scenario file") from None
    try:
        return msgspec.toml.decode(text, type=Scenario)
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}", "docs/reference-scenarios.md lists all keys") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def ns(seconds: float) -> int:
    """Seconds of a scenario in ns of the engine."""
    return int(seconds * SECOND)
