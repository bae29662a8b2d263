"""Messages of the forest.  Kinds 48 to 79."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from protocol.membership import MAX_VOUCHER
from protocol.messages import EMPTY, Contact, Digest, Id, Message, Natural, Value, register
from protocol.signing import Seal

from .heads import Head, Members, Metrics, Order, Warrant

MAX_CLAIMS = 2048
"""Contributors whose statements fit one message: so many one child can hand in for."""

MAX_DEPTH = 64
LEAP = 64
"""Epochs by which a candidate may be ahead of what a voter has promised or seen proven: they grow by ones."""

FAR = 1 << 24
"""A leap that no history explains: whoever says such an epoch is counted against."""

Path = Annotated[tuple[Id, ...], msgspec.Meta(max_length=MAX_DEPTH)]


class WaveId(NamedTuple):
    """Fences a reduce: a later tuple makes all earlier ones history."""

    epoch: Natural
    round: Natural
    wave: Natural


NO_WAVE = WaveId(0, 0, 0)
"""Before any wave: real ones belong to an epoch of at least 1."""


class Partial(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What travels up: a value with an associative, commutative merge.  Never an average (overlay.md 5b)."""

    weight: float
    value: Value
    contributors: Annotated[tuple[Id, ...], msgspec.Meta(max_length=MAX_CLAIMS)]
    """As many as can prove themselves in one message; a root that adds up several partials may have more."""
    metrics: Metrics = {}
    """Sums: ``loss`` is the weighted sum, divided by ``weight`` only at the root."""


class Claim(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A contributor's statement that it hands in to one wave (``pubsub.claims``)."""

    digest: Digest
    """Of its own value, weight and metrics."""
    parent: Id
    """To whom it handed them."""
    seal: Seal
    voucher: Annotated[bytes, msgspec.Meta(max_length=MAX_VOUCHER)] = b""
    """An authority's signature over the contributor's id (``protocol.membership``)."""


@register(48, 64 * 1024)
class TreeJoin(Message):
    """Routed towards the application, intercepted by any member on the way; or sent straight to a candidate.

    A place is given only to who asks on its own link.  ``wave`` and ``orphan`` count there alone.
    """

    app: Id
    joiner: Contact
    attempt: Natural
    """Grows from join to join by steps that nobody can guess; answers repeat it."""
    wave: WaveId | None = None
    """The wave in which the joiner has already handed in its partial, if any: nothing is expected of it there."""
    head: Head | None = None
    """The newest head that the joiner knows, in outline: how a rendezvous learns who the voters are."""
    orphan: bool = False
    """The closest node does not serve: stand in for it, as one of the voters."""
    seal: Seal | None = None
    """The joiner's, in a join that is routed (``joins.statement``)."""
    voucher: Annotated[bytes, msgspec.Meta(max_length=MAX_VOUCHER)] = b""
    """The joiner's, beside its seal: it is a member of the fabric (``protocol.membership``)."""


@register(49, 4096)
class TreeAccept(Message):
    """You are my child.  ``path`` leads from the root to me."""

    app: Id
    attempt: Natural
    path: Path


@register(50, 8192)
class TreeRefuse(Message):
    """No place here.  Try ``candidates`` in order; when there are none, route again after a pause."""

    app: Id
    attempt: Natural
    candidates: Annotated[tuple[Contact, ...], msgspec.Meta(max_length=3)] = ()
    unknown: bool = False
    """I have never heard of this application: whoever has its descriptor is to show it to me and ask again."""


@register(51, 128)
class TreeLeave(Message):
    """I am not your child (or not your parent) in this tree any more."""

    app: Id
    attempt: Natural = 0
    """From a child: the last of its joins that this takes back, so that a leave which crosses with a newer join, or
    with its acceptance, undoes nothing.  From a parent: 0."""


@register(52, 4096)
class TreeBeat(Message):
    """From parent to child, now and then: the path to the root and where we are.

    It repairs what was lost: a child that did not ask for this parent answers ``TreeLeave``, one that missed a wave
    or a commit answers ``TreeWant``.
    """

    app: Id
    path: Path
    wave: WaveId
    committed: Order
    """Of the newest head that the parent knows to be committed."""
    awaits: bool = False
    """The parent still waits for the child's answer to ``wave``."""
    remaining: Natural = 0
    """ns for which it will go on waiting; 0 when it does not know."""


@register(53, 128)
class TreeWant(Message):
    """Send me the present wave and the newest head again."""

    app: Id


@register(54, 512 * 1024)
class WaveOpen(Message):
    """Down the tree: work on this, and hand in what you have."""

    app: Id
    wave: WaveId
    head: Head
    """The last committed head: its model is what this wave works on, unless ``earlier`` names another."""
    remaining: int
    """ns until the sender wants the answer; 0 when there is no history yet and quorum decides."""
    closed: Members = ()
    """Those whose contribution to this round the root already holds, from earlier waves."""
    order: Annotated[bytes, msgspec.Meta(max_length=8192)] = b""
    """What the role machines are to do (``fl.messages.Order``); opaque to the tree."""
    earlier: Value = EMPTY
    """The model of an earlier round, when that is what this wave works on: the head is sealed, and stays as it is."""

    @property
    def model(self) -> Value:
        """What this wave works on."""
        return self.earlier if self.earlier.size else self.head.model

    @property
    def follows(self) -> bool:
        """Is it a wave of the round after the head, or of round 0, in which the data is described before there is any?
        A wave of a later round would keep who believes it away from all rounds until then."""
        rounds = (0, 1) if self.head.round == 0 else (self.head.round + 1,)
        return self.wave.epoch == self.head.epoch and self.wave.round in rounds


@register(55, 768 * 1024)
class WaveUp(Message):
    """Up the tree: the partial of my whole subtree, or None when there is nothing.  Once per wave, to one parent."""

    app: Id
    wave: WaveId
    partial: Partial | None
    absent: Natural = 0
    """Members of the subtree that should have answered and did not."""
    claims: Annotated[tuple[Claim, ...], msgspec.Meta(max_length=MAX_CLAIMS)] = ()
    """One for each contributor of ``partial``, in the same order."""


@register(56, 640 * 1024)
class Committed(Message):
    """Down the tree: a majority of voters holds this head.  Contributions to its round may be forgotten."""

    head: Head


@register(57, 64 * 1024)
class Stale(Message):
    """What you said belongs to a dead epoch.  Counted, not punished.

    From a voter it is a refusal, its own and nobody else's.  What anybody says of a newer epoch counts for as much as
    the head proves that comes with it.
    """

    app: Id
    epoch: Natural
    """The newest that the sender has promised, or knows to have had a root."""
    head: Head | None = None
    """The newest committed head that the sender knows, in outline."""


@register(58, 128)
class HeadQuery(Message):
    """Who is the root, as far as you know, would you follow another, and what is the newest head you have seen?"""

    app: Id
    full: bool = False
    """Send the head with its values, when they are there."""


@register(59, 640 * 1024)
class HeadAnswer(Message):
    app: Id
    root: Contact | None
    """Whom the sender last promised to follow; the sender itself when it is the root."""
    head: Head | None
    """The newest head that the sender knows to be committed; in outline, when its values were not asked for."""
    hears: bool = False
    """The sender is a voter and would promise nothing to who asks: it stays with ``root``; where none is named, others
    have their turn."""


@register(60, 2048)
class Prepare(Message):
    """A candidate asks a voter to follow it in ``epoch`` and nobody before it (Paxos phase 1; Raft's vote)."""

    app: Id
    epoch: Natural
    candidate: Contact


@register(61, 640 * 1024)
class Promise(Message):
    """Durable before it is sent."""

    app: Id
    epoch: Natural
    incarnation: Natural
    """Of the candidate: a promise is for one life."""
    seal: Seal
    """The voter's, over the whole of it: ``heads.promise``."""
    accepted: Head | None = None
    """The newest head that this voter ever accepted."""
    warrant: Warrant | None = None
    """By what right it was proposed."""


@register(62, 640 * 1024)
class Accept(Message):
    """Phase 2: hold this head and its model.  ``head.proof`` says on which voters the proposal stands."""

    head: Head
    warrant: Warrant


@register(63, 512)
class Accepted(Message):
    """Durable, model included, before it is sent."""

    app: Id
    order: Order
    digest: Digest
    """Of the very head, which names the life of its root: nothing that was said to an earlier life counts."""
    seal: Seal


@register(64, 64 * 1024)
class Reign(Message):
    """From the root to its voters, now and then: I am still the root, and this is the last head that I committed.

    A voter that hears it promises nothing to others; one that follows another by now answers ``Stale``.
    """

    head: Head
    over: bool = False
    """The root steps down: vote for whom you like."""


@register(65, 256)
class Holding(Message):
    """From a voter whose content is still on its way: an answer to a repeated ``Accept``.  It counts as life."""

    app: Id
    order: Order


@register(66, 128)
class Withdraw(Message):
    """From a candidate that has not won ``epoch`` and gives it up, to those who promised it: vote for whom you like."""

    app: Id
    epoch: Natural


@register(72, 128)
class Hold(Message):
    """From a submitter to a voter: do you hold, durably, what the descriptor names?"""

    app: Id


@register(73, 128)
class Held(Message):
    """A voter's answer.  ``whole``: the descriptor, code and first model are on its disk, durable before it says so;
    otherwise they are on their way, which counts as life."""

    app: Id
    whole: bool
