"""What the journal keeps of each application, and whose history goes when there is too much.

A run is known by its *card*: name, owner, and what its descriptor says of models.  Card and rounds are durable
together, so models keep their names when the descriptor has expired, or was pushed out of the record table.

*Names belong to owners.*  Anybody who may publish a descriptor may call it what he likes, so a name alone says nothing:
runs are grouped by (owner, name).

*Bounds.*  :data:`MAX_APPS` in all, :data:`MAX_PER_OWNER` of one owner.  When there is no room, what is worth least
goes: a run of an owner whom nobody here trusts, and in which this node has no part, before one that matters to this
node; one that has no round here before one that has; what is over before what is not; the oldest first.  So a flood of
descriptors pushes out only itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from fl.messages import Complaint, decode_report
from fl.notices import RoleChanged, StatusChanged
from fl.spec import AppSpec
from protocol.ids import AppId, NodeId, blob_id
from protocol.messages import Value
from pubsub.heads import Head

from .service import OVER
from .subscriptions import Hub

KEEP_ROUNDS = 256
"""Rounds per application; with a thousand contributors each, 4 MB."""
MAX_APPS = 512
MAX_PER_OWNER = 256
ROUND, CARD = "round/", "run/"
"""Beginnings of durable keys."""
ID = 16


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One committed round, as it is stored."""

    round: int
    epoch: int
    contributors: bytes
    """Ids, 16 bytes each, joined."""
    weight: float
    metrics: dict[str, float]
    model: bytes
    """Digest of the model's content."""
    size: int
    at: float
    """Unix seconds."""
    closing: bool = False
    """The last measurement: the model is that of an earlier round."""
    last: bool = False
    """No round comes after this one."""
    made: int = 0
    """The round that made the model; 0 in histories of earlier versions, where it is the round before a closing one."""

    @property
    def maker(self) -> int:
        """The round that made the model."""
        return self.made or self.round - self.closing


class Card(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a descriptor says of its models."""

    name: str
    owner: bytes
    rounds: int
    base: int
    """Versions of the name that were made before this run."""
    code: bytes
    """Digest of the bundle; empty when there is none."""
    parent: str
    evaluate: bool


def card_of(spec: AppSpec) -> Card:
    code = digest(spec.bundle) if spec.bundle.size else b""
    return Card(spec.name, spec.owner, spec.rounds, spec.base, code, spec.parent_model, spec.evaluate)


def digest(value: Value) -> bytes:
    """The name of a model's content, whether it rode inline or as an artifact."""
    return value.blob or blob_id(value.inline)


def entry_of(head: Head, metrics: dict[str, float], evaluates: bool, at: float) -> Entry:
    """A committed head for the history.  The model of a closing head is the best one, or the last."""
    closing = head.finished and evaluates
    return Entry(
        round=head.round,
        epoch=head.epoch,
        contributors=b"".join(head.contributors),
        weight=head.weight,
        metrics=metrics,
        model=digest(head.model),
        size=head.model.size,
        at=at,
        closing=closing,
        last=head.finished,
        made=(decode_report(head.report).made if head.finished else 0) or head.round - closing,
    )


class Run:
    """What is known of one application."""

    __slots__ = (
        "card", "end", "hub", "id", "refused", "role", "root", "rounds", "saved", "spec", "status", "troubles",
        "voters",
    )  # fmt: skip

    def __init__(self, app_id: AppId) -> None:
        self.id = app_id
        self.hub = Hub()
        self.spec: AppSpec | None = None
        self.card: Card | None = None
        self.saved = False
        """Whether the card is durable."""
        self.status = StatusChanged(app_id, "known")
        self.role = RoleChanged(app_id, "none", None, 0, ())
        self.refused = ""
        self.rounds: deque[Entry] = deque(maxlen=KEEP_ROUNDS)
        self.end: Head | None = None
        """The last head in outline, as others told."""
        self.voters: tuple[NodeId, ...] = ()
        self.root = b""
        self.troubles: tuple[Complaint, ...] = ()
        """Who cannot contribute, as the root said last."""

    # ---- news ----

    def restored(self, card: Card) -> None:
        """An earlier life of the node kept ``card``."""
        self.card, self.saved = card, True

    def known_as(self, card: Card) -> None:
        self.card = card

    def keep(self) -> bool:
        """There is something worth keeping of it: has its card to be made durable?"""
        lacking = self.card is not None and not self.saved
        self.saved |= lacking
        return lacking

    def described(self, spec: AppSpec) -> None:
        self.spec = spec

    def turned(self, status: StatusChanged) -> None:
        self.status = status

    def declined(self, why: str) -> None:
        """This node does not work for it; empty: it does."""
        self.refused = why

    def plays(self, role: RoleChanged) -> None:
        self.role = role

    def troubled(self, complaints: tuple[Complaint, ...]) -> None:
        self.troubles = complaints

    def guarded(self, head: Head) -> None:
        """Who holds its newest head."""
        self.voters, self.root = tuple(voter.id for voter in head.voters), head.root.id

    def concluded(self, head: Head) -> None:
        """Others told of its last head."""
        self.end = head
        self.guarded(head)

    # ---- questions ----

    @property
    def name(self) -> str:
        return self.card.name if self.card is not None else self.id.hex()

    @property
    def owner(self) -> bytes:
        return self.card.owner if self.card is not None else b""

    @property
    def over(self) -> bool:
        return self.status.status in OVER

    @property
    def complete(self) -> bool:
        """Is the last round here?"""
        return bool(self.rounds) and self.rounds[-1].last

    @property
    def round(self) -> int:
        """The last round of training that is known to be committed."""
        known = self.rounds[-1].round - self.rounds[-1].closing if self.rounds else 0
        evaluates = self.card is None or self.card.evaluate
        told = self.end.round - evaluates if self.end is not None else 0
        return max(known, told)

    def took_part(self, me: NodeId) -> bool:
        """Is the work of ``me`` in one of its rounds?"""
        ids = (entry.contributors for entry in self.rounds)
        return any(me in {part[start : start + ID] for start in range(0, len(part), ID)} for part in ids)

    def key(self, entry: Entry) -> str:
        # Padded, so that the order of keys is the order of rounds.
        return f"{ROUND}{self.id.hex()}/{entry.round:08d}"

    @property
    def card_key(self) -> str:
        return f"{CARD}{self.id.hex()}"


class History:
    """The runs, within their bounds."""

    def __init__(self, me: NodeId, trusted: Callable[[bytes], bool], forgotten: Callable[[Run], None]) -> None:
        """``trusted``: may this owner's applications run code here?  ``forgotten`` is told of each run that goes."""
        self._me, self._trusted, self._forgotten = me, trusted, forgotten
        self._runs: dict[AppId, Run] = {}

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def get(self, app: AppId) -> Run | None:
        return self._runs.get(app)

    def run(self, app: AppId) -> Run:
        """The run of that id, made when it is new; another one may go for it."""
        run = self._runs.get(app)
        if run is None:
            if len(self._runs) >= MAX_APPS:
                self._forget(min(self._runs.values(), key=self._worth))
            run = self._runs[app] = Run(app)
        return run

    def known_as(self, run: Run, card: Card) -> None:
        """Note what ``run`` is; if its owner has too many now, the oldest other one that is over goes."""
        run.known_as(card)
        others = [other for other in self._runs.values() if other.owner == card.owner and other is not run]
        if len(others) >= MAX_PER_OWNER:
            self._forget(min(others, key=lambda other: not other.over))

    def _worth(self, run: Run) -> tuple[bool, bool, bool]:
        """What is worth least goes first; of equals, `min` finds the oldest."""
        trusted = run.card is not None and self._trusted(run.card.owner)
        return trusted or run.took_part(self._me), bool(run.rounds), not run.over

    def _forget(self, run: Run) -> None:
        del self._runs[run.id]
        self._forgotten(run)
