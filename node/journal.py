"""What happened to applications, for people: status, rounds, models with their lineage; and who is listening.

The machines keep what the protocol needs and tell the rest (``fl.notices``).  The journal keeps what a person asks for
afterwards: the last rounds of each application with contributors and metrics, durable, so that the history of a run
survives the daemon (:mod:`node.history`).  It decides nothing, and losing it loses no model.

*Rounds and models.*  Round r of a run makes version ``base`` + r of the model, where ``base`` versions of the name had
been made before; its metrics are those of the training (``train_``) and, of the model that it started from, what the
nodes measured.  Version r is thus measured in round r + 1.  A closing round trains no more: it measures the model that
the run ends with, which is the best one when the run was stopped early, else the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from dht.records import Kind
from fl import metrics
from fl.messages import Ailment, Complaint
from fl.notices import Concluded, Declined, RecordChanged, RoleChanged, RoundCommitted, StatusChanged, Troubled
from fl.records import decode_spec
from fl.spec import AppSpec
from protocol.errors import UsageError
from protocol.ids import AppId, NodeId
from protocol.messages import Contact

from .history import CARD, ID, KEEP_ROUNDS, ROUND, Card, Entry, History, Run, card_of, entry_of
from .names import pick
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
from .subscriptions import Lost, Subscription

KEEP_MODELS = 2
"""Versions of each application's model that are kept (DESIGN section 8)."""
MAX_BACKLOG = 256
"""Events that wait for one follower; a slower one is told how many it missed."""
STRAGGLE_S = 2.0
"""Seconds for which the last round may lag behind the news that the application has finished."""
_TRAINING = "train_"

_encoder = msgspec.msgpack.Encoder()
_entries = msgspec.msgpack.Decoder(Entry)
_cards = msgspec.msgpack.Decoder(Card)


class Journal:
    """Fed with notices, asked by the control API.  All methods are called on the loop."""

    def __init__(
        self,
        restored: Mapping[str, bytes],
        unix_time: Callable[[], float],
        *,
        me: NodeId = b"",
        trusted: Callable[[bytes], bool] = lambda owner: True,
    ) -> None:
        """``restored``: what the batches of earlier lives made durable; what does not decode is left out.
        ``trusted`` says of an owner whether this node's operator lets its code run here."""
        self._time, self._trusted = unix_time, trusted
        self._batch: dict[str, bytes | None] = {}
        self._runs = History(me, trusted, self._forgotten)
        for key in sorted(restored):
            try:
                if key.startswith(ROUND):
                    app_id = bytes.fromhex(key.removeprefix(ROUND).partition("/")[0])
                    entry = _entries.decode(restored[key])
                    self._runs.run(app_id).rounds.append(entry)
                elif key.startswith(CARD):
                    run = self._runs.run(bytes.fromhex(key.removeprefix(CARD)))
                    run.restored(_cards.decode(restored[key]))
            except (ValueError, msgspec.MsgspecError):
                continue

    def _forgotten(self, run: Run) -> None:
        run.hub.close()
        for entry in run.rounds:
            self._batch[run.key(entry)] = None
        if run.saved:
            self._batch[run.card_key] = None

    # ---- taking in --------------------------------------------------------------------------------------------------

    def notice(self, notice: Any) -> dict[str, bytes | None]:
        """Note ``notice`` and tell the followers; answers what must be made durable (None deletes)."""
        if isinstance(notice, RecordChanged) and notice.record.kind == Kind.APP:
            spec = decode_spec(notice.record.body)
            if spec is not None:
                run = self._runs.run(spec.id)
                run.described(spec)
                self._runs.known_as(run, card_of(spec))
        elif isinstance(notice, StatusChanged):
            app = self._app(notice.app)
            # Whoever finishes has nothing to explain.
            app.turned(notice if notice.status != "finished" else StatusChanged(notice.app, "finished"))
            app.hub.publish(_status_event(app))
        elif isinstance(notice, Declined):
            self._app(notice.app).declined(notice.why)
        elif isinstance(notice, Troubled):
            self._troubled(notice)
        elif isinstance(notice, Concluded):
            self._concluded(notice)
        elif isinstance(notice, RoleChanged):
            app = self._app(notice.app)
            app.plays(notice)
            app.hub.publish(_role_event(app))
        elif isinstance(notice, RoundCommitted):
            self._committed(notice)
        batch, self._batch = self._batch, {}
        return batch

    def _troubled(self, notice: Troubled) -> None:
        app = self._app(notice.app)
        known = {(one.node, one.sentence) for one in app.troubles}
        app.troubled(notice.complaints)
        for one in notice.complaints:
            if (one.node, one.sentence) not in known:
                app.hub.publish(TroubleEvent(app=app.name, trouble=_trouble(one)))

    def _concluded(self, notice: Concluded) -> None:
        self._app(notice.app).concluded(notice.head)

    def _committed(self, notice: RoundCommitted) -> None:
        run, head = self._app(notice.app), notice.head
        run.guarded(head)
        if head.round == 0 or (run.rounds and head.round <= run.rounds[-1].round):
            return
        entry = entry_of(head, metrics.means(notice.metrics), run.card is None or run.card.evaluate, self._time())
        if len(run.rounds) == KEEP_ROUNDS:
            self._batch[run.key(run.rounds[0])] = None
        run.rounds.append(entry)
        self._batch[run.key(entry)] = _encoder.encode(entry)
        if run.keep():
            self._batch[run.card_key] = _encoder.encode(run.card)
        run.hub.publish(_round_event(run, entry))

    def _app(self, app_id: AppId) -> Run:
        return self._runs.run(app_id)

    # ---- answering --------------------------------------------------------------------------------------------------

    def resolve(self, reference: str) -> AppId:
        """The application of that name, or whose id (hex) contains ``reference``.

        Of several runs under one name the one that is not over is meant.  Raises UsageError.
        """
        return bytes.fromhex(pick(self.infos(), reference).id)

    def spec(self, app_id: AppId) -> AppSpec | None:
        """The descriptor of a known application."""
        run = self._runs.get(app_id)
        return run.spec if run is not None else None

    def name(self, app_id: AppId) -> str | None:
        """What its owner calls it; None when that was never known."""
        run = self._runs.get(app_id)
        return run.card.name if run is not None and run.card is not None else None

    def infos(self) -> list[AppInfo]:
        """All applications of which it is known what they are, in the order in which they were met."""
        return [self.info(run.id) for run in self._runs if run.card is not None]

    def info(self, app_id: AppId) -> AppInfo:
        """One application of which it is known what it is."""
        run = self._runs.run(app_id)
        card, spec = run.card, run.spec
        assert card is not None
        last = run.rounds[-1] if run.rounds else None
        role = run.role if not run.over else RoleChanged(app_id, "none", None, 0, ())
        voters = run.voters or (tuple(voter.id for voter in spec.voters) if spec is not None else ())
        status = run.status.status
        if run.complete or (status == "known" and run.end is not None):
            status = "finished"
        return AppInfo(
            id=app_id.hex(),
            name=card.name,
            owner=card.owner.hex(),
            trusted=self._trusted(card.owner),
            status="refused" if run.refused and status == "known" else status,
            detail=run.status.detail,
            refused="" if run.over else run.refused,
            role=role.role,
            round=run.round,
            rounds=card.rounds,
            base=card.base,
            complete=run.complete,
            epoch=last.epoch if last else 0,
            parent=role.parent.hex() if role.parent else "",
            children=[child.hex() for child in role.children],
            voters=[voter.hex() for voter in voters],
            root=run.root.hex(),
            code=card.code.hex(),
            troubles=[] if run.over else [_trouble(one) for one in run.troubles],
        )

    def guardians(self, app_id: AppId) -> tuple[Contact, ...]:
        """Who should hold the last head: the voters of the newest head that is known, else of the descriptor."""
        run = self._runs.get(app_id)
        if run is None:
            return ()
        if run.end is not None:
            return run.end.voters
        return run.spec.voters if run.spec is not None else ()

    def models(self, held: Callable[[bytes], bool]) -> list[ModelInfo]:
        """The versions that are known, of each run oldest first; ``held`` says of a digest whether it is here."""
        return [
            _model(run, run.card, entry, measured, self._trusted(run.card.owner), held(entry.model))
            for run in self._runs if run.card is not None
            for entry, measured in _versions(run)
        ]  # fmt: skip

    def kept(self, app_id: AppId) -> list[bytes]:
        """Digests of the versions that are to be kept, newest first."""
        newest_first = dict.fromkeys(entry.model for entry in reversed(self._app(app_id).rounds))
        return list(newest_first)[:KEEP_MODELS]

    def sources(self, model: bytes) -> tuple[int, list[NodeId]]:
        """Size of the model of that digest, in bytes, and who should hold it.  Raises UsageError when it is unknown."""
        for run in self._runs:
            for entry in run.rounds:
                if entry.model == model:
                    return entry.size, list(dict.fromkeys([run.root, *run.voters]))
        raise UsageError(f"no application has a model {model.hex()[:16]}", "see `mycelia models ls`")

    async def follow(self, app_id: AppId, after: int) -> AsyncIterator[AppEvent]:
        """How things stand, beginning with the rounds above ``after``; then what happens, until it is over."""
        app = self._app(app_id)
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


async def _stragglers(app: Run, events: Subscription) -> AsyncIterator[RoundEvent]:
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


def _status_event(app: Run) -> StatusEvent:
    return StatusEvent(app=app.name, status=app.status.status, detail=app.status.detail)


def _round_event(app: Run, entry: Entry) -> RoundEvent:
    ids = entry.contributors
    return RoundEvent(
        app=app.name,
        round=entry.round,
        epoch=entry.epoch,
        contributors=[ids[start : start + ID].hex() for start in range(0, len(ids), ID)],
        weight=entry.weight,
        metrics=entry.metrics,
        closing=entry.closing,
        model=entry.model.hex(),
        at=entry.at,
    )


_KINDS: dict[Ailment, Literal["failed", "refused", "step", "crowded"]] = {
    Ailment.FAILED: "failed",
    Ailment.REFUSED: "refused",
    Ailment.STEP: "step",
    Ailment.CROWDED: "crowded",
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


def _role_event(app: Run) -> RoleEvent:
    return RoleEvent(
        app=app.name,
        role=app.role.role,
        parent=app.role.parent.hex() if app.role.parent else "",
        depth=app.role.depth,
        children=[child.hex() for child in app.role.children],
    )


def _versions(run: Run) -> Iterator[tuple[Entry, Entry | None]]:
    """Each version of the run's models: where it was made, or first seen here, and where it was measured."""
    found: dict[int, Entry] = {}
    measured: dict[int, Entry] = {}
    before = 0
    for entry in run.rounds:
        # What a round measures is the model that it started from.
        if entry.closing:
            measured[entry.maker] = entry
        elif before == entry.round - 1:
            measured.setdefault(before, entry)
        before = entry.round
        # The closing round's model is new to a node that was away when it was made.
        found.setdefault(entry.maker, entry)
    for version in sorted(found):
        yield found[version], measured.get(version)


def _model(run: Run, card: Card, entry: Entry, measured: Entry | None, trusted: bool, held: bool) -> ModelInfo:
    """``measured`` is the round in which the nodes measured the model that ``entry`` speaks of."""
    training = {name: value for name, value in entry.metrics.items() if name.startswith(_TRAINING)}
    after = measured.metrics if measured is not None else {}
    return ModelInfo(
        name=card.name,
        version=card.base + entry.maker,
        app=run.id.hex(),
        owner=card.owner.hex(),
        trusted=trusted,
        held=held,
        final=run.complete and entry.model == run.rounds[-1].model,
        blob=entry.model.hex(),
        size=entry.size,
        round=entry.maker,
        rounds=card.rounds,
        contributors=len(entry.contributors) // ID,
        weight=entry.weight,
        metrics={**{name: value for name, value in after.items() if not name.startswith(_TRAINING)}, **training},
        code=card.code.hex(),
        parent=card.parent,
        created=entry.at,
    )
