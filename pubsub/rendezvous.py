"""Seeing to it that an application has a root: the part of the node closest to its id.

A rendezvous that does not know of a live root first asks the voters whom they follow and whether they hear it reign,
and whomever they name whether it is root.  Besides the voters that it knows of it asks those of the descriptor and the
nodes closest to the id: any of them may know a newer head, which names newer voters, who are asked in turn.  It stands
only when a majority of the newest voters would promise (Raft's pre-vote), so a candidacy that cannot succeed costs
nobody an epoch.  A root that a majority of the voters hears is the root, even if this node cannot reach it.

Deaths are not noticed everywhere in the same moment.  Voters that still hear a root when this node asks are asked again
a few times, in short intervals, before their word is taken for it; and again soon after it was.

A root may step down without dying.  Whoever took it for the root notices when it asks for a place in the tree like
anybody else, and asks it now and then in any case.  A join that others carried in its name is a reason to ask, no more.

The closest node may refuse to know of an application: its table is full, its clock is wrong, nobody told it of the
owner.  Or it does nothing, whatever it says.  A joiner that has shown it the descriptor in vain, or that has found no
place for a while, asks a *deputy* instead, the closest of the newest voters.  A voter that is asked does for a while
what the closest node ought to.  All joiners count the voters in the same order and go on to the next only after several
joins, so mostly one stands; where two do, or the closest node serves after all, it is the pre-vote and the pauses that
part them, as they part any two candidates.

Who lost a candidacy waits for a growing, random time before it looks again, and the time shrinks only when a round is
committed: two that win and lose against each other leave each other ever more room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.ids import NodeId
from protocol.messages import Contact

from .messages import HeadAnswer, HeadQuery, TreeRefuse
from .proofs import majority
from .proposer import Phase

if TYPE_CHECKING:
    from .forest import Forest
    from .grove import Grove

MAX_WAITING = 64
"""Joiners for whom there was no root yet that are told of one; others ask again after a pause of theirs."""
MAX_REPEATS = 5
"""Times that a voter is asked again whether it still hears a root: a second and a half in all."""


class Rendezvous:
    """What this node, when it is the closest one, knows of an application's root."""

    __slots__ = (
        "_answers", "_asked", "_deputy", "_doubted", "_earliest", "_forest", "_fruitless", "_grove", "_repeats",
        "_retry", "_searching", "_waiting", "_witnesses", "root",
    )  # fmt: skip

    def __init__(self, grove: Grove, forest: Forest) -> None:
        self._grove, self._forest = grove, forest
        self.root: Contact | None = None
        """A root believed alive, when this node is the rendezvous and not root itself."""
        self._witnesses: tuple[Contact, ...] = ()
        """Voters that hear the root, when this node does not."""
        self._waiting: dict[NodeId, int] = {}
        """Who asked for a place in vain → the attempt by which it did."""
        self._searching = False
        self._asked: dict[NodeId, Contact] = {}
        """Who was asked in the present search."""
        self._answers: dict[NodeId, HeadAnswer] = {}
        self._repeats = 0
        """Times that voters were asked again in the present search."""
        self._retry = self._earliest = 0
        self._deputy = 0
        """Until when this node stands in for the closest one, ns."""
        self._doubted = -forest.config.answer_wait
        """When the root was last asked out of turn, ns."""
        self._fruitless = -1
        """Since when no majority of the voters answers, ns; -1: it does."""

    def serve(self, now: int) -> None:
        """Called whenever the ring changed: is it on this node to see that there is a root?"""
        grove = self._grove
        if grove.finished or grove.proposer.reigns:
            return
        if not self._is_ours(now):
            self._retreat()
            return
        idle = self.live_root is None and not self._searching and grove.proposer.phase is Phase.IDLE
        if idle and now >= self._earliest:
            self._search(now)

    def _is_ours(self, now: int) -> bool:
        return self._forest.ring.ready and (now < self._deputy or self._forest.ring.is_closest(self._grove.app))

    def deputise(self, now: int) -> None:
        """The closest node does not serve, says somebody: stand in for it, as one of the voters."""
        if self._forest.me.dialable and any(voter.id == self._me for voter in self._grove.base.voters):
            self._deputy = now + self._forest.config.deputy_patience

    @property
    def live_root(self) -> Contact | None:
        heard = self.root is not None and (bool(self._witnesses) or self._forest.ring.alive(self.root.id))
        return self.root if heard else None

    @property
    def places(self) -> tuple[Contact, ...]:
        """Whom a joiner should ask: the root, and those who hear it where this node does not."""
        return () if self.root is None else (self.root, *self._witnesses[:2])

    def wait(self, joiner: NodeId, attempt: int) -> None:
        """``joiner`` was told that there is no place.  When there is one it hears of it at once."""
        self._waiting.pop(joiner, None)
        self._waiting[joiner] = attempt
        if len(self._waiting) > MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]

    def usher(self, places: tuple[Contact, ...]) -> None:
        """There are places now: whoever waits for one is told where to ask."""
        waiting, self._waiting = self._waiting, {}
        for joiner, attempt in waiting.items():
            self._forest.out.send(joiner, TreeRefuse(self._grove.app, attempt, places))

    def _retreat(self) -> None:
        """Someone else is the rendezvous now."""
        self.forget()
        self._searching, self._waiting = False, {}
        if self._grove.proposer.phase is Phase.PREPARING:
            self._grove.throne.retire(self._grove.epoch)

    def forget(self) -> None:
        """There is no root that this node knows of."""
        if self.root is not None:
            self._forest.ring.unwatch(self.root.id, self._grove.purpose)
            self._forest.out.cancel_timer(("tree.confirm", self._grove.app))
            self.root, self._witnesses = None, ()

    def calm(self) -> None:
        """A round was committed: whoever is root, it works."""
        self._retry = self._earliest = 0

    def gone(self, peer: NodeId, now: int) -> None:
        """``peer`` is no root any more."""
        if self.root is not None and self.root.id == peer:
            self.forget()
            self.serve(now)

    def doubt(self, peer: NodeId, now: int) -> None:
        """``peer`` may have asked for a place, which a root does not: hear what it says itself, now and then."""
        named = self.root is not None and self.root.id == peer
        if named and not self._searching and now >= self._doubted + self._forest.config.answer_wait:
            self._doubted = now
            self.confirm(now)

    def lost(self, peer: NodeId, now: int) -> None:
        """This node does not hear ``peer`` any more; perhaps others do."""
        if not self._witnesses:
            self.gone(peer, now)

    # ---- the search -------------------------------------------------------------------------------------------------

    def _search(self, now: int) -> None:
        """Ask the voters whom they follow."""
        self._searching, self._asked, self._answers, self._repeats = True, {}, {}, 0
        self._question((*self._grove.base.voters, *self._grove.genesis.voters, *self._near()))
        self._wait(self._forest.config.answer_wait, now)

    def _wait(self, pause: int, now: int) -> None:
        self._forest.out.set_timer(("tree.search", self._grove.app), now + pause)

    def _near(self) -> list[Contact]:
        return self._forest.ring.closest(self._grove.app, len(self._grove.genesis.voters))

    def _question(self, contacts: tuple[Contact, ...]) -> bool:
        """Ask those who were not asked yet; True when there was one."""
        fresh = {contact.id: contact for contact in contacts if contact.id not in self._asked}
        for contact in fresh.values():
            self._asked[contact.id] = contact
            self._forest.ring.learn(contact)
            self._forest.out.send(contact.id, HeadQuery(self._grove.app))
        return bool(fresh)

    def has_asked(self, peer: NodeId) -> bool:
        """Does this node listen to what ``peer`` says of the root?"""
        return (self._searching and peer in self._asked) or (self.root is not None and self.root.id == peer)

    def on_answer(self, peer: NodeId, message: HeadAnswer, now: int) -> None:
        """``peer`` follows a root, is one, or knows of none.  Its head was judged already."""
        if self._searching:
            self._weigh(peer, message, now)
        elif message.root is None or message.root.id != peer:
            self.gone(peer, now)

    def _weigh(self, peer: NodeId, message: HeadAnswer, now: int) -> None:
        """One answer to the search: a root confirms itself with a head of its own, or one voter more has spoken."""
        first = peer not in self._answers  # who names ever more roots does not keep the search going
        self._answers[peer] = message
        root, head, grove = message.root, message.head, self._grove
        if root is not None and root.id == peer:
            if head is not None and head.root.id == peer and grove.head is not None and head.order >= grove.head.order:
                self._found(root, (), now)
            return
        known = root is not None and root.id != self._me and self._forest.ring.alive(root.id)
        named = (root,) if first and known and root is not None else ()
        if self._question((*named, *grove.base.voters)):
            self._wait(self._forest.config.answer_wait, now)
        if self._free():
            if not any(self._may_answer(one.root.id) for one in self._answers.values() if one.root is not None):
                self.stand(now)
        elif not self._repeats and not any(map(self._may_answer, self._asked)):
            self._wait(self._forest.config.repeat_wait, now)

    def _may_answer(self, peer: NodeId) -> bool:
        """Was ``peer`` asked, and may its answer be on its way?"""
        silent = peer in self._asked and peer not in self._answers and peer != self._me
        return silent and self._forest.ring.alive(peer)

    @property
    def _me(self) -> NodeId:
        return self._forest.me.id

    def _hearing(self) -> dict[NodeId, Contact]:
        """Voters that hear another root than this node, and which."""
        answers = self._answers.items()
        return {peer: a.root for peer, a in answers if a.hears and a.root is not None and a.root.id != self._me}

    def _free(self) -> bool:
        """Would a majority of the voters promise?"""
        return majority(self._grove.base.seats, [peer for peer, answer in self._answers.items() if not answer.hears])

    def on_search_timer(self, now: int) -> None:
        """Those who have not answered by now will not."""
        if not self._searching:
            return
        hearing = self._hearing()
        if self._free():
            self.stand(now)
        elif hearing and self._repeats < MAX_REPEATS:
            self._repeat(hearing, now)
        elif majority(self._grove.base.seats, hearing) and (root := self._unanimous(hearing)) is not None:
            self._found(root, tuple(self._asked[peer] for peer in hearing if peer in self._asked), now)
        else:
            self._searching = False
            self.forget()
            self._complain(now)
            self.later(now)

    def _repeat(self, hearing: dict[NodeId, Contact], now: int) -> None:
        """This node does not hear the root that they hear: perhaps they are about to notice why."""
        self._repeats += 1
        for peer in hearing:
            del self._answers[peer]
            self._forest.out.send(peer, HeadQuery(self._grove.app))
        self._wait(self._forest.config.repeat_wait, now)

    def _unanimous(self, hearing: dict[NodeId, Contact]) -> Contact | None:
        """The root that a majority hears and that does not deny it."""
        voters = self._grove.base.seats
        for root in hearing.values():
            if root.id not in self._answers and majority(voters, [p for p, r in hearing.items() if r.id == root.id]):
                return root
        return None

    def _complain(self, now: int) -> None:
        if majority(self._grove.base.seats, self._answers):
            self._fruitless = -1
            return
        self._fruitless = self._fruitless if self._fruitless >= 0 else now
        if now - self._fruitless >= self._forest.config.stall_after:
            self._forest.roles.status(self._grove.app, "stalled", "no majority of the voters answers", now)

    def _found(self, root: Contact, witnesses: tuple[Contact, ...], now: int) -> None:
        forest, app = self._forest, self._grove.app
        self.forget()
        self._searching, self._fruitless = False, -1
        self.root, self._witnesses = root, witnesses
        forest.out.cancel_timer(("tree.search", app))
        forest.ring.watch(root.id, self._grove.purpose, now)
        forest.out.set_timer(("tree.confirm", app), now + self._confirm_after)
        self.usher(self.places)

    @property
    def _confirm_after(self) -> int:
        """Sooner when this node has the root's life from hearsay only."""
        config = self._forest.config
        return 2 * config.answer_wait if self._witnesses else config.voter_check

    def confirm(self, now: int) -> None:
        """Ask the root whether it still is, or its voters whether they still hear it."""
        if self.root is None:
            return
        if self._witnesses:
            self._search(now)
        else:
            self._forest.out.send(self.root.id, HeadQuery(self._grove.app))
            self._forest.out.set_timer(("tree.confirm", self._grove.app), now + self._confirm_after)

    def stand(self, now: int) -> None:
        """Nobody reigns: stand for root, unless meanwhile it is somebody else's turn."""
        self.forget()
        self._searching, self._fruitless = False, -1
        self._forest.out.cancel_timer(("tree.search", self._grove.app))
        grove = self._grove
        if not grove.finished and grove.proposer.phase is Phase.IDLE and self._is_ours(now):
            grove.proposer.stand(grove.base, now, beyond=grove.epoch)

    def later(self, now: int) -> None:
        """Look once more after a growing, random pause, so that two candidates do not chase each other."""
        config = self._forest.config
        self._retry = min(self._retry * 2 or config.answer_wait, config.retry_limit)
        pause = self._retry // 2 + self._forest.stream.below(self._retry)
        self._earliest = now + pause
        self._forest.out.set_timer(("tree.serve", self._grove.app), self._earliest)
