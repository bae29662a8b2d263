"""Who really contributed: each contributor seals what it hands in, and its seal rides up beside its id.

A statement names the application, the wave, the parent that it is made to, and a digest of what is handed in.  Every
parent checks, before it counts a partial, that each contributor named in it is a member of the fabric
(``protocol.membership``) and has made a statement about this very wave, and that a child's own statement was made to
it.  So

-   nobody can name another as a contributor, nor anybody whom the fabric's authorities never endorsed: a partial with a
    claim that does not hold is dropped, and whoever sent it is blamed, since it could have checked as well (what an
    honest node passes on has passed the same check);
-   a contributor that was revoked, or was endorsed by an authority that is not known here, is not counted either.  News
    may be under way, so nobody is blamed for the former, and for the latter only who goes on with it;
-   when two children name the same contributor, the statements tell who lied: if they differ, the contributor made
    two where it may make one, and it alone is blamed; if they are the same one, somebody repeated it, nobody can say
    who, and nobody is blamed.

Two signatures are looked at for each contributor, the voucher's only once, and that takes about 0.2 ms each.  A partial
of many is therefore looked at in slices, between which the node does other things.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

import msgspec

from protocol.effects import Outbox
from protocol.ids import AppId, NodeId
from protocol.membership import Roll, Standing
from protocol.signing import Sealer

from .messages import Claim, Partial, WaveId, WaveUp

DOMAIN = "hand-in"
SLICE = 32
"""Contributors that are checked in one step: at most some 20 ms."""

CHECK = ("tree.check", b"")
"""Timer: the next slice."""

_encode = msgspec.msgpack.Encoder().encode


def digest_of(partial: Partial) -> bytes:
    """What a statement says of one contributor's own partial."""
    value = partial.value.blob or hashlib.sha256(partial.value.inline).digest()
    return hashlib.sha256(_encode((partial.weight, value, sorted(partial.metrics.items())))).digest()


def statement(app: AppId, wave: WaveId, digest: bytes, parent: NodeId) -> bytes:
    """The bytes that are sealed."""
    return _encode((app, wave, digest, parent))


def claim(sealer: Sealer, voucher: bytes, app: AppId, wave: WaveId, own: Partial, parent: NodeId) -> Claim:
    """This node's statement that it hands ``own`` to ``parent`` in ``wave``; it makes one per wave."""
    digest = digest_of(own)
    return Claim(digest, parent, sealer.seal(DOMAIN, statement(app, wave, digest, parent)), voucher)


class Inspection:
    """The check of what ``sender`` hands to ``me``: has everybody whom it names made a statement about the wave, and is
    everybody a member?  Total."""

    __slots__ = ("_left", "_me", "_roll", "_sealer", "message", "sender")

    def __init__(self, sealer: Sealer, roll: Roll, message: WaveUp, sender: NodeId, me: NodeId) -> None:
        self._sealer, self._roll, self._me = sealer, roll, me
        self.message, self.sender = message, sender
        self._left: Iterator[tuple[NodeId, Claim]] | None = self._begin()

    def _begin(self) -> Iterator[tuple[NodeId, Claim]] | None:
        """What is to be checked one by one; None when it is clear already that it does not hold."""
        message, sender = self.message, self.sender
        assert message.partial is not None
        members = message.partial.contributors
        if len(message.claims) != len(members):
            return None
        named = dict(zip(members, message.claims, strict=True))
        if sender in named and named[sender].parent != self._me:
            return None
        if members == (sender,) and named[sender].digest != digest_of(message.partial):
            return None
        return iter(named.items())

    def step(self, limit: int = SLICE) -> Standing | None:
        """Look at ``limit`` more.  None: some are left.  Otherwise MEMBER when all is well, or the first fault."""
        if self._left is None:
            return Standing.FORGED
        for _ in range(limit):
            entry = next(self._left, None)
            if entry is None:
                return Standing.MEMBER
            standing = self._look(*entry)
            if standing is not Standing.MEMBER:
                return standing
        return None

    def _look(self, member: NodeId, one: Claim) -> Standing:
        standing = self._roll.standing(member, one.voucher)
        if standing is not Standing.MEMBER:
            return standing
        said = statement(self.message.app, self.message.wave, one.digest, one.parent)
        return Standing.MEMBER if self._sealer.check(member, one.seal, DOMAIN, said) else Standing.FORGED


Verdict = Callable[[Standing, int], None]
"""Hears how an inspection ended, and the time."""


class Inspector:
    """All inspections of one node: small ones at once, of large ones a slice at a time, in turns."""

    __slots__ = ("_me", "_out", "_queue", "_roll", "_sealer")

    def __init__(self, me: NodeId, sealer: Sealer, roll: Roll, out: Outbox) -> None:
        self._me, self._sealer, self._roll, self._out = me, sealer, roll, out
        self._queue: dict[tuple[AppId, NodeId], tuple[Inspection, Verdict]] = {}
        """At most one for each child in each tree."""

    def claim(self, app: AppId, wave: WaveId, own: Partial, parent: NodeId) -> Claim:
        """See :func:`claim`; this node's own."""
        return claim(self._sealer, self._roll.voucher, app, wave, own, parent)

    def inspect(self, sender: NodeId, message: WaveUp, then: Verdict, now: int) -> None:
        """Tell ``then`` what the claims of ``message``, which names contributors, are worth: now, or soon."""
        inspection = Inspection(self._sealer, self._roll, message, sender, self._me)
        standing = inspection.step()
        if standing is not None:
            then(standing, now)
            return
        if not self._queue:
            self._out.set_timer(CHECK, now)
        self._queue[message.app, sender] = inspection, then

    def on_timer(self, now: int) -> None:
        """One slice of whoever has waited longest; then it is another's turn."""
        if not self._queue:
            return
        name = next(iter(self._queue))
        inspection, then = self._queue.pop(name)
        standing = inspection.step()
        if standing is None:
            self._queue[name] = inspection, then
        if self._queue:
            self._out.set_timer(CHECK, now)
        if standing is not None:
            then(standing, now)

    def drop(self, app: AppId, sender: NodeId) -> bool:
        """Nobody waits for it any more.  True when it was under way."""
        return self._queue.pop((app, sender), None) is not None


def perjurers(before: Iterable[tuple[NodeId, Claim]], now: Iterable[tuple[NodeId, Claim]]) -> tuple[NodeId, ...]:
    """Those who made two different statements about one wave, all of them proven."""
    made = dict(before)
    return tuple(
        member
        for member, one in now
        if member in made and (made[member].digest, made[member].parent) != (one.digest, one.parent)
    )
