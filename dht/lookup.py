"""Finding the live daemons closest to a key, without believing anybody in particular.

The key's owner is asked over two routes whose first hops differ, under random tokens, and again over others when no
answer comes.  What the answers name together with what this node knows itself are candidates, nearest first.  A
candidate counts when it was heard from: over a link, which only the endorsed holder of an id can have
(``node.identity.certificates``).  So a liar on one route can name neither nodes that do not exist nor nodes in the
place of nearer ones, since the other route names those.

A liar on all routes can still leave nearer nodes out and name accomplices instead.  That shows in the *density*: ids
are spread evenly, so nodes that are closest to some key lie about as far apart as the leaves of this node do (Castro et
al., OSDI 2002, section 4.3).  A result that does not fit is asked for again over other routes, and in the end refused.

A leaf member cannot be reached by the owner, so its gateway asks on its behalf and hands the answer down the link that
the leaf member dialled.  Whom it names, the leaf member finds out for itself.
"""

from __future__ import annotations

from protocol.ids import NodeId, closeness, distance
from protocol.messages import Contact, Routed

from .messages import FindReplicas, Ping, Replicas
from .routing import Router
from .view import View

_OWN = 32
"""Searches of the layer above under way at once."""
_SERVED = 32
"""Searches of leaf members under way at once."""
_PER_LEAF = 4
"""Of them, searches of one leaf member."""
_MAX_COUNT = 32
_CANDIDATES = 64
_DRAWS = 8
"""Tries at finding another first hop."""
_SPARSE = 7
"""The ``count`` closest nodes lie within so many spacings more than ``count`` of the key, but for one time in 10^6."""
_DENSE = 32
"""They do not lie within ``count / _DENSE`` spacings of it, but for one time in 10^4 …"""
_DENSE_COUNT = 4
"""… from so many on: fewer may well."""


class _Search:
    __slots__ = ("asked", "asker", "count", "due", "failed", "found", "key", "open", "proven", "token", "tries")

    def __init__(self, asker: NodeId | None, token: int, key: bytes, count: int) -> None:
        self.asker = asker
        """The leaf member that asked us to ask; None when the layer above did."""
        self.token = token
        self.key = key
        self.count = count
        self.due = 0
        self.tries = 0
        self.open: dict[int, None] = {}
        """Tokens of questions without an answer."""
        self.found: dict[NodeId, Contact] = {}
        """Whom the answers named."""
        self.asked: dict[NodeId, int] = {}
        """Candidates that were pinged, and how often."""
        self.proven: dict[NodeId, None] = {}
        self.failed: dict[NodeId, None] = {}


class Lookup:
    """Replica searches under way here."""

    __slots__ = ("_router", "_searches", "_view", "refused")

    def __init__(self, view: View, router: Router) -> None:
        self._view = view
        self._router = router
        self._searches: list[_Search] = []
        self.refused = 0
        """Results that did not fit the density of the ring."""

    @property
    def busy(self) -> bool:
        return bool(self._searches)

    def find(self, token: int, key: bytes, count: int, now: int, asker: NodeId | None = None) -> None:
        """Begin a search; when there are too many, the one that began first is given up."""
        alike = [search for search in self._searches if (search.asker is None) == (asker is None)]
        same = [search for search in alike if asker is not None and search.asker == asker]
        if len(same) >= _PER_LEAF:
            self._end(same[0], (), now)
        elif len(alike) >= (_OWN if asker is None else _SERVED):
            self._end(alike[0], (), now)
        search = _Search(asker, token, key, min(count, _MAX_COUNT))
        self._searches.append(search)
        self._ask(search, now)

    # ---- questions ----

    def _ask(self, search: _Search, now: int) -> None:
        """Over the ring's own route and over one that begins elsewhere; later over two that begin elsewhere."""
        view = self._view
        search.tries += 1
        search.due = now + view.config.probe_retry
        search.open.clear()
        direct = self._router.next_hop(search.key)
        first = None if search.tries == 1 else self._elsewhere(direct, None)
        second = self._elsewhere(direct, first)
        tokens = [view.stream.token() for _ in range(2 if second is not None else 1)]
        search.open.update(dict.fromkeys(tokens))
        for token, hop in zip(tokens, (first, second), strict=False):
            routed = Routed(search.key, view.me, 0, FindReplicas(token, min(2 * search.count, _MAX_COUNT)))
            if hop is None:
                self.on_request(routed, now)
            else:
                self._router.send(hop.id, routed, now)

    def _elsewhere(self, direct: Contact | None, other: Contact | None) -> Contact | None:
        """A first hop that is neither; None where there is no choice, or none is needed because the key is ours."""
        view = self._view
        pool = [*view.leaves.snapshot(), *view.table.entries()]
        if direct is None or not view.me.dialable or not pool:
            return None
        for _ in range(_DRAWS):
            hop = view.stream.choice(pool)
            if hop.id not in (direct.id, other.id if other is not None else b"") and view.usable(hop.id):
                return hop
        return None

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

    # ---- answers ----

    def on_answer(self, message: Replicas, now: int) -> None:
        """Late, repeated and uninvited answers find nothing that waits for them."""
        search = next((search for search in self._searches if message.token in search.open), None)
        if search is None:
            return
        del search.open[message.token]
        for contact in message.contacts:
            if not self._view.foreign(contact):
                search.found.setdefault(contact.id, contact)
        nearest = sorted(search.found.values(), key=lambda contact: closeness(search.key, contact.id))
        search.found = {contact.id: contact for contact in nearest[:_CANDIDATES]}
        if not search.open:
            self._weigh(search, now)

    def _candidates(self, search: _Search) -> list[Contact]:
        """Who is closest, as far as anybody said: nearest first, those that did not answer left out."""
        own = {contact.id: contact for contact in self._view.closest(search.key, search.count)}
        known = {peer: contact for peer, contact in (search.found | own).items() if peer not in search.failed}
        return sorted(known.values(), key=lambda contact: closeness(search.key, contact.id))[: search.count]

    def _weigh(self, search: _Search, now: int) -> None:
        """Are the closest ones known, and are they really there?"""
        view, closest = self._view, self._candidates(search)
        if search.asker is not None:
            self._end(search, tuple(closest), now)
            return
        unproven = [contact for contact in closest if not self._is_proven(search, contact.id)]
        for contact in unproven:
            if contact.id not in search.asked:
                self._ping(search, contact)
        if unproven:
            return
        if self._plausible(search.key, closest, search.count):
            self._end(search, tuple(closest), now)
        elif search.tries >= view.config.probe_tries:
            self.refused += 1
            self._end(search, (), now)
        else:
            self._ask(search, now)

    def _is_proven(self, search: _Search, peer: NodeId) -> bool:
        view = self._view
        return peer == view.me.id or peer in view.leaves or peer in search.proven

    def _ping(self, search: _Search, contact: Contact) -> None:
        """Its answer comes over a link that only the holder of its id can have."""
        search.asked[contact.id] = search.asked.get(contact.id, 0) + 1
        self._view.learn(contact)
        self._view.out.send(contact.id, Ping(self._view.stream.token()))

    def heard(self, peer: NodeId, now: int) -> None:
        """``peer`` said something over its link, so it exists."""
        for search in [search for search in self._searches if peer in search.asked and peer not in search.proven]:
            search.proven[peer] = None
            if not search.open:
                self._weigh(search, now)

    def unreachable(self, peer: NodeId, now: int) -> None:
        """A ping to ``peer`` could not be sent."""
        for search in [search for search in self._searches if peer in search.asked and peer not in search.failed]:
            search.failed[peer] = None
            if not search.open:
                self._weigh(search, now)

    def _plausible(self, key: bytes, closest: list[Contact], count: int) -> bool:
        """Do they lie about as far apart as nodes do where this one is?"""
        spacing = self._view.leaves.spacing
        if spacing == 0:
            # Everybody is known here.
            return True
        reach = max((distance(key, contact.id) for contact in closest), default=0)
        return (
            len(closest) >= count
            and reach <= (count + _SPARSE) * spacing
            and (count < _DENSE_COUNT or reach * _DENSE >= count * spacing)
        )

    def _end(self, search: _Search, contacts: tuple[Contact, ...], now: int) -> None:
        self._searches.remove(search)
        if search.asker is not None:
            self._view.out.send(search.asker, Replicas(search.token, contacts))
            return
        for contact in contacts:
            self._view.learn(contact)
        self._view.upcalls.replicas_found(search.token, contacts, now)

    def tick(self, now: int) -> None:
        """What was not answered in time is asked again, a few times."""
        tries = self._view.config.probe_tries
        for search in [search for search in self._searches if search.due <= now]:
            search.due = now + self._view.config.probe_retry
            if not search.open:
                self._ping_again(search, now)
            elif search.found:
                # One route is enough when the other one leads nowhere: what it names is checked all the same.
                search.open.clear()
                self._weigh(search, now)
            elif search.tries >= tries:
                self._end(search, (), now)
            else:
                self._ask(search, now)

    def _ping_again(self, search: _Search, now: int) -> None:
        for contact in self._candidates(search):
            if self._is_proven(search, contact.id):
                continue
            if search.asked.get(contact.id, 0) >= self._view.config.probe_tries:
                search.failed[contact.id] = None
            else:
                self._ping(search, contact)
        self._weigh(search, now)
