"""The other half of the head: how a node becomes root, and how a root commits.

A *candidate* asks the voters for a promise in a new epoch.  With a majority it knows the newest head that may have been
committed, takes that head as its own and commits it again under its epoch: only then is it root.  From there on each
round is one ``Accept`` to all voters and a majority of ``Accepted``.

Who the voters are is itself part of the head, and changes by one voter at a time: one is added *or* one is removed, and
a head that does so needs a majority of the voters before it *and* one of its own (Ongaro 2014, section 4).  A candidate
that starts from an outdated set therefore meets, in any majority of it, a voter that accepted the next set; it follows
such traces until a majority of the newest set that it has seen has promised, and it starts again from any newer proven
head that it hears of meanwhile.  A root changes voters only after it committed a head in its own epoch.

What a voter reports counts only with the seals that come with it (``proofs``): its own on the promise, the root's on
the head that it reports, and those that gave that root its epoch.

Without a majority nothing is decided.  The proposer goes on asking with a growing pause, reports ``stalled``, and gives
the epoch up after a time.  Voters whose content is on its way answer ``Holding``, and that is patience well spent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from protocol.effects import Outbox
from protocol.errors import Code
from protocol.ids import AppId, NodeId
from protocol.messages import Contact
from protocol.signing import Seal
from protocol.streams import Stream

from .config import TreeConfig
from .heads import MAX_SEALS, Head, Life, Link, Proof, Vote, Warrant
from .holdings import Holdings
from .messages import LEAP, Accept, Accepted, Holding, Prepare, Promise, Withdraw
from .ports import Overlay
from .proofs import Proofs, charter, full, majority, seated, shortened
from .sizes import bounded, limit
from .tally import Report, Tally, electorate, ids

MAX_RENEWAL = 8 * LEAP
"""By how much a root goes on to a newer epoch at most, on the word of a minority of its voters."""


class Phase(enum.Enum):
    IDLE = "idle"
    PREPARING = "preparing"
    ADOPTING = "adopting"
    """Committing the inherited head under the new epoch."""
    LEADING = "leading"


class Proposer:
    """Candidate and root of one application on one node."""

    __slots__ = (
        "_accepted", "_asked", "_best", "_config", "_genesis", "_holding", "_holdings", "_known", "_limit", "_me",
        "_moved", "_on_committed", "_on_rooted", "_out", "_proofs", "_proposed", "_refused", "_ring", "_since",
        "_status", "_stream", "_tally", "_tries", "_warrant", "app", "epoch", "head", "phase", "reigns",
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
        proofs: Proofs,
        on_rooted: Callable[[Head, int], None],
        on_committed: Callable[[Head, int], None],
        status: Callable[[str, str, int], None],
    ) -> None:
        self.app, self._me, self._config = app, me, config
        self._ring, self._out, self._stream, self._holdings, self._proofs = ring, out, stream, holdings, proofs
        self._genesis, self._limit = genesis, limit(genesis.model)
        self._on_rooted, self._on_committed, self._status = on_rooted, on_committed, status
        self.phase = Phase.IDLE
        self.reigns = False
        """This node is root: it leads, or has led and is winning a newer epoch."""
        self.epoch = 0
        """The highest epoch seen or used."""
        self.head: Head | None = None
        """The last head that this node committed as root, with its proof."""
        self._known = genesis
        """Where the candidate started from, proven: tells whom to ask."""
        self._tally = Tally()
        self._best: Report | None = None
        """The newest accepted head among the promises."""
        self._asked: tuple[tuple[NodeId, ...], tuple[NodeId, ...]] = ((), ())
        """Of the head that is proposed: the voters before it and its own.  It needs a majority of both."""
        self._accepted: dict[NodeId, Seal] = {}
        self._holding: dict[NodeId, int] = {}
        """Voters to whom the proposed content is on its way, and when they last said so."""
        self._refused: dict[NodeId, int] = {}
        """Voters that follow another candidate, and in which epoch: they refuse all that we say in ours."""
        self._proposed: Head | None = None
        self._warrant: Warrant | None = None
        self._since = self._moved = 0
        """When this began, and when a majority was last seen to be with us."""
        self._tries = 0

    @property
    def leading(self) -> bool:
        return self.phase is Phase.LEADING

    @property
    def busy(self) -> bool:
        """A head is proposed and not yet committed."""
        return self._proposed is not None

    # ---- phase 1 ----------------------------------------------------------------------------------------------------

    def stand(self, known: Head, now: int, beyond: int = 0) -> None:
        """Become a candidate in an epoch ``beyond`` all that were heard of.  ``known``, the newest head proven to be
        committed or the genesis, tells whom to ask."""
        if self.phase is not Phase.IDLE:
            return
        self.phase = Phase.PREPARING
        self.epoch = max(self.epoch, known.epoch, beyond) + 1
        self._known, self._best = known, None
        self._tally, self._refused = Tally(), {}
        self._begin(now)
        self._ask(now)

    @property
    def overtaken(self) -> bool:
        """Has one of the voters promised a newer epoch to somebody else?  It refuses whatever is proposed in ours."""
        seats = self.head.seats if self.head is not None else ()
        return self.leading and any(self._refused.get(peer, 0) > self.epoch for peer in seats)

    def renew(self, now: int) -> None:
        """As root and between two heads: win an epoch that is newer than any that a voter has promised."""
        assert self.leading and self.head is not None and not self.busy
        said = max(self._refused.values(), default=0)
        self.phase = Phase.IDLE
        self.stand(self.head, now, beyond=min(said, self.epoch + MAX_RENEWAL))

    def _begin(self, now: int) -> None:
        self._since = self._moved = now
        self._tries, self._holding = 0, {}

    def rebase(self, known: Head, now: int) -> None:
        """A newer head is proven, of an older epoch than ours: whoever guards it has to be asked."""
        if self.phase not in (Phase.PREPARING, Phase.ADOPTING) or self._proposed is not None:
            return
        if known.order <= self._known.order or known.epoch >= self.epoch:
            return
        before, self._known = self._electorate(), known
        if self._electorate() != before:
            self.phase = Phase.PREPARING
            self._ask(now)
        self._weigh(now)

    def _electorate(self) -> tuple[Contact, ...]:
        """Whose majority decides: the voters of the newest head that has shown itself so far.

        Starting in the middle of the chain of voter sets is safe: a majority of one set that reports no newer set
        proves that no newer one was ever committed, since that would have needed a voter of this majority.
        """
        return electorate(self._known, self._best)

    def _ask(self, now: int) -> None:
        for voter in self._electorate():
            if voter.id not in self._tally:
                self._ring.learn(voter)
                self._out.send(voter.id, Prepare(self.app, self.epoch, self._me))
        self._arm(now)

    def on_promise(self, peer: NodeId, message: Promise, now: int) -> None:
        """Count it; follow traces of newer voters; with a majority adopt the newest head.

        Promises beyond a majority still count until something is proposed: they name further holders of the content.
        """
        if self.phase not in (Phase.PREPARING, Phase.ADOPTING) or self._proposed is not None:
            return
        if message.incarnation != self._me.incarnation or all(voter.id != peer for voter in self._electorate()):
            return
        if message.epoch < self.epoch:
            self._climb(peer, message.epoch)
        if message.epoch != self.epoch:
            return
        report = self._checked(peer, message)
        if report is not None:
            self._tally.add(peer, report)
            self._refused.pop(peer, None)
            self._weigh(now)

    def _climb(self, peer: NodeId, reached: int) -> None:
        """``peer`` promised, or would promise, no more than ``reached`` and a leap: up to ours in several."""
        self._out.send(peer, Prepare(self.app, min(self.epoch, reached + LEAP), self._me))

    def _checked(self, peer: NodeId, message: Promise) -> Report | None:
        """The promise, when it and the head that it reports carry the seals that they need."""
        head = message.accepted
        statement = head.statement() if head is not None else None
        if head is not None and (
            head.app != self.app or head.epoch >= self.epoch or statement is None or head.left_out
        ):
            self._out.penalize(peer, Code.UNAUTHORISED, "promise with a head from elsewhere")
            return None
        if head is not None and not bounded(head, self._limit):
            self._out.penalize(peer, Code.OVERSIZE, "promise with a head larger than its application allows")
            return None
        vote = Vote(statement, message.seal)
        if peer != self._me.id and not self._proofs.promised(peer, self.app, self.epoch, Life.of(self._me), vote):
            self._out.penalize(peer, Code.BAD_SIGNATURE, "promise")
            return None
        if head is not None and not self._tally.knows(statement) and peer != self._me.id:
            warrant = message.warrant
            if warrant is None or not self._proofs.warranted(self._genesis, head, warrant):
                self._out.penalize(peer, Code.UNAUTHORISED, "promise with a head that nobody had a right to propose")
                return None
        return Report(head, statement, vote)

    def _weigh(self, now: int) -> None:
        """A report more, or less: which head is the newest, who guards it, and is that a majority?"""
        before, best = self._electorate(), self._tally.best()
        if (best and best.statement) != (self._best and self._best.statement):
            self._best, self.phase = best, Phase.PREPARING
        if self._electorate() != before:
            self._ask(now)
        if self.phase is Phase.PREPARING and majority(ids(self._electorate()), self._tally.counted()):
            self._adopt(now)

    def _adopt(self, now: int) -> None:
        """Take over the newest head, with its content, and commit it again under the new epoch."""
        best, epoch, chosen = self._newest, self.epoch, self._best
        if best.order < self._known.order:
            return  # a committed head that no majority remembers: never go back; keep asking, report stalled
        self.phase = Phase.ADOPTING
        holders = self._tally.holders(chosen) or self._first_holders

        def still() -> bool:
            same = self.phase is Phase.ADOPTING and self.epoch == epoch and self._proposed is None
            return same and self._best is chosen

        def failed(at: int) -> None:
            if still() and chosen is not None and self._tally.give_up(chosen, self._known):
                self._weigh(at)

        def state(at: int) -> None:
            self._holdings.ensure(best.state, self._limit, holders, propose, at, failed=failed)

        def propose(at: int) -> None:
            if still():
                self._take_over(best, at)

        self._holdings.ensure(best.model, self._limit, holders, state, now, failed=failed)

    @property
    def _first_holders(self) -> list[NodeId]:
        """Who has the first model: the submitter and, once it is accepted, a majority of the first voters."""
        others = [peer for peer in self._genesis.seats if peer not in (self._genesis.root.id, self._me.id)]
        return [self._genesis.root.id, *others]

    @property
    def _newest(self) -> Head:
        """The head to be taken over, as far as the promises tell."""
        return self._best.head if self._best is not None and self._best.head is not None else self._genesis

    def _take_over(self, best: Head, now: int) -> None:
        links = best.proof.links
        if best.order == self._known.order and self._known is not self._genesis:
            links = charter(self._genesis.seats, self._known)  # known to be committed: its own voters are enough
        head = msgspec.structs.replace(best, epoch=self.epoch, root=self._me, proof=Proof((), links))
        electors = {*seated(self._genesis.seats, links), *head.seats}
        grant = tuple(report.vote for peer, report in self._tally.counted().items() if peer in electors)
        self._propose(head, grant, None, now)

    # ---- phase 2 ----------------------------------------------------------------------------------------------------

    def propose(self, head: Head, now: int) -> None:
        """As root: ask the voters to hold ``head``, which goes on from the last committed one.  One at a time."""
        assert self._proposed is None and head.epoch == self.epoch and self.head is not None
        last = self.head
        links, statement = charter(self._genesis.seats, last), last.statement()
        assert statement is not None
        seats_it = bool(links) and links[-1].statement == statement
        base = None if seats_it else Link(statement, last.proof.seals)
        proposal = msgspec.structs.replace(head, root=self._me, proof=Proof((), links))
        self._propose(proposal, (), base, now)

    def _propose(self, head: Head, grant: tuple[Vote, ...], base: Link | None, now: int) -> None:
        statement = head.statement()
        assert statement is not None
        self._proposed, self._accepted = head, {}
        self._warrant = Warrant(self._proofs.propose(statement.digest()), grant, base)
        self._asked = seated(self._genesis.seats, head.proof.links), head.seats
        self._begin(now)
        self._offer(now)

    def _offer(self, now: int) -> None:
        head, warrant = self._proposed, self._warrant
        assert head is not None and warrant is not None
        for voter in head.voters:
            self._ring.learn(voter)
        for peer in dict.fromkeys((*head.seats, *self._asked[0])):
            if peer not in self._accepted:
                self._out.send(peer, Accept(head, warrant))
        self._arm(now)

    def on_accepted(self, peer: NodeId, message: Accepted, now: int) -> None:
        """A voter holds what is proposed; the digest says that it is this very head, of this life."""
        head = self._proposed
        if head is None:
            self._seal_late(peer, message)
            return
        statement = head.statement()
        assert statement is not None
        if message.digest != statement.digest() or not any(peer in seats for seats in self._asked):
            return
        if peer != self._me.id and not self._proofs.accepted(peer, message.digest, message.seal):
            self._out.penalize(peer, Code.BAD_SIGNATURE, "acceptance")
            return
        self._accepted[peer] = message.seal
        self._refused.pop(peer, None)
        if all(majority(seats, self._accepted) for seats in self._asked):
            self._commit(head, now)

    def _commit(self, head: Head, now: int) -> None:
        links = shortened(self._genesis.seats, head.proof.links, self._accepted)
        head = msgspec.structs.replace(head, proof=Proof(tuple(self._accepted.values()), links))
        self._proofs.vouch(head)
        self._proposed, self.head = None, head
        self._out.cancel_timer(("tree.head", self.app))
        if self.phase is Phase.ADOPTING:
            self.phase, self.reigns = Phase.LEADING, True
            self._on_rooted(head, now)
        else:
            self._on_committed(head, now)

    def _seal_late(self, peer: NodeId, message: Accepted) -> None:
        """A seal beyond the majority may make a link of the chain superfluous."""
        head = self.head
        if head is None or not head.proof.links or not self.leading or len(head.proof.seals) >= MAX_SEALS:
            return
        statement, seals = head.statement(), head.proof.seals
        if statement is None or message.digest != statement.digest() or peer in self._accepted:
            return
        if any(peer in seats for seats in self._asked) and self._proofs.accepted(peer, message.digest, message.seal):
            self._accepted[peer] = message.seal
            links = shortened(self._genesis.seats, head.proof.links, self._accepted)
            self.head = msgspec.structs.replace(head, proof=Proof((*seals, message.seal), links))

    @property
    def settled(self) -> bool:
        """The proof has no room for another set of voters: they stay as they are."""
        return self.head is not None and full(charter(self._genesis.seats, self.head))

    # ---- patience ---------------------------------------------------------------------------------------------------

    def _arm(self, now: int) -> None:
        pause = min(self._config.answer_wait << min(self._tries, 8), self._config.retry_limit)
        pause += self._stream.below(pause // 4)
        self._out.set_timer(("tree.head", self.app), now + pause)

    def on_holding(self, peer: NodeId, message: Holding, now: int) -> None:
        """The content is on its way to ``peer``."""
        head = self._proposed
        if head is not None and message.order == head.order and any(peer in seats for seats in self._asked):
            self._holding[peer] = now

    def on_stale(self, peer: NodeId, epoch: int, now: int) -> bool:
        """A voter refuses: it has promised ``epoch``.  True when no majority is left to be won."""
        asked = self._awaited()
        if not any(peer in seats for seats in asked):
            return False
        candidate = self.phase in (Phase.PREPARING, Phase.ADOPTING)
        if candidate and self._proposed is None and epoch + LEAP < self.epoch:
            self._climb(peer, epoch)
            return False
        if epoch < self.epoch and not (candidate and self._proposed is None):
            return False  # said of something older
        self._refused[peer] = epoch
        return self._beaten()

    def _beaten(self) -> bool:
        return any(
            seats and not majority(seats, [peer for peer in seats if peer not in self._refused])
            for seats in self._awaited()
        )

    def _awaited(self) -> tuple[tuple[NodeId, ...], ...]:
        """Sets of voters of each of which a majority is being waited for, or will be by the next round."""
        if self._proposed is not None:
            return self._asked
        if self.phase in (Phase.PREPARING, Phase.ADOPTING):
            return (ids(self._electorate()),)
        return (self.head.seats,) if self.leading and self.head is not None else ()

    def _supported(self, now: int) -> bool:
        """Has a majority what is proposed, or is it on its way there?"""
        fresh = [peer for peer, at in self._holding.items() if now - at <= 2 * self._config.retry_limit]
        return bool(self._holding) and all(majority(seats, {*self._accepted, *fresh}) for seats in self._asked)

    def on_timer(self, now: int) -> bool:
        """No majority yet: ask again, and say so when it has lasted.

        True when it is better to begin anew in another epoch: so many follow another that no majority is left; or some
        do, and the rest were not enough while their promises bound them to a candidate; or nobody answers a root, who
        may be the one that is cut off.
        """
        waiting = self._proposed is not None or self.phase in (Phase.PREPARING, Phase.ADOPTING)
        if not waiting:
            return False
        if self._proposed is not None and self._supported(now) and now - self._since < self._config.hold_limit:
            self._moved = now
        fetching = self.phase is Phase.ADOPTING and self._proposed is None and self._fetching
        if fetching and now - self._since < self._config.hold_limit:
            self._moved = now
        quiet = now - self._moved
        if quiet and self._beaten():
            return True
        if not self.reigns and quiet >= self._config.candidacy and self._is_refused:
            return True
        if quiet >= self._config.yield_after:
            return True
        self._tries += 1
        if quiet >= self._config.stall_after:
            self._status("stalled", "no majority of the voters answers", now)
        if self._proposed is not None:
            self._offer(now)
            return False
        self._ask(now)
        if self.phase is Phase.ADOPTING:
            self._adopt(now)
        return False

    @property
    def _is_refused(self) -> bool:
        """Does at least one of those whose answers are awaited follow another?"""
        return any(peer in self._refused for seats in self._awaited() for peer in seats)

    @property
    def passed(self) -> int:
        """An epoch that others have reached, as far as it is beyond doubt: of what the voters say so many are left out,
        those that say the highest, as could lie."""
        seats = max(self._awaited(), key=len, default=())
        said = sorted((self._refused[peer] for peer in seats if peer in self._refused), reverse=True)
        liars = (len(seats) - 1) // 2
        if 0 < liars < len(said):
            return max(said[liars], self.epoch)
        return min(max(said, default=0), self.epoch + LEAP // 2)

    @property
    def _fetching(self) -> bool:
        return self._holdings.awaits(self._newest.model) or self._holdings.awaits(self._newest.state)

    def retire(self, epoch: int) -> bool:
        """A newer epoch exists, or candidacy makes no sense any more.  True when this node was root."""
        was_root, self.reigns = self.reigns, False
        if self.phase in (Phase.PREPARING, Phase.ADOPTING):
            for peer in ids(self._electorate()):  # also those whose promise is on its way
                self._out.send(peer, Withdraw(self.app, self.epoch))
        self.epoch = max(self.epoch, epoch)
        self.phase, self._proposed, self._known, self._best = Phase.IDLE, None, self._genesis, None
        self._tally, self._accepted, self._refused = Tally(), {}, {}
        self._out.cancel_timer(("tree.head", self.app))
        return was_root
