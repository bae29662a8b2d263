"""How records spread: rumours for speed, anti-entropy for certainty (Demers et al., PODC 1987).

News is pushed once by every node that hears it, to a few random peers and to both ring neighbours.  Whoever missed it
finds out by the digest in a ping's answer: the node that asked sends the list of what it holds, gets what it lacks, and
the other side asks back once.  An exchange with one peer happens at most every few seconds, and less and less often
while it changes nothing, so that two tables that cannot become equal (clocks differ, one side refuses a record) do not
talk for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.errors import Code
from protocol.ids import NodeId

from .config import SECOND, RingConfig
from .messages import MAX_RECORD_BODY, Record, RecordDigests, RecordPush
from .records import Kind, RecordTable
from .view import View
from .wallclock import WallClock

_BATCH_BYTES = MAX_RECORD_BODY + 32 * 1024
_BATCH = 256
_RECORD_OVERHEAD = 192
_PARTNERS = 64
_BACK_OFF = 6


class _Partner:
    """Anti-entropy with one peer."""

    __slots__ = ("allowance", "asked", "filled", "fruitless", "served")

    def __init__(self, allowance: int, now: int) -> None:
        self.allowance = allowance
        """Records that this peer may bring now."""
        self.filled = now
        """When ``allowance`` was last raised, ns."""
        self.asked = -1
        """When the last exchange began here, ns; -1: never."""
        self.served = -1
        """When a list of this peer was last answered."""
        self.fruitless = 0
        """Exchanges in a row that changed nothing here."""


class Replication:
    """Keeps this node's records equal to those of its peers."""

    __slots__ = ("_clock", "_partners", "_table", "_view")

    def __init__(self, view: View, table: RecordTable, clock: WallClock) -> None:
        self._view = view
        self._table = table
        self._clock = clock
        self._partners: dict[NodeId, _Partner] = {}

    def wall(self, now: int) -> int:
        """Unix seconds."""
        return self._clock.wall(now)

    def publish(self, record: Record, now: int) -> bool:
        """Take and spread a record of this node; False when it is not news here or may not be said."""
        taken = self._table.put(record, self.wall(now), self._view.upcalls.authorise) is True
        if taken:
            self._spread([record], self._view.me.id)
            self._view.upcalls.record_changed(record, now)
        self._tell_dropped(now)
        return taken

    def show(self, peer: NodeId, subject: bytes) -> None:
        """Push the descriptor of ``subject``, and who guards its head, to ``peer``, which asked."""
        held = [self._table.get(kind, subject) for kind in (Kind.APP, Kind.VOTERS)]
        self._push(peer, [record for record in held if record is not None])

    def rejudge(self, now: int) -> None:
        """Whom this node listens to has changed: drop what is not wanted any more, ask again for what now is."""
        self._table.rejudge(self._view.upcalls.authorise)
        self._tell_dropped(now)
        self.ask_again()

    def ask_again(self) -> None:
        """What was refused before may be welcome now."""
        for partner in self._partners.values():
            partner.fruitless = 0

    def _tell_dropped(self, now: int) -> None:
        for record in self._table.take_dropped():
            self._view.upcalls.record_dropped(record, now)

    # ---- rumours ----

    def on_push(self, peer: NodeId, message: RecordPush, now: int) -> None:
        view = self._view
        news: list[Record] = []
        for record in message.records[: self._admit(peer, len(message.records), now)]:
            verdict = self._table.put(record, self.wall(now), view.upcalls.authorise)
            if verdict is True:
                news.append(record)
            elif isinstance(verdict, Code):
                view.out.penalize(peer, verdict, f"record of kind {record.kind}")
        partner = self._partner(peer, now)
        if news:
            partner.fruitless = 0
        if news and not self._exchanging(partner, now):
            # What anti-entropy brings is old news elsewhere.
            self._spread(news, peer)
        for record in news:
            view.upcalls.record_changed(record, now)
        self._tell_dropped(now)

    def _admit(self, peer: NodeId, count: int, now: int) -> int:
        """How many of ``count`` records ``peer`` may bring now.  What is lost by that, anti-entropy brings later."""
        config, partner = self._view.config, self._partner(peer, now)
        earned = (now - partner.filled) * config.relay_rate // SECOND
        if earned > 0:
            partner.filled = now
            partner.allowance = min(partner.allowance + earned, config.relay_records)
        admitted = min(count, partner.allowance)
        partner.allowance -= admitted
        return admitted

    def _exchanging(self, partner: _Partner, now: int) -> bool:
        return partner.asked >= 0 and now - partner.asked < self._view.config.sync_period

    def _spread(self, records: list[Record], source: NodeId) -> None:
        view = self._view
        for peer in dict.fromkeys((*view.leaves.neighbours(), *self._random_peers(source))):
            if peer != source and view.usable(peer):
                self._push(peer, records)

    def _random_peers(self, source: NodeId) -> list[NodeId]:
        """Up to ``rumour_fanout`` known peers, without a walk over all of them."""
        view = self._view
        pool = [*view.leaves.snapshot(), *view.table.entries()] if view.uplink is None else [view.uplink]
        chosen: list[NodeId] = []
        for _ in range(2 * view.config.rumour_fanout if pool else 0):
            peer = view.stream.choice(pool).id
            if peer != source and peer not in chosen and view.usable(peer):
                chosen.append(peer)
                if len(chosen) == view.config.rumour_fanout:
                    break
        return chosen

    def _push(self, peer: NodeId, records: Sequence[Record]) -> None:
        batch: list[Record] = []
        size = total = 0
        for record in records:
            weight = len(record.body) + _RECORD_OVERHEAD
            if total and total + weight > self._view.config.sync_bytes:
                break
            if batch and (size + weight > _BATCH_BYTES or len(batch) == _BATCH):
                self._view.out.send(peer, RecordPush(tuple(batch)))
                batch, size = [], 0
            batch.append(record)
            size += weight
            total += weight
        if batch:
            self._view.out.send(peer, RecordPush(tuple(batch)))

    # ---- anti-entropy ----

    def compare(self, peer: NodeId, digest: bytes, now: int) -> None:
        """``peer`` answered a ping with the digest of its records."""
        if digest and digest != self._table.digest():
            self.exchange(peer, now)

    def exchange(self, peer: NodeId, now: int) -> None:
        """Ask ``peer`` for what is missing here, unless that was done a moment ago."""
        partner = self._partner(peer, now)
        config: RingConfig = self._view.config
        if partner.asked >= 0 and now - partner.asked < config.sync_period << min(partner.fruitless, _BACK_OFF):
            return
        partner.asked = now
        partner.fruitless += 1
        self._view.out.send(peer, RecordDigests(self._table.entries()))

    def on_digests(self, peer: NodeId, message: RecordDigests, now: int) -> None:
        partner = self._partner(peer, now)
        if message.reply:
            # It ends an exchange that we began; anybody else's would make us send for nothing.
            if not self._exchanging(partner, now):
                return
        elif partner.served >= 0 and now - partner.served < self._view.config.sync_period // 2:
            return
        else:
            partner.served = now
        self.expire(now)
        lacking, theirs_newer = self._table.compare(message.entries)
        self._push(peer, lacking)
        if theirs_newer and not message.reply:
            partner.asked = now
            self._view.out.send(peer, RecordDigests(self._table.entries(), reply=True))

    def _partner(self, peer: NodeId, now: int) -> _Partner:
        partner = self._partners.pop(peer, None) or _Partner(self._view.config.relay_records, now)
        self._partners[peer] = partner
        if len(self._partners) > _PARTNERS:
            del self._partners[next(iter(self._partners))]
        return partner

    def expire(self, now: int) -> None:
        self._table.expire(self.wall(now))
        self._tell_dropped(now)
