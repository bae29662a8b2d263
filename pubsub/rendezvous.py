"""Seeing to it that an application has a root: the part of the node closest to its id.

A rendezvous that does not know of a live root first asks the voters whom they follow, and the one they name whether it
is alive and still root.  Only when that brings nothing does it stand.  The question costs a round trip and saves a
change of root, and with it a repeated round, each time a node joins the ring closer to the application's id.

A root may step down without dying.  Whoever took it for the root notices when it asks for a place in the tree like
anybody else, and asks it now and then in any case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.ids import NodeId
from protocol.messages import Contact

from .messages import HeadQuery
from .proposer import Phase, majority

if TYPE_CHECKING:
    from .forest import Forest
    from .grove import Grove


class Rendezvous:
    """What this node, when it is the closest one, knows of an application's root."""

    __slots__ = ("_asked", "_forest", "_grove", "_retry", "_searching", "_silent", "root")

    def __init__(self, grove: Grove, forest: Forest) -> None:
        self._grove, self._forest = grove, forest
        self.root: Contact | None = None
        """A root believed alive, when this node is the rendezvous and not root itself."""
        self._searching = False
        self._asked: NodeId | None = None
        """The supposed root, asked whether it still is."""
        self._silent: dict[NodeId, bool] = {}
        """Voters that answered the search and named no live root."""
        self._retry = 0

    def serve(self, now: int) -> None:
        """Called whenever the ring changed: is it on this node to see that there is a root?"""
        grove = self._grove
        if grove.finished or grove.proposer.leading:
            return
        if not self._is_ours():
            self._retreat()
        elif not self.live_root and not self._searching and grove.proposer.phase is Phase.IDLE:
            self._search(now)

    def _is_ours(self) -> bool:
        return self._forest.ring.ready and self._forest.ring.is_closest(self._grove.app)

    @property
    def live_root(self) -> Contact | None:
        return self.root if self.root is not None and self._forest.ring.alive(self.root.id) else None

    def _retreat(self) -> None:
        """Someone else is the rendezvous now."""
        self.forget()
        self._searching, self._asked = False, None
        if self._grove.proposer.phase is Phase.PREPARING:
            self._grove.proposer.retire(self._grove.epoch)

    def forget(self) -> None:
        """There is no root that this node knows of."""
        if self.root is not None:
            self._forest.ring.unwatch(self.root.id, self._grove.purpose)
            self._forest.out.cancel_timer(("tree.confirm", self._grove.app))
            self.root = None

    def reached(self) -> None:
        """This node is root itself."""
        self._retry = 0
        self.forget()

    def gone(self, peer: NodeId, now: int) -> None:
        """``peer`` is dead, or no root any more."""
        if self.root is not None and self.root.id == peer:
            self.forget()
            self.serve(now)

    # ---- the search -------------------------------------------------------------------------------------------------

    def _search(self, now: int) -> None:
        """Ask the voters whom they follow."""
        forest, app = self._forest, self._grove.app
        self._searching, self._asked, self._silent = True, None, {}
        for voter in self._grove.base.voters:
            forest.ring.learn(voter)
            forest.out.send(voter.id, HeadQuery(app))
        forest.out.set_timer(("tree.search", app), now + forest.config.answer_wait)

    def has_asked(self, peer: NodeId) -> bool:
        """Does this node listen to what ``peer`` says of the root?"""
        asked = (self._asked, self.root.id if self.root is not None else None)
        return peer in asked or any(voter.id == peer for voter in self._grove.base.voters)

    def on_answer(self, peer: NodeId, root: Contact | None, now: int) -> None:
        """``peer`` follows ``root``."""
        if self._searching:
            self._weigh(peer, root, now)
        elif root is None or root.id != peer:
            self.gone(peer, now)

    def _weigh(self, peer: NodeId, root: Contact | None, now: int) -> None:
        """One answer to the search: a live root to be asked, its confirmation, or one voter more that knows none."""
        forest, app = self._forest, self._grove.app
        named = root if root is not None and root.id != forest.me.id and forest.ring.alive(root.id) else None
        if named is not None and named.id == peer:
            self._found(named, now)
        elif named is not None and self._asked is None:
            self._asked = named.id
            forest.ring.learn(named)
            forest.out.send(named.id, HeadQuery(app))
            forest.out.set_timer(("tree.search", app), now + forest.config.answer_wait)
        elif named is None:
            self._silent[peer] = True
            if peer == self._asked or (self._asked is None and majority(self._grove.base.voters, self._silent)):
                self.stand(now)

    def _found(self, root: Contact, now: int) -> None:
        forest, app = self._forest, self._grove.app
        self._searching, self._asked = False, None
        self.root, self._retry = root, 0
        forest.out.cancel_timer(("tree.search", app))
        forest.ring.watch(root.id, self._grove.purpose, now)
        forest.out.set_timer(("tree.confirm", app), now + forest.config.voter_check)

    def confirm(self, now: int) -> None:
        """Ask the root whether it still is."""
        if self.root is not None:
            self._forest.out.send(self.root.id, HeadQuery(self._grove.app))
            self._forest.out.set_timer(("tree.confirm", self._grove.app), now + self._forest.config.voter_check)

    def stand(self, now: int) -> None:
        """Nobody claims the root: stand for it, unless meanwhile it is somebody else's turn."""
        self._searching, self._asked = False, None
        grove = self._grove
        if not grove.finished and grove.proposer.phase is Phase.IDLE and self._is_ours():
            grove.proposer.epoch = max(grove.proposer.epoch, grove.epoch)
            grove.proposer.stand(grove.base, now)

    def later(self, now: int) -> None:
        """Look once more after a growing, random pause, so that two candidates do not chase each other."""
        config = self._forest.config
        self._retry = min(self._retry * 2 or config.answer_wait, config.retry_limit)
        pause = self._retry // 2 + self._forest.stream.below(self._retry)
        self._forest.out.set_timer(("tree.serve", self._grove.app), now + pause)
