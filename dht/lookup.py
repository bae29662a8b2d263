"""Finding the live daemons closest to a key, by asking the key's owner.

A search is repeated until answered, a few times.  A leaf member cannot be reached by the owner, so its gateway asks on
its behalf and hands the answer down the link that the leaf member dialled.
"""

from __future__ import annotations

from protocol.ids import NodeId
from protocol.messages import Routed

from .messages import FindReplicas, Replicas
from .routing import Router
from .view import View

_PENDING = 64
_MAX_COUNT = 32


class _Search:
    __slots__ = ("asker", "count", "due", "key", "token", "tries")

    def __init__(self, asker: NodeId | None, token: int, key: bytes, count: int, due: int) -> None:
        self.asker = asker
        """The leaf member that asked us to ask; None when the layer above did."""
        self.token = token
        self.key = key
        self.count = count
        self.due = due
        self.tries = 1


class Lookup:
    """Replica searches under way here."""

    __slots__ = ("_next", "_router", "_searches", "_view")

    def __init__(self, view: View, router: Router) -> None:
        self._view = view
        self._router = router
        self._searches: dict[int, _Search] = {}
        self._next = 0

    @property
    def busy(self) -> bool:
        return bool(self._searches)

    def find(self, token: int, key: bytes, count: int, now: int, asker: NodeId | None = None) -> None:
        self._next += 1
        number = self._next
        if len(self._searches) >= _PENDING:
            del self._searches[next(iter(self._searches))]
        due = now + self._view.config.probe_retry
        self._searches[number] = _Search(asker, token, key, min(count, _MAX_COUNT), due)
        self._ask(number, now)

    def _ask(self, number: int, now: int) -> None:
        search = self._searches[number]
        self.on_request(Routed(search.key, self._view.me, 0, FindReplicas(number, search.count)), now)

    def on_request(self, routed: Routed, now: int) -> None:
        """A hop of a search, our own included."""
        request = routed.message
        assert isinstance(request, FindReplicas)
        view = self._view
        if not routed.origin.dialable and routed.origin.id != view.me.id:
            if routed.hops == 1:
                self.find(request.token, routed.key, request.count, now, asker=routed.origin.id)
            return
        hop = self._router.next_hop(routed.key)
        if hop is not None:
            self._router.send(hop.id, routed, now)
        elif not view.ready:
            self._router.hold(routed, now)
        else:
            answer = Replicas(request.token, tuple(view.closest(routed.key, min(request.count, _MAX_COUNT))))
            if routed.origin.id == view.me.id:
                self.on_answer(answer, now)
            else:
                view.learn(routed.origin)
                view.out.send(routed.origin.id, answer)

    def on_answer(self, message: Replicas, now: int) -> None:
        """Late and repeated answers find nothing that waits for them."""
        search = self._searches.pop(message.token, None)
        if search is None:
            return
        for contact in message.contacts:
            self._view.learn(contact)
        if search.asker is None:
            self._view.upcalls.replicas_found(search.token, message.contacts, now)
        else:
            self._view.out.send(search.asker, Replicas(search.token, message.contacts))

    def tick(self, now: int) -> None:
        for number, search in list(self._searches.items()):
            if search.due > now:
                continue
            if search.tries >= self._view.config.probe_tries:
                del self._searches[number]
                if search.asker is None:
                    self._view.upcalls.replicas_found(search.token, (), now)
            else:
                search.tries += 1
                search.due = now + self._view.config.probe_retry
                self._ask(number, now)
