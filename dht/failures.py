"""Who is gone: by what a node learns it, and what it does then.

A peer is dead when its link was closed without a goodbye, when it said goodbye, when nothing can be delivered to it
(``refused``), or when it was silent for too long (``liveness``).  Then it leaves all tables at once, and what was under
way to it takes another way.  A message that could not be delivered is no proof: the link may have failed while the peer
lives, so what was to be routed goes on by another hop and the peer is suspected, which ``liveness`` settles.  Only what
was meant to ask whether it lives, a ping or a probe, settles it here.

A death may be a mistake.  Whoever was declared dead and speaks is taken up again by its own word.
"""

from __future__ import annotations

from protocol.ids import NodeId
from protocol.messages import Message, Routed

from .join import Joiner
from .lookup import Lookup
from .messages import FindReplicas, JoinRing, LeafProbe, Ping
from .ports import Entrance
from .probing import Prober
from .routing import Router
from .view import View


class Failures:
    """What the parts of one ring do about the death of a peer; see the module."""

    __slots__ = ("_entrance", "_joiner", "_lookup", "_prober", "_router", "_view")

    def __init__(
        self, view: View, prober: Prober, entrance: Entrance, joiner: Joiner, lookup: Lookup, router: Router
    ) -> None:
        self._view = view
        self._prober = prober
        self._entrance = entrance
        self._joiner = joiner
        self._lookup = lookup
        self._router = router

    def lost(self, peer: NodeId, why: str, now: int) -> None:
        """``peer`` is dead."""
        self._view.bury(peer, why, now)
        self._prober.drop(peer)
        self._entrance.lost(peer, now)

    def revive(self, peer: NodeId, now: int) -> None:
        """A ghost spoke."""
        contact = self._view.revive(peer, now)
        if contact is not None and contact.id in self._view.leaves:
            self._prober.probe(contact, now)

    def undelivered(self, peer: NodeId, message: Message | Routed, now: int) -> None:
        """``message`` could not be handed to ``peer``."""
        view = self._view
        if isinstance(message, Ping):
            self._lookup.unreachable(peer, now)
            if view.liveness.refused(peer, now):
                self.lost(peer, "refused", now)
        elif isinstance(message, LeafProbe):
            self._prober.failed(peer, now)
            self._entrance.unreachable(peer, now)
        elif isinstance(message, Routed):
            self._reroute(peer, message, now)
        elif peer in view.leaves or view.table.get(peer) is not None:
            view.liveness.suspect(peer, now)

    def _reroute(self, peer: NodeId, routed: Routed, now: int) -> None:
        view = self._view
        if view.contact(peer) is not None and peer not in view.ghosts:
            view.liveness.suspect(peer, now)
        if isinstance(routed.message, JoinRing):
            if routed.origin.id == view.me.id:
                self._joiner.failed(peer, now)
            return
        back = Routed(routed.key, routed.origin, routed.hops - 1, routed.message)
        if isinstance(routed.message, FindReplicas):
            self._lookup.on_request(back, now)
        else:
            self._router.forward(back, now)
