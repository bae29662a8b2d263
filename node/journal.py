"""What happened to applications, for people: status, rounds, models with their lineage; and who is listening.

The machines keep what the protocol needs and tell the rest (``fl.notices``).  The journal keeps what a person asks for
afterwards: the last :data:`KEEP_ROUNDS` rounds of each application with contributors and metrics, durable, so that the
history of a run survives the daemon.  It decides nothing, and losing it loses no model.

*Rounds and models.*  Round r makes version r of the model; its metrics are those of the training (``train_``) and, of
the model that it started from, what the nodes measured.  Version r is thus measured in round r + 1, the last one in a
closing round that trains no more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from itertools import islice, zip_longest
from typing import Any, Literal

import msgspec

from dht.records import Kind
from fl import metrics
from fl.applications import decode_spec
from fl.messages import Ailment, Complaint
from fl.notices import Declined, RecordChanged, RoleChanged, RoundCommitted, StatusChanged, Troubled
from fl.spec import AppSpec
from protocol.errors import UsageError
from protocol.ids import AppId, NodeId, blob_id
from protocol.messages import Value

from .service import (
    OVER,
    AppEvent,
    AppInfo,
    LaggedEvent,
    ModelInfo,
    RoleEvent,
    RoundEvent,
    StatusEvent,
    TroubleEvent,
    TroubleInfo,
)
from .subscriptions import Hub, Lost, Subscription

KEEP_ROUNDS = 256
"""Rounds per application; with a thousand contributors each, 4 MB."""
KEEP_MODELS = 2
"""Versions of each application's model that are kept (DESIGN section 8)."""
MAX_APPS = 512
MAX_BACKLOG = 256
"""Events that wait for one follower; a slower one is told how many it missed."""
STRAGGLE_S = 2.0
"""Seconds for which the last round may lag behind the news that the application has finished."""
_PREFIX = "round/"
_TRAINING = "train_"
_ID = 16

_encoder = msgspec.msgpack.Encoder()


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
    """The last measurement: the model is that of the round before."""
    last: bool = False
    """No round comes after this one."""


_entries = msgspec.msgpack.Decoder(Entry)


class _App:
    """What is known of one application."""

    __slots__ = ("hub", "id", "refused", "role", "root", "rounds", "spec", "status", "troubles", "voters")

    def __init__(self, app_id: AppId) -> None:
        self.id = app_id
        self.hub = Hub()
        self.spec: AppSpec | None = None
        self.status = StatusChanged(app_id, "known")
        self.role = RoleChanged(app_id, "none", None, 0, ())
        self.refused = ""
        self.rounds: deque[Entry] = deque(maxlen=KEEP_ROUNDS)
        self.voters: tuple[NodeId, ...] = ()
        self.root = b""
        self.troubles: tuple[Complaint, ...] = ()
        """Who cannot contribute, as the root said last."""

    @property
    def name(self) -> str:
        return self.spec.name if self.spec is not None else self.id.hex()

    @property
    def over(self) -> bool:
        return self.status.status in OVER


class Journal:
    """Fed with notices, asked by the control API.  All methods are called on the loop."""

    def __init__(self, restored: Mapping[str, bytes], unix_time: Callable[[], float]) -> None:
        """``restored``: what the batches of earlier lives made durable; what does not decode is left out."""
        self._time = unix_time
        self._apps: dict[AppId, _App] = {}
        self._batch: dict[str, bytes | None] = {}
        for key in sorted(restored):
            if not key.startswith(_PREFIX):
                continue
            try:
                app_id = bytes.fromhex(key.removeprefix(_PREFIX).partition("/")[0])
                entry = _entries.decode(restored[key])
            except (ValueError, msgspec.MsgspecError):
                continue
            self._app(app_id).rounds.append(entry)

    # ---- taking in --------------------------------------------------------------------------------------------------

    def notice(self, notice: Any) -> dict[str, bytes | None]:
        """Note ``notice`` and tell the followers; answers what must be made durable (None deletes)."""
        if isinstance(notice, RecordChanged) and notice.record.kind == Kind.APP:
            spec = decode_spec(notice.record.body)
            if spec is not None:
                self._app(spec.id).spec = spec
        elif isinstance(notice, StatusChanged):
            app = self._app(notice.app)
            # Whoever finishes has nothing to explain.
            app.status = notice if notice.status != "finished" else StatusChanged(notice.app, "finished")
            app.hub.publish(_status_event(app))
        elif isinstance(notice, Declined):
            self._app(notice.app).refused = notice.why
        elif isinstance(notice, Troubled):
            self._troubled(notice)
        elif isinstance(notice, RoleChanged):
            app = self._app(notice.app)
            app.role = notice
            app.hub.publish(_role_event(app))
        elif isinstance(notice, RoundCommitted):
            self._committed(notice)
        batch, self._batch = self._batch, {}
        return batch

    def _troubled(self, notice: Troubled) -> None:
        app = self._app(notice.app)
        known = {(one.node, one.sentence) for one in app.troubles}
        app.troubles = notice.complaints
        for one in notice.complaints:
            if (one.node, one.sentence) not in known:
                app.hub.publish(TroubleEvent(app=app.name, trouble=_trouble(one)))

    def _committed(self, notice: RoundCommitted) -> None:
        app, head = self._app(notice.app), notice.head
        app.voters, app.root = tuple(voter.id for voter in head.voters), head.root.id
        if head.round == 0 or (app.rounds and head.round <= app.rounds[-1].round):
            return
        model = digest(head.model)
        entry = Entry(
            round=head.round,
            epoch=head.epoch,
            contributors=b"".join(notice.contributors),
            weight=head.weight,
            metrics=metrics.means(notice.metrics),
            model=model,
            size=head.model.size,
            at=self._time(),
            closing=head.finished and (app.spec is None or app.spec.evaluate),
            last=head.finished,
        )
        if len(app.rounds) == KEEP_ROUNDS:
            self._batch[_key(app, app.rounds[0])] = None
        app.rounds.append(entry)
        self._batch[_key(app, entry)] = _encoder.encode(entry)
        app.hub.publish(_round_event(app, entry))

    def _app(self, app_id: AppId) -> _App:
        app = self._apps.get(app_id)
        if app is None:
            if len(self._apps) >= MAX_APPS:
                self._forget()
            app = self._apps[app_id] = _App(app_id)
        return app

    def _forget(self) -> None:
        """Drop the oldest application that is over, or the oldest of all."""
        over = (key for key, app in self._apps.items() if app.over)
        app = self._apps.pop(next(over, next(iter(self._apps))))
        app.hub.close()
        for entry in app.rounds:
            self._batch[_key(app, entry)] = None

    # ---- answering --------------------------------------------------------------------------------------------------

    def resolve(self, reference: str) -> AppId:
        """The application of that name, or whose id (hex) contains ``reference``.

        Of several runs under one name the one that is not over is meant.  Raises UsageError.
        """
        known = [app for app in self._apps.values() if app.spec is not None]
        found = [app for app in known if app.name == reference] or [app for app in known if reference in app.id.hex()]
        if len(found) > 1:
            found = [app for app in found if not app.over] or found
        if not found:
            raise UsageError(f"this node knows no application {reference}", "see `mycelia ls`")
        if len(found) > 1:
            raise UsageError(f"{len(found)} applications are called {reference}", "use the id that `mycelia ls` shows")
        return found[0].id

    def spec(self, app_id: AppId) -> AppSpec | None:
        """The descriptor of a known application."""
        app = self._apps.get(app_id)
        return app.spec if app is not None else None

    def infos(self) -> list[AppInfo]:
        """All applications whose descriptor is known, in the order in which they were met."""
        return [self.info(key) for key, app in self._apps.items() if app.spec is not None]

    def info(self, app_id: AppId) -> AppInfo:
        """One application whose descriptor is known."""
        app = self._apps[app_id]
        assert app.spec is not None
        last = app.rounds[-1] if app.rounds else None
        role = app.role if not app.over else RoleChanged(app_id, "none", None, 0, ())
        return AppInfo(
            id=app_id.hex(),
            name=app.name,
            owner=app.spec.owner.hex(),
            status="refused" if app.refused and app.status.status == "known" else app.status.status,
            detail=app.status.detail,
            refused="" if app.over else app.refused,
            role=role.role,
            round=last.round - last.closing if last else 0,
            rounds=app.spec.rounds,
            epoch=last.epoch if last else 0,
            parent=role.parent.hex() if role.parent else "",
            children=[child.hex() for child in role.children],
            voters=[voter.hex() for voter in app.voters or tuple(voter.id for voter in app.spec.voters)],
            root=app.root.hex(),
            code=digest(app.spec.bundle).hex() if app.spec.bundle.size else "",
            troubles=[] if app.over else [_trouble(one) for one in app.troubles],
        )

    def models(self, held: Callable[[bytes], bool]) -> Iterator[ModelInfo]:
        """The versions whose content is here, as ``held`` says of a digest; oldest first."""
        for app in self._apps.values():
            before = 0
            for entry, measured in zip_longest(app.rounds, islice(app.rounds, 1, None)):
                # The closing round's model is new to a node that was away when it was made.
                missed = entry.closing and before != entry.round - 1
                before = entry.round
                if app.spec is not None and (missed or not entry.closing) and held(entry.model):
                    yield _model(app.id, app.spec, entry, entry if missed else measured)

    def kept(self, app_id: AppId) -> list[bytes]:
        """Digests of the versions that are to be kept, newest first."""
        newest_first = dict.fromkeys(entry.model for entry in reversed(self._apps[app_id].rounds))
        return list(newest_first)[:KEEP_MODELS]

    def sources(self, model: bytes) -> tuple[int, list[NodeId]]:
        """Size of the model of that digest, in bytes, and who should hold it.  Raises UsageError when it is unknown."""
        for app in self._apps.values():
            for entry in app.rounds:
                if entry.model == model:
                    return entry.size, list(dict.fromkeys([app.root, *app.voters]))
        raise UsageError(f"no application has a model {model.hex()[:16]}", "see `mycelia models ls`")

    async def follow(self, app_id: AppId, after: int) -> AsyncIterator[AppEvent]:
        """How things stand, beginning with the rounds above ``after``; then what happens, until it is over."""
        app = self._apps[app_id]
        with app.hub.subscribe(MAX_BACKLOG) as events:
            # As of now: what comes while this is being told waits in the subscription.
            standing: list[AppEvent] = [_role_event(app)]
            standing += [_round_event(app, entry) for entry in app.rounds if entry.round > after]
            if not app.over:
                standing += [TroubleEvent(app=app.name, trouble=_trouble(one)) for one in app.troubles]
            standing.append(_status_event(app))
            over = app.over
            for event in standing:
                yield event
            if over:
                return
            async for event in events:
                if isinstance(event, StatusEvent) and event.status in OVER:
                    async for round_ in _stragglers(app, events):
                        yield round_
                    yield event
                    return
                yield LaggedEvent(app=app.name, missed=event.count) if isinstance(event, Lost) else event


async def _stragglers(app: _App, events: Subscription) -> AsyncIterator[RoundEvent]:
    """Rounds that the news of the end, which travels another way, has overtaken."""
    clock = asyncio.get_running_loop().time
    until = clock() + STRAGGLE_S
    while app.status.status == "finished" and not (app.rounds and app.rounds[-1].last):
        try:
            event = await asyncio.wait_for(anext(events), until - clock())
        except (TimeoutError, StopAsyncIteration):
            return
        if isinstance(event, RoundEvent):
            yield event


def digest(value: Value) -> bytes:
    """The name of a model's content, whether it rode inline or as an artifact."""
    return value.blob or blob_id(value.inline)


def _key(app: _App, entry: Entry) -> str:
    # Padded, so that the order of keys is the order of rounds.
    return f"{_PREFIX}{app.id.hex()}/{entry.round:08d}"


def _status_event(app: _App) -> StatusEvent:
    return StatusEvent(app=app.name, status=app.status.status, detail=app.status.detail)


def _round_event(app: _App, entry: Entry) -> RoundEvent:
    ids = entry.contributors
    return RoundEvent(
        app=app.name,
        round=entry.round,
        epoch=entry.epoch,
        contributors=[ids[start : start + _ID].hex() for start in range(0, len(ids), _ID)],
        weight=entry.weight,
        metrics=entry.metrics,
        closing=entry.closing,
        model=entry.model.hex(),
        at=entry.at,
    )


_KINDS: dict[Ailment, Literal["failed", "refused", "step"]] = {
    Ailment.FAILED: "failed",
    Ailment.REFUSED: "refused",
    Ailment.STEP: "step",
}


def _trouble(one: Complaint) -> TroubleInfo:
    return TroubleInfo(
        node=one.node.hex(),
        name=one.name,
        kind=_KINDS[one.kind],
        round=one.round,
        sentence=one.sentence,
        trace=one.trace,
    )


def _role_event(app: _App) -> RoleEvent:
    return RoleEvent(
        app=app.name,
        role=app.role.role,
        parent=app.role.parent.hex() if app.role.parent else "",
        depth=app.role.depth,
        children=[child.hex() for child in app.role.children],
    )


def _model(app_id: AppId, spec: AppSpec, entry: Entry, measured: Entry | None) -> ModelInfo:
    """``measured`` is the round in which the nodes measured the model that ``entry`` speaks of."""
    version = entry.round - entry.closing
    training = {name: value for name, value in entry.metrics.items() if name.startswith(_TRAINING)}
    after = measured.metrics if measured is not None and measured.round == version + 1 else {}
    return ModelInfo(
        name=spec.name,
        version=version,
        app=app_id.hex(),
        blob=entry.model.hex(),
        size=entry.size,
        rounds=spec.rounds,
        contributors=len(entry.contributors) // _ID,
        weight=entry.weight,
        metrics={**{name: value for name, value in after.items() if not name.startswith(_TRAINING)}, **training},
        code=digest(spec.bundle).hex() if spec.bundle.size else "",
        parent=spec.parent_model,
        created=entry.at,
    )
