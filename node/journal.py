"""What happened to applications, for people: status, rounds, models with their lineage; and who is listening.

The machines keep what the protocol needs and tell the rest (``fl.notices``).  The journal keeps what a person asks for
afterwards: the last :data:`KEEP_ROUNDS` rounds of each application with contributors and metrics, durable, so that the
history of a run survives the daemon.  It decides nothing, and losing it loses no model.

A follower gets its own queue of :data:`MAX_BACKLOG` events.  One that falls behind is told how many it missed; the
daemon waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import msgspec

from dht.records import Kind
from fl import metrics
from fl.applications import decode_spec
from fl.notices import RecordChanged, RoleChanged, RoundCommitted, StatusChanged
from fl.spec import AppSpec
from protocol.errors import UsageError
from protocol.ids import AppId, NodeId, blob_id
from protocol.messages import Value

from .service import AppEvent, AppInfo, LaggedEvent, ModelInfo, RoleEvent, RoundEvent, StatusEvent

KEEP_ROUNDS = 256
"""Rounds per application; with a thousand contributors each, 4 MB."""
KEEP_MODELS = 2
"""Versions of each application's model that are kept (DESIGN section 8)."""
MAX_APPS = 512
MAX_BACKLOG = 256
OVER = ("finished", "stopped")
_PREFIX = "round/"
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


_entries = msgspec.msgpack.Decoder(Entry)


class _App:
    """What is known of one application."""

    __slots__ = ("role", "root", "rounds", "spec", "status", "voters")

    def __init__(self) -> None:
        self.spec: AppSpec | None = None
        self.status = StatusChanged(b"", "known")
        self.role = RoleChanged(b"", "none", None, 0, ())
        self.rounds: deque[Entry] = deque(maxlen=KEEP_ROUNDS)
        self.voters: tuple[NodeId, ...] = ()
        self.root = b""


class Journal:
    """Fed with notices, asked by the control API.  All methods are called on the loop."""

    def __init__(self, restored: Mapping[str, bytes], unix_time: Callable[[], float]) -> None:
        """``restored``: what the batches of earlier lives made durable; what does not decode is left out."""
        self._time = unix_time
        self._apps: dict[AppId, _App] = {}
        self._followers: dict[AppId, list[_Follower]] = {}
        self._batch: dict[str, bytes | None] = {}
        for key in sorted(restored):
            app, _, _ = key.removeprefix(_PREFIX).partition("/")
            try:
                entry = _entries.decode(restored[key])
            except msgspec.MsgspecError:
                continue
            self._apps.setdefault(bytes.fromhex(app), _App()).rounds.append(entry)

    # ---- taking in --------------------------------------------------------------------------------------------------

    def notice(self, notice: Any) -> dict[str, bytes | None]:
        """Note ``notice`` and tell the followers; answers what must be made durable (None deletes)."""
        if isinstance(notice, RecordChanged) and notice.record.kind == Kind.APP:
            spec = decode_spec(notice.record.body)
            if spec is not None:
                self._app(spec.id).spec = spec
        elif isinstance(notice, StatusChanged):
            self._app(notice.app).status = notice
            self._tell(notice.app, lambda name: StatusEvent(app=name, status=notice.status, detail=notice.detail))
        elif isinstance(notice, RoleChanged):
            self._app(notice.app).role = notice
            self._tell(notice.app, lambda name: _role_event(name, notice))
        elif isinstance(notice, RoundCommitted):
            self._committed(notice)
        batch, self._batch = self._batch, {}
        return batch

    def _committed(self, notice: RoundCommitted) -> None:
        app, head = self._app(notice.app), notice.head
        app.voters, app.root = tuple(voter.id for voter in head.voters), head.root.id
        if head.round == 0 or (app.rounds and head.round <= app.rounds[-1].round):
            return
        entry = Entry(
            round=head.round,
            epoch=head.epoch,
            contributors=b"".join(notice.contributors),
            weight=head.weight,
            metrics=metrics.means(notice.metrics),
            model=digest(head.model),
            size=head.model.size,
            at=self._time(),
        )
        if len(app.rounds) == KEEP_ROUNDS:
            self._batch[_key(notice.app, app.rounds[0])] = None
        app.rounds.append(entry)
        self._batch[_key(notice.app, entry)] = _encoder.encode(entry)
        self._tell(notice.app, lambda name: _round_event(name, entry))

    def _app(self, app_id: AppId) -> _App:
        app = self._apps.get(app_id)
        if app is None:
            if len(self._apps) >= MAX_APPS:
                self._forget()
            app = self._apps[app_id] = _App()
        return app

    def _forget(self) -> None:
        """Drop the oldest application that is over, or the oldest of all."""
        over = (key for key, app in self._apps.items() if app.status.status in OVER)
        app_id = next(over, next(iter(self._apps)))
        for entry in self._apps.pop(app_id).rounds:
            self._batch[_key(app_id, entry)] = None

    # ---- answering --------------------------------------------------------------------------------------------------

    def resolve(self, reference: str) -> AppId:
        """The application of that name, or whose id (hex) contains ``reference``.

        Of several runs under one name the one that is not over is meant.  Raises UsageError.
        """
        named = [key for key, app in self._apps.items() if app.spec is not None and app.spec.name == reference]
        found = named or [key for key in self._apps if reference in key.hex()]
        if len(found) > 1:
            found = [key for key in found if self._apps[key].status.status not in OVER] or found
        if not found:
            raise UsageError(f"this node knows no application {reference}", "see `mycelia ls`")
        if len(found) > 1:
            raise UsageError(f"{len(found)} applications are called {reference}", "use the id that `mycelia ls` shows")
        return found[0]

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
        return AppInfo(
            id=app_id.hex(),
            name=app.spec.name,
            owner=app.spec.owner.hex(),
            status=app.status.status,
            detail=app.status.detail,
            role=app.role.role,
            round=last.round if last else 0,
            rounds=app.spec.rounds,
            epoch=last.epoch if last else 0,
            parent=app.role.parent.hex() if app.role.parent else "",
            children=[child.hex() for child in app.role.children],
            voters=[voter.hex() for voter in app.voters or tuple(voter.id for voter in app.spec.voters)],
            root=app.root.hex(),
        )

    def models(self, held: Callable[[bytes], bool]) -> Iterator[ModelInfo]:
        """The versions whose content is here, as ``held`` says of a digest; oldest first."""
        for app_id, app in self._apps.items():
            for entry in app.rounds:
                if app.spec is not None and held(entry.model):
                    yield _model(app_id, app.spec, entry)

    def kept(self, app_id: AppId) -> list[bytes]:
        """Digests of the versions that are to be kept, newest first."""
        rounds = list(self._apps[app_id].rounds)
        return [entry.model for entry in reversed(rounds[-KEEP_MODELS:])]

    async def follow(self, app_id: AppId, after: int) -> AsyncIterator[AppEvent]:
        """Rounds above ``after`` that are known, then what happens, until the application is over."""
        app = self._apps[app_id]
        name = app.spec.name if app.spec is not None else app_id.hex()
        # As of now: what comes while the past is being told waits in the queue.
        past, status = list(app.rounds), app.status
        follower = _Follower(name)
        self._followers.setdefault(app_id, []).append(follower)
        try:
            for entry in past:
                if entry.round > after:
                    yield _round_event(name, entry)
            if status.status in OVER:
                yield StatusEvent(app=name, status=status.status, detail=status.detail)
                return
            async for event in follower.events():
                yield event
                if isinstance(event, StatusEvent) and event.status in OVER:
                    return
        finally:
            self._followers[app_id].remove(follower)
            if not self._followers[app_id]:
                del self._followers[app_id]

    def _tell(self, app_id: AppId, event: Callable[[str], AppEvent]) -> None:
        followers = self._followers.get(app_id, ())
        for follower in followers:
            follower.put(event(follower.name))


class _Follower:
    """The bounded queue of one who follows an application."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._events: deque[AppEvent] = deque()
        self._missed = 0
        self._news = asyncio.Event()

    def put(self, event: AppEvent) -> None:
        if len(self._events) >= MAX_BACKLOG:
            self._events.popleft()
            self._missed += 1
        self._events.append(event)
        self._news.set()

    async def events(self) -> AsyncIterator[AppEvent]:
        while True:
            await self._news.wait()
            self._news.clear()
            if self._missed:
                missed, self._missed = self._missed, 0
                yield LaggedEvent(app=self.name, missed=missed)
            while self._events:
                yield self._events.popleft()


def digest(value: Value) -> bytes:
    """The name of a model's content, whether it rode inline or as an artifact."""
    return value.blob or blob_id(value.inline)


def _key(app_id: AppId, entry: Entry) -> str:
    # Padded, so that the order of keys is the order of rounds.
    return f"{_PREFIX}{app_id.hex()}/{entry.round:08d}"


def _round_event(name: str, entry: Entry) -> RoundEvent:
    ids = entry.contributors
    return RoundEvent(
        app=name,
        round=entry.round,
        epoch=entry.epoch,
        contributors=[ids[start : start + _ID].hex() for start in range(0, len(ids), _ID)],
        weight=entry.weight,
        metrics=entry.metrics,
        model=entry.model.hex(),
        at=entry.at,
    )


def _role_event(name: str, notice: RoleChanged) -> RoleEvent:
    return RoleEvent(
        app=name,
        role=notice.role,
        parent=notice.parent.hex() if notice.parent else "",
        depth=notice.depth,
        children=[child.hex() for child in notice.children],
    )


def _model(app_id: AppId, spec: AppSpec, entry: Entry) -> ModelInfo:
    return ModelInfo(
        name=spec.name,
        version=entry.round,
        app=app_id.hex(),
        blob=entry.model.hex(),
        size=entry.size,
        rounds=spec.rounds,
        contributors=len(entry.contributors) // _ID,
        weight=entry.weight,
        metrics=entry.metrics,
        code=digest(spec.bundle).hex() if spec.bundle.size else "",
        parent=spec.parent_model,
        created=entry.at,
    )
