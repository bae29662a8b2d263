"""Messages of the forest.  Kinds 48 to 79."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from protocol.messages import EMPTY, Contact, Id, Message, Natural, Value, register

MAX_MEMBERS = 16384
"""Contributors that one partial may name."""

MAX_METRICS = 64
MAX_NAME = 64
"""Characters in the name of a metric."""

MAX_DEPTH = 64
MAX_VOTERS = 9
MAX_LEAP = 1 << 16
"""Epochs by which a message may be ahead of what its receiver knows: they grow by ones, and a leap is a liar's attempt
to exhaust them."""

Path = Annotated[tuple[Id, ...], msgspec.Meta(max_length=MAX_DEPTH)]
Members = Annotated[tuple[Id, ...], msgspec.Meta(max_length=MAX_MEMBERS)]
Voters = Annotated[tuple[Contact, ...], msgspec.Meta(max_length=MAX_VOTERS)]
Metrics = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=MAX_NAME)], float], msgspec.Meta(max_length=MAX_METRICS)
]


class WaveId(NamedTuple):
    """Fences a reduce: a later tuple makes all earlier ones history."""

    epoch: Natural
    round: Natural
    wave: Natural


NO_WAVE = WaveId(0, 0, 0)
"""Before any wave: real ones belong to an epoch of at least 1."""


class Head(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The register of an application: what its last round decided and who guards it (DESIGN section 7)."""

    app: Id
    epoch: Natural
    """The fencing number of the root that proposed it.  Heads are ordered by (epoch, round)."""
    round: Natural
    root: Contact
    voters: Voters
    model: Value
    state: Value = EMPTY
    """Optimiser state of the server, for strategies that have one."""
    contributors: Members = ()
    """Sorted ids of those whose work is in ``model``: what a replay needs."""
    metrics: Metrics = {}
    """Sums over the contributors, each beside its weight ``NAME.n``."""
    weight: float = 0.0
    finished: bool = False
    report: Annotated[bytes, msgspec.Meta(max_length=8192)] = b""
    """What the coordinator must not forget between rounds (best metric, patience); opaque here."""

    @property
    def order(self) -> tuple[int, int]:
        return self.epoch, self.round

    def outline(self) -> Head:
        """Without the values: enough to find the voters and to know how far the application is."""
        return msgspec.structs.replace(self, model=EMPTY, state=EMPTY, contributors=(), metrics={}, report=b"")

    def lean(self) -> Head:
        """With the model only: what travels with a wave."""
        return msgspec.structs.replace(self, state=EMPTY, contributors=(), metrics={}, report=b"")


class Partial(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What travels up: a value with an associative, commutative merge.  Never an average (overlay.md 5b)."""

    weight: float
    value: Value
    contributors: Members
    metrics: Metrics = {}
    """Sums: ``loss`` is the weighted sum, divided by ``weight`` only at the root."""


@register(48, 16 * 1024)
class TreeJoin(Message):
    """Routed towards the application, intercepted by any member on the way; or sent straight to a candidate."""

    app: Id
    joiner: Contact
    attempt: Natural
    """Grows from join to join by steps that nobody can guess; answers repeat it."""
    wave: WaveId | None = None
    """The wave in which the joiner has already handed in its partial, if any: nothing is expected of it there."""
    head: Head | None = None
    """The newest head that the joiner knows: how a rendezvous learns who the voters are."""


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
    committed: tuple[Natural, Natural]
    """(epoch, round) of the newest head that the parent knows to be committed."""
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
    """The last committed head: its model is what this wave works on."""
    remaining: int
    """ns until the sender wants the answer; 0 when there is no history yet and quorum decides."""
    closed: Members = ()
    """Those whose contribution to this round the root already holds, from earlier waves."""
    order: Annotated[bytes, msgspec.Meta(max_length=8192)] = b""
    """What the role machines are to do (``fl.messages.Order``); opaque to the tree."""


@register(55, 640 * 1024)
class WaveUp(Message):
    """Up the tree: the partial of my whole subtree, or None when there is nothing.  Once per wave, to one parent."""

    app: Id
    wave: WaveId
    partial: Partial | None
    absent: Natural = 0
    """Members of the subtree that should have answered and did not."""


@register(56, 512 * 1024)
class Committed(Message):
    """Down the tree: a majority of voters holds this head.  Contributions to its round may be forgotten."""

    head: Head


@register(57, 128)
class Stale(Message):
    """What you said belongs to a dead epoch; this is the present one.  Counted, not punished."""

    app: Id
    epoch: Natural


@register(58, 128)
class HeadQuery(Message):
    """Who is the root, as far as you know, and what is the newest head you have seen?"""

    app: Id
    full: bool = False
    """Send the head with its inline values, not just its outline."""


@register(59, 512 * 1024)
class HeadAnswer(Message):
    app: Id
    root: Contact | None
    """Whom the sender last promised to follow or heard commit; the sender itself when it is the root."""
    head: Head | None
    """The newest head that the sender knows to be committed; asked for in full by a puller, the newest accepted."""
    epoch: Natural = 0
    """The newest epoch that the sender has promised or heard of."""


@register(60, 2048)
class Prepare(Message):
    """A candidate asks a voter to follow it in ``epoch`` and nobody before it (Paxos phase 1; Raft's vote)."""

    app: Id
    epoch: Natural
    candidate: Contact


@register(61, 512 * 1024)
class Promise(Message):
    """Durable before it is sent.  ``accepted`` is the newest head that this voter ever accepted."""

    app: Id
    epoch: Natural
    accepted: Head | None = None


@register(62, 512 * 1024)
class Accept(Message):
    """Phase 2: hold this head and its model."""

    head: Head


@register(63, 128)
class Accepted(Message):
    """Durable, model included, before it is sent."""

    app: Id
    epoch: Natural
    round: Natural
