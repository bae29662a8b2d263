"""Checking what a head carries: was it committed, on which voters does it stand, by what right was it proposed?

Nothing here has state but a bounded memory of proofs that were found good: a proof is checked once per node and head,
and a repeated one costs a hash.  All answers are total: what is malformed is simply not proven.

*Skipping.*  A link may be left out when a majority of the set before it has sealed a later head with the present set,
as light clients of block chains do.  So the chain does not grow with the age of an application, only with the voters
that it lost and that nobody of the older sets can vouch for any more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence

from protocol.ids import ZONE_BYTES, NodeId, ring_id
from protocol.signing import Seal, Sealer

from .heads import MAX_LINKS, Head, Life, Link, Statement, Vote, Warrant, hash_of, promise

MAX_KNOWN = 4096
"""Pieces of evidence remembered as good."""

HEAD, PROMISE, PROPOSAL = "head", "promise", "proposal"
"""What seals are made for."""

Seats = tuple[NodeId, ...]


def majority(voters: Collection[NodeId], answered: Collection[NodeId]) -> bool:
    """Are more than half of ``voters`` among ``answered``?"""
    return 2 * sum(voter in answered for voter in voters) > len(voters)


def one_step(before: Seats, after: Seats) -> bool:
    """Does ``after`` differ from ``before`` by one voter at most?"""
    return len(set(after)) == len(after) > 0 and len(set(before) ^ set(after)) <= 1


def seated(first: Seats, links: Sequence[Link]) -> Seats:
    """The voters that a chain ends with."""
    return links[-1].statement.voters if links else first


def charter(first: Seats, head: Head) -> tuple[Link, ...]:
    """The chain that proves the voters of ``head``, a committed head, to whoever knows ``first``."""
    links = head.proof.links
    statement = head.statement()
    if statement is None or set(seated(first, links)) == set(head.seats):
        return links
    return (*links, Link(statement, head.proof.seals))


def shortened(first: Seats, links: tuple[Link, ...], signers: Collection[NodeId]) -> tuple[Link, ...]:
    """``links`` without those that a head sealed by ``signers`` needs no more."""
    while links and majority(seated(first, links[:-1]), signers):
        links = links[:-1]
    return links


def full(links: tuple[Link, ...]) -> bool:
    """Is there no room for another set of voters?"""
    return len(links) >= MAX_LINKS


class Proofs:
    """One node's judgement, and its own seal."""

    __slots__ = ("_known", "_sealer")

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._known: dict[bytes, None] = {}
        """Evidence that was found good: of what was stated *and* of all that came to prove it.  Somebody else is shown
        what came here, and would blame this node for a true head with a bad proof."""

    # ---- own seals --------------------------------------------------------------------------------------------------

    def accept(self, digest: bytes) -> Seal:
        """This node, a voter, holds the head."""
        return self._sealer.seal(HEAD, digest)

    def promise(self, app: bytes, epoch: int, candidate: Life, accepted: Statement | None) -> Seal:
        """This node, a voter, follows ``candidate``."""
        return self._sealer.seal(PROMISE, promise(app, epoch, candidate, accepted))

    def propose(self, digest: bytes) -> Seal:
        """This node, a root, stands by the head."""
        return self._sealer.seal(PROPOSAL, digest)

    # ---- others' ----------------------------------------------------------------------------------------------------

    def accepted(self, voter: NodeId, digest: bytes, seal: Seal) -> bool:
        return self._sealer.check(voter, seal, HEAD, digest)

    def promised(self, voter: NodeId, app: bytes, epoch: int, candidate: Life, vote: Vote) -> bool:
        return self._sealer.check(voter, vote.seal, PROMISE, promise(app, epoch, candidate, vote.accepted))

    def committed(self, genesis: Head, head: Head) -> bool:
        """Was ``head``, whole or in outline, committed?"""
        statement = head.statement()
        if statement is None or not head.epoch:
            return False
        evidence = hash_of(statement, head.proof)
        if evidence in self._known:
            return True
        before = self.stands_on(genesis, head)
        if before is None or not self._agreed(before, statement, statement.digest(), head.proof.seals):
            return False
        self._note(evidence)
        return True

    def vouch(self, head: Head) -> None:
        """This node has committed ``head`` itself, and checked each seal in it."""
        self._note(hash_of(head.statement(), head.proof))

    def _note(self, evidence: bytes) -> None:
        self._known[evidence] = None
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def stands_on(self, genesis: Head, head: Head) -> Seats | None:
        """The voters who have to agree to ``head``, by the chain that it carries; None when that proves nothing."""
        links, app = head.proof.links, head.app
        orders = [link.statement.order for link in links] + [head.order]
        if app != genesis.app or any(link.statement.app != app for link in links) or orders != sorted(set(orders)):
            return None
        chains = list(itertools.accumulate(links, hash_of, initial=b""))[1:]
        known = [index for index, chain in enumerate(chains) if chain in self._known]
        start = known[-1] + 1 if known else 0
        before = seated(genesis.seats, links[:start])
        for link, chain in zip(links[start:], chains[start:], strict=True):
            if not self._agreed(before, link.statement, link.statement.digest(), link.seals):
                return None
            self._note(chain)
            before = link.statement.voters
        return before

    def _agreed(self, before: Seats, statement: Statement, digest: bytes, seals: Sequence[Seal]) -> bool:
        """Have a majority of ``before`` and one of its own voters sealed ``statement``?"""
        own = statement.voters
        if not own or len(set(own)) < len(own):
            return False
        agreed = self._signers((*before, *own), seals, lambda voter, at: self.accepted(voter, digest, seals[at]))
        return majority(before, agreed) and majority(own, agreed)

    @staticmethod
    def _signers(voters: Seats, seals: Sequence[Seal], check: Callable[[NodeId, int], bool]) -> dict[NodeId, int]:
        """Who of ``voters`` made which of ``seals``.  Nobody at all when one is wrong: an honest proof has none, and a
        liar is not to make others check dozens."""
        by_suffix = {voter[ZONE_BYTES:]: voter for voter in voters}
        agreed: dict[NodeId, int] = {}
        for index, seal in enumerate(seals):
            voter = by_suffix.pop(ring_id(0, seal.key, seal.nonce)[ZONE_BYTES:], None)
            if voter is None:
                continue
            if not check(voter, index):
                return {}
            agreed[voter] = index
        return agreed

    # ---- rights -----------------------------------------------------------------------------------------------------

    def warranted(self, genesis: Head, head: Head, warrant: Warrant) -> bool:
        """Was ``head`` proposed by its root, who had won its epoch and does with it what a root may do?

        The first head of an epoch repeats the newest of those that a majority reported when it promised; each later
        one is the next round, or the same round with other voters.
        """
        statement, before = head.statement(), self.stands_on(genesis, head)
        if statement is None or before is None or not one_step(before, head.seats):
            return False
        if not self._sealer.check(head.root.id, warrant.seal, PROPOSAL, statement.digest()):
            return False
        if warrant.grant:
            return self._granted(genesis, before, statement, warrant.grant)
        return self._continues(before, head.proof.links, statement, warrant.base)

    def _continues(self, before: Seats, links: Sequence[Link], next_: Statement, base: Link | None) -> bool:
        """Has the same life of the same root committed, in this epoch, the head that ``next_`` goes on from?"""
        if base is None:
            if not links:
                return False
            last = links[-1].statement
        else:
            last, digest = base.statement, base.statement.digest()
            if last.app != next_.app or set(last.voters) != set(before):
                return False
            evidence = hash_of(base, before)
            if evidence not in self._known and not self._agreed(before, last, digest, base.seals):
                return False
            self._note(evidence)
        if (last.epoch, last.root) != (next_.epoch, next_.root):
            return False
        if next_.round == last.round:
            return next_.revision == last.revision + 1 and next_.contents == last.contents
        return (next_.round, next_.revision) == (last.round + 1, 0)

    def _granted(self, genesis: Head, before: Seats, next_: Statement, grant: Sequence[Vote]) -> bool:
        """Has a majority promised this epoch to this life of the root, which goes on from the newest head of theirs?"""
        voters = self._signers(
            (*before, *next_.voters),
            [vote.seal for vote in grant],
            lambda voter, at: self.promised(voter, next_.app, next_.epoch, next_.root, grant[at]),
        )
        reported = [vote.accepted for vote in map(grant.__getitem__, voters.values()) if vote.accepted is not None]
        newest = max(reported, key=lambda one: one.order, default=genesis.statement())
        assert newest is not None
        same = (newest.round, newest.revision, newest.contents, set(newest.voters))
        return majority(next_.voters, voters) and same == (
            next_.round, next_.revision, next_.contents, set(next_.voters),
        )  # fmt: skip
