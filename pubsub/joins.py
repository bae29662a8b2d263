"""Joins, and what may be made of those that others carry.

A join looks for a place and therefore travels through nodes that the joiner does not know, and that may lie: repeat it,
change it, invent one.  So

-   *nobody asks in another's name*, or in that of a node that does not exist: the joiner seals application, itself and
    the attempt, and shows that it was endorsed.  Every node on the way has to check that before it passes the join on;
    a join that does not hold is therefore the doing of the very peer that handed it over, which is blamed;
-   *what was carried finds a place and takes none*: the member that it meets answers whom to ask, mostly itself, and
    the joiner then asks on its own link, like everywhere else in its descent.  Until it does nothing has changed: no
    slot, no attempt, nobody to wait for, no root forgotten.  A join that is repeated, later or at other nodes, makes
    somebody say "ask me" to a node that did not ask, which ignores it;
-   *who carries keeps a pace*, and so does who asks, at every hop: nobody uses up what an honest relay may carry.  An
    attempt that is not newer than the last one that passed here goes no further.

A join over the joiner's own link, directly or as the first hop of its route, is the joiner's own word and is answered
at once.  In a small fabric, where the first hop is mostly the root, nothing costs a message more than without all this.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from dht.ports import Verdict
from protocol.effects import Outbox
from protocol.errors import Code
from protocol.ids import AppId, NodeId
from protocol.membership import Roll, Standing
from protocol.messages import Contact
from protocol.signing import Sealer

from .config import TreeConfig
from .messages import TreeJoin, TreeRefuse
from .paces import Paces
from .ports import Overlay

DOMAIN = "tree-join"

MAX_RELAYS = 1024
MAX_ASKERS = 4096
MAX_SEEN = 4096
"""Joiners, per application, of whom the last attempt is remembered."""

_encode = msgspec.msgpack.Encoder().encode


def statement(join: TreeJoin) -> bytes:
    """The bytes that are sealed: who asks, where it can be reached, and which of its joins this is.  The head in a join
    proves itself, and the rest counts on the joiner's own link only."""
    return _encode((join.app, join.joiner, join.attempt))


def sealed(sealer: Sealer, voucher: bytes, join: TreeJoin) -> TreeJoin:
    """This node's ``join``, fit to be carried by others."""
    return msgspec.structs.replace(join, seal=sealer.seal(DOMAIN, statement(join)), voucher=voucher)


def standing(sealer: Sealer, roll: Roll, join: TreeJoin) -> Standing:
    """Did its joiner make it, and is the joiner a member?  Total.  About 0.2 ms, and as much for each new joiner."""
    if join.seal is None or not sealer.check(join.joiner.id, join.seal, DOMAIN, statement(join)):
        return Standing.FORGED
    return roll.standing(join.joiner.id, join.voucher)


class Part(Protocol):
    """A node's part in one application (``Grove``)."""

    def takes(self, message: TreeJoin) -> bool: ...
    def on_join(self, message: TreeJoin, now: int) -> None: ...
    def on_carried(self, message: TreeJoin, now: int) -> None: ...


class Parts(Protocol):
    """All of them (``Forest``)."""

    @property
    def me(self) -> Contact: ...
    @property
    def config(self) -> TreeConfig: ...
    @property
    def ring(self) -> Overlay: ...
    @property
    def out(self) -> Outbox: ...
    @property
    def sealer(self) -> Sealer: ...
    @property
    def roll(self) -> Roll: ...
    @property
    def known(self) -> Collection[AppId]: ...
    @property
    def groves(self) -> Mapping[AppId, Part]: ...
    def grove(self, app: AppId, now: int) -> Part | None: ...
    def join(self, app: AppId, now: int) -> None: ...
    def count(self, name: str) -> None: ...


class Joins:
    """The joins that reach one node."""

    __slots__ = ("_askers", "_joiners", "_parts", "_relays", "_seen")

    def __init__(self, parts: Parts) -> None:
        config = parts.config
        self._parts = parts
        self._relays = Paces(config.relay_burst, config.relay_pause, MAX_RELAYS)
        self._joiners = Paces(config.joiner_burst, config.joiner_pause, MAX_RELAYS)
        self._askers = Paces(config.join_burst, config.join_pause, MAX_ASKERS)
        self._seen: dict[bytes, tuple[int, int]] = {}
        """Application and joiner → incarnation and attempt of the newest join that was carried here."""

    # ---- carried ----------------------------------------------------------------------------------------------------

    def passing(self, relay: NodeId, join: TreeJoin, now: int) -> Verdict:
        """A join on its way: a member answers it, unless the joiner stands above it.  One's own goes on."""
        parts = self._parts
        if relay == parts.me.id:
            return Verdict.CONTINUE
        if not self._sound(relay, join, now):
            return Verdict.CONSUME
        grove = parts.groves.get(join.app)
        if join.joiner.id != parts.me.id and grove is not None and grove.takes(join):
            self.arrived(relay, join, now)
            return Verdict.CONSUME
        if relay == join.joiner.id and not join.joiner.dialable:
            return self._host(join, now)
        return Verdict.CONTINUE

    def arrived(self, relay: NodeId, join: TreeJoin, now: int) -> None:
        """A join that passed: it met a member, or this node is the rendezvous."""
        parts = self._parts
        parts.ring.learn(join.joiner)
        if relay == join.joiner.id:
            self._asked(join, now)
        elif (grove := parts.grove(join.app, now)) is not None:
            grove.on_carried(join, now)
        else:
            self._unknown(join)

    def _sound(self, relay: NodeId, join: TreeJoin, now: int) -> bool:
        """Is it to be passed on, or answered?  What costs least is asked first."""
        parts = self._parts
        if not self._relays.take(relay, now):
            parts.count("joins_paced")
            return False
        key, newest = join.app + join.joiner.id, (join.joiner.incarnation, join.attempt)
        if newest <= self._seen.get(key, (-1, 0)):
            parts.count("joins_repeated")
            return False
        found = standing(parts.sealer, parts.roll, join)
        if found is not Standing.MEMBER:
            parts.count("joins_unproven")
            if found is Standing.FORGED:
                parts.out.penalize(relay, Code.BAD_SIGNATURE, "join that its joiner did not make")
            return False
        if not self._joiners.take(join.joiner.id, now):
            parts.count("joins_paced")
            return False
        self._seen.pop(key, None)
        self._seen[key] = newest
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        return True

    def _host(self, join: TreeJoin, now: int) -> Verdict:
        """An outbound-only node reaches the tree through its gateway, which is this node: become a member for it."""
        parts = self._parts
        if join.app not in parts.known:
            return Verdict.CONTINUE
        parts.join(join.app, now)
        parts.out.send(join.joiner.id, TreeRefuse(join.app, join.attempt))
        return Verdict.CONSUME

    # ---- on the joiner's own link -----------------------------------------------------------------------------------

    def direct(self, peer: NodeId, join: TreeJoin, now: int) -> None:
        if join.joiner.id == peer:
            self._asked(join, now)
        else:
            self._parts.out.penalize(peer, Code.UNAUTHORISED, "join in the name of another")

    def _asked(self, join: TreeJoin, now: int) -> None:
        parts = self._parts
        if not self._askers.take(join.app + join.joiner.id, now):
            parts.count("joins_paced")
        elif (grove := parts.grove(join.app, now)) is not None:
            grove.on_join(join, now)
        else:
            self._unknown(join)

    def _unknown(self, join: TreeJoin) -> None:
        """To be closest to an id does not mean to have its descriptor: the joiner has it, or it would not join."""
        self._parts.out.send(join.joiner.id, TreeRefuse(join.app, join.attempt, unknown=True))
