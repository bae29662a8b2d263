"""Every number of the ring, with its unit and its reason."""

from __future__ import annotations

from dataclasses import dataclass, fields

from protocol.errors import ConfigError
from protocol.wire import MAX_HOPS

MS = 1_000_000
SECOND = 1_000 * MS
MINUTE = 60 * SECOND


@dataclass(frozen=True, slots=True)
class RingConfig:
    """Times are integer nanoseconds.  One instance is shared by reference among all simulated nodes."""

    leaf_side: int = 12
    """Leaf set entries on each side, so 24 in all: the ring stays closed unless 12 adjacent ids die at once."""
    join_side: int = 4
    """Nearest neighbours on each side that must know a joiner before it answers for keys (consistent join)."""
    max_hops: int = 32
    """A routed message that travelled this far is dropped; log16 of 10^6 nodes is 5, repair may add some."""
    book_size: int = 64
    """Contacts kept beside those in the tables: origins of routed messages, parents, children, candidates."""

    watch_period: int = 1 * SECOND
    """Silence of a watched peer after which it is pinged.  An exchange a second is what 3 s detection costs."""
    watch_patience: int = 2_500 * MS
    """Silence of a watched peer after which it is dead: the 3 s budget less the grain and a margin for delivery."""
    near_period: int = 10 * SECOND
    """Silence of an immediate ring neighbour after which it is pinged: 30 B/s on each of the two links."""
    near_patience: int = 4 * SECOND
    """Unanswered questioning after which an unwatched peer is dead; nobody waits for it, so it may take longer."""
    dial_patience: int = 6 * SECOND
    """Unanswered questioning of a peer to whom no link was seen yet: a TLS dial on a busy host takes seconds."""
    suspect_after: int = 700 * MS
    """Unanswered questioning after which a peer is routed around."""
    ping_retry: int = 300 * MS
    """Between pings to a silent watched peer, so that no single lost one decides; unwatched ones get four in all."""
    grain: int = 100 * MS
    """Smallest distance of two liveness ticks, and the loop lag up to which this node thinks itself healthy."""
    lag_weight: int = 4
    """Each ns of loop lag excuses this many ns of silence (Lifeguard's local health multiplier)."""
    doze: int = 5 * SECOND
    """Loop lag after which this process must have been asleep: everybody gets a fresh chance and it joins anew."""

    join_retry: int = 1 * SECOND
    """First pause between attempts to join; doubled after each pass over all seeds."""
    join_retry_max: int = 15 * SECOND
    """Longest pause between attempts: a seed that returns is found within this time."""
    cold_start: int = 3 * SECOND
    """With seeds that all are themselves joining, the smallest id goes first after this time: a fabric restarted
    as a whole has no ready node."""
    probe_retry: int = 1 * SECOND
    """Between repetitions of an unanswered leaf probe or replica search."""
    probe_tries: int = 4
    """Leaf probes without an answer after which a candidate is given up."""
    repair_delay: int = 200 * MS
    """Deaths within this time are announced and repaired together."""

    care_period: int = 10 * SECOND
    """Between steps of the slow rotation over the rest of the leaf set: 60 B/s with what others send to us."""
    exchange_period: int = 150 * SECOND
    """Between leaf-set exchanges with a random leaf: 1.3 kB each way, 35 B/s in all."""
    survey_period: int = 300 * SECOND
    """Between measurements of a routing-table candidate; each may cost a TLS handshake of 6 kB."""
    refresh_period: int = 600 * SECOND
    """Between joins for our own id through a random node, which refresh the table and find lost parts of the ring."""

    ghosts: int = 20
    """Departed peers remembered (FreePastry's partition handler keeps 20)."""
    ghost_life: int = 90 * MINUTE
    """How long, after which only the seeds can heal a partition."""
    heal_first: int = 4 * SECOND
    """A departed peer is asked a first time after this pause: a restarted process needs about so long."""
    heal_period: int = 30 * SECOND
    """Between questions to departed peers."""

    record_lifetime: int = 400 * 24 * 3600
    """Seconds: a record that expires later is refused, so that nobody outlives the eviction order."""
    records_per_signer: int = 1024
    """Records of one class that one key may have in the table."""
    signer_bytes: int = 8 << 20
    """Bytes of bodies that one key may have in one class: no owner fills the table alone."""
    record_bytes: int = 16 << 20
    """Bytes of all record bodies of one class: a share of the daemon's 40 MB."""
    relay_records: int = 2 * 8192
    """Records that one peer may bring at once: a whole table, twice.  What is beyond is dropped unread."""
    relay_rate: int = 64
    """Records a second that one peer may bring for long: checking a signature costs 0.1 ms, so under 1 % of a core."""
    sync_period: int = 4 * SECOND
    """Between two anti-entropy exchanges with one peer; doubled while they change nothing."""
    sync_bytes: int = 2 << 20
    """Record bytes pushed in one exchange; the next one continues."""
    rumour_fanout: int = 3
    """Random peers, beside the two ring neighbours, to whom news is pushed: reaches all but e^-5 of the zone."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ConfigError(f"ring.{field.name} must be positive", f"remove ring.{field.name} to get its default")
        if not 1 <= self.join_side <= self.leaf_side <= 24:
            raise ConfigError("ring.join_side must not exceed ring.leaf_side, nor that 24", "keep the defaults")
        if self.max_hops > MAX_HOPS:
            raise ConfigError(f"ring.max_hops must not exceed {MAX_HOPS}", "keep the default 32")
        if self.watch_patience <= self.watch_period + self.suspect_after:
            raise ConfigError(
                "ring.watch_patience leaves no time for an answer", "make it at least 1 s longer than ring.watch_period"
            )

    @classmethod
    def lan(cls) -> RingConfig:
        """Machines of one site, or well-connected ones of several."""
        return cls()

    @classmethod
    def local(cls) -> RingConfig:
        """Many processes on one machine, for demonstrations and tests: joins and heals sooner, costs more traffic."""
        return cls(
            near_period=3 * SECOND,
            care_period=3 * SECOND,
            exchange_period=30 * SECOND,
            survey_period=60 * SECOND,
            refresh_period=60 * SECOND,
            join_retry=500 * MS,
            join_retry_max=3 * SECOND,
            cold_start=2 * SECOND,
            heal_first=2 * SECOND,
            heal_period=5 * SECOND,
            sync_period=2 * SECOND,
        )
