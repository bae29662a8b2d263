"""The other half of the head: how a node becomes root, and how a root commits.

A *candidate* asks the voters for a promise in a new epoch.  With a majority it knows the newest head that may have been
committed, takes that head as its own and commits it again under its epoch: only then is it root.  From there on each
round is one ``Accept`` to all voters and a majority of ``Accepted``.

Who the voters are is itself part of the head, and changes by one voter at a time: one is added *or* one is removed, so
that every majority of the old set and every majority of the new one share a voter (Ongaro 2014, section 4.1; replacing
one for another in a single step would not have this property).  A candidate that starts from an outdated set therefore
meets, in any majority of it, a voter that accepted the next set; it follows such traces until a majority of the newest
set that it has seen has promised.  A root changes voters only after it committed a head in its own epoch.

Without a majority nothing is decided.  The proposer goes on asking with a growing pause and reports ``stalled``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence

import msgspec

from protocol.effects import Outbox
from protocol.errors import Code
from protocol.ids import AppId, NodeId
from protocol.messages import Contact
from protocol.streams import Stream

from .config import TreeConfig
from .holdings import Holdings
from .messages import Accept, Accepted, Head, Prepare, Promise
from .ports import Overlay


class Phase(enum.Enum):
    IDLE = "idle"
    PREPARING = "preparing"
    ADOPTING = "adopting"
    """Committing the inherited head under the new epoch."""
    LEADING = "leading"


def majority(voters: Sequence[Contact], answered: Mapping[NodeId, bool]) -> bool:
    """Have more than half of ``voters`` answered?"""
    return 2 * sum(voter.id in answered for voter in voters) > len(voters)


class Proposer:
    """Candidate and root of one application on one node."""

    __slots__ = (
        "_accepted", "_best", "_config", "_genesis", "_holders", "_holdings", "_known", "_me", "_on_committed",
        "_on_rooted", "_out", "_promises", "_proposed", "_refused", "_ring", "_since", "_status", "_stream", "_tries",
        "app", "epoch", "head", "phase",
    )  # fmt: skip

    def __init__(
        self,
        app: AppId,
        me: Contact,
        config: TreeConfig,
        *,
        ring: Overlay,
        out: Outbox,
        stream: Stream,
        genesis: Head,
        holdings: Holdings,
        on_rooted: Callable[[Head, int], None],
        on_committed: Callable[[Head, int], None],
        status: Callable[[str, str, int], None],
    ) -> None:
        self.app, self._me, self._config = app, me, config
        self._ring, self._out, self._stream, self._holdings = ring, out, stream, holdings
        self._genesis = genesis
        self._on_rooted, self._on_committed, self._status = on_rooted, on_committed, status
        self.phase = Phase.IDLE
        self.epoch = 0
        """The highest epoch seen or used."""
        self.head: Head | None = None
        """The last head that this node committed as root."""
        self._known: Head | None = None
        """Where the candidate started from: tells whom to ask."""
        self._best: Head | None = None
        """The newest accepted head among the promises."""
        self._holders: list[NodeId] = []
        """Who holds the content of ``_best``."""
        self._promises: dict[NodeId, bool] = {}
        self._accepted: dict[NodeId, bool] = {}
        self._refused: dict[NodeId, bool] = {}
        """Voters that promised this very epoch to somebody else: they will refuse all that we say in it."""
        self._proposed: Head | None = None
        self._since = 0
        self._tries = 0

    @property
    def leading(self) -> bool:
        return self.phase is Phase.LEADING

    @property
    def busy(self) -> bool:
        """A head is proposed and not yet committed."""
        return self._proposed is not None

    # ---- phase 1 ----------------------------------------------------------------------------------------------------

    def stand(self, known: Head, now: int) -> None:
        """Become a candidate.  ``known``, the newest head known to be committed or the genesis, tells whom to ask."""
        if self.phase is not Phase.IDLE:
            return
        self.phase = Phase.PREPARING
        self.epoch = max(self.epoch, known.epoch) + 1
        self._known, self._best, self._holders = known, None, [self._genesis.root.id]
        self._promises, self._refused = {}, {}
        self._since, self._tries = now, 0
        self._ask(now)

    def _electorate(self) -> tuple[Contact, ...]:
        """Whose majority decides: the voters of the newest head that has shown itself so far.

        Starting in the middle of the chain of voter sets is safe: a majority of one set that reports no newer set
        proves that no newer one was ever committed, since that would have needed a voter of this majority.
        """
        assert self._known is not None
        if self._best is not None and self._best.order >= self._known.order:
            return self._best.voters
        return self._known.voters

    def _ask(self, now: int) -> None:
        for voter in self._electorate():
            if voter.id not in self._promises:
                self._ring.learn(voter)
                self._out.send(voter.id, Prepare(self.app, self.epoch, self._me))
        self._arm(now)

    def on_promise(self, peer: NodeId, message: Promise, now: int) -> None:
        """Count it; follow traces of newer voters; with a majority adopt the newest head.

        Promises beyond a majority still count until something is proposed: they name further holders of the content.
        """
        if self.phase in (Phase.IDLE, Phase.LEADING) or self._proposed is not None or message.epoch != self.epoch:
            return
        head, before = message.accepted, self._electorate()
        if all(voter.id != peer for voter in before):
            return
        if head is not None and (head.app != self.app or head.epoch > self.epoch):
            self._out.penalize(peer, Code.UNAUTHORISED, "promise with a head from elsewhere")
            return
        self._promises[peer] = True
        if head is not None and (self._best is None or head.order > self._best.order):
            self._best, self._holders = head, [peer]
            self.phase = Phase.PREPARING
        elif head is not None and self._best is not None and head.order == self._best.order:
            self._holders.append(peer)
        if self._electorate() != before:
            self._ask(now)
        if self.phase is Phase.PREPARING and majority(self._electorate(), self._promises):
            self._adopt(now)

    def _adopt(self, now: int) -> None:
        """Take over the newest head, with its content, and commit it again under the new epoch."""
        assert self._known is not None
        best = self._best if self._best is not None else self._genesis
        if best.order < self._known.order:
            return  # a committed head that no majority remembers: never go back; keep asking, report stalled
        self.phase = Phase.ADOPTING
        head = msgspec.structs.replace(best, epoch=self.epoch, root=self._me)
        epoch, chosen = self.epoch, self._best

        def propose(at: int) -> None:
            still = self.phase is Phase.ADOPTING and self.epoch == epoch and self._proposed is None
            if still and self._best is chosen:
                self.propose(head, at)

        self._holdings.ensure(
            head.model,
            self._holders,
            lambda at: self._holdings.ensure(head.state, self._holders, propose, at),
            now,
        )

    # ---- phase 2 ----------------------------------------------------------------------------------------------------

    def propose(self, head: Head, now: int) -> None:
        """Ask the voters to hold ``head``.  One head at a time."""
        assert self._proposed is None and head.epoch == self.epoch
        self._proposed, self._accepted = head, {}
        self._since, self._tries = now, 0
        self._offer(now)

    def _offer(self, now: int) -> None:
        head = self._proposed
        assert head is not None
        for voter in head.voters:
            if voter.id not in self._accepted:
                self._ring.learn(voter)
                self._out.send(voter.id, Accept(head))
        self._arm(now)

    def on_accepted(self, peer: NodeId, message: Accepted, now: int) -> None:
        head = self._proposed
        if head is None or (message.epoch, message.round) != head.order:
            return
        if all(voter.id != peer for voter in head.voters):
            return
        self._accepted[peer] = True
        if majority(head.voters, self._accepted):
            self._commit(head, now)

    def _commit(self, head: Head, now: int) -> None:
        self._proposed, self.head = None, head
        self._out.cancel_timer(("tree.head", self.app))
        if self.phase is Phase.ADOPTING:
            self.phase = Phase.LEADING
            self._on_rooted(head, now)
        else:
            self._on_committed(head, now)

    def next_voters(self, voters: tuple[Contact, ...]) -> tuple[Contact, ...]:
        """One step towards a full set of live voters: the closest live node is added, or a dead voter removed.

        Never towards a set without a live majority: once a single voter has accepted such a head nobody can decide
        anything any more, although a majority of the old set may come back.
        """
        alive = {voter.id: True for voter in voters if voter.id == self._me.id or self._ring.alive(voter.id)}
        changed = voters
        if len(voters) < len(self._genesis.voters):
            seated = [voter.id for voter in voters]
            fresh = [c for c in self._ring.closest(self.app, 2 * len(voters) + 2) if c.id not in seated]
            changed = (*voters, *fresh[:1])
            alive.update((contact.id, True) for contact in fresh[:1])
        elif len(alive) < len(voters):
            dead = next(voter for voter in voters if voter.id not in alive)
            changed = tuple(voter for voter in voters if voter is not dead)
        return changed if majority(changed, alive) else voters

    # ---- patience ---------------------------------------------------------------------------------------------------

    def _arm(self, now: int) -> None:
        pause = min(self._config.answer_wait << min(self._tries, 8), self._config.retry_limit)
        pause += self._stream.below(pause // 4)
        self._out.set_timer(("tree.head", self.app), now + pause)

    def on_refused(self, peer: NodeId) -> bool:
        """A voter follows another candidate of our epoch.  True when no majority is left to be won."""
        voters = self._asked()
        if any(voter.id == peer for voter in voters):
            self._refused[peer] = True
        left = {voter.id: True for voter in voters if voter.id not in self._refused}
        return bool(voters) and not majority(voters, left)

    def _asked(self) -> tuple[Contact, ...]:
        """Those whose majority is being waited for."""
        if self._proposed is not None:
            return self._proposed.voters
        return self._electorate() if self.phase in (Phase.PREPARING, Phase.ADOPTING) else ()

    def on_timer(self, now: int) -> bool:
        """No majority yet: ask again, and say so when it has lasted.

        True when it is better to begin anew in another epoch: some follow another in this one, and the rest were not
        enough within the time that an answer takes; or nobody answers a root, who may be the one that is cut off.
        """
        asked = self._asked()
        if not asked:
            return False
        if any(voter.id in self._refused for voter in asked):
            return True
        if self.leading and now - self._since >= self._config.yield_after:
            return True
        self._tries += 1
        if now - self._since >= self._config.stall_after:
            self._status("stalled", "no majority of the voters answers", now)
        if self._proposed is not None:
            self._offer(now)
            return False
        self._ask(now)
        if self.phase is Phase.ADOPTING:
            self._adopt(now)
        return False

    def retire(self, epoch: int) -> bool:
        """A newer epoch exists, or candidacy makes no sense any more.  True when this node was root."""
        was_root = self.phase is Phase.LEADING
        self.epoch = max(self.epoch, epoch)
        self.phase, self._proposed, self._known, self._best = Phase.IDLE, None, None, None
        self._promises, self._accepted, self._holders = {}, {}, []
        self._out.cancel_timer(("tree.head", self.app))
        return was_root
