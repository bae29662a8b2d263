"""Roles of integers: what ``fl`` does with models, done with whole numbers, so that each sum can be checked exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from protocol.effects import Outbox
from protocol.events import Timer
from protocol.ids import AppId, NodeId
from protocol.messages import Value
from pubsub.forest import Forest
from pubsub.heads import Head
from pubsub.messages import Partial, WaveId, WaveOpen
from pubsub.ports import HandedIn, OpenWave

MAX_WAVES = 3
RETRY = 1_000_000_000


class Stage(Protocol):
    """The network, as far as roles know it."""

    min_workers: int
    rounds: int

    def after(self, delay: int, happening: Callable[[], None]) -> None: ...
    def note_commit(self, head: Head) -> None: ...
    def spread(self, head: Head) -> None: ...


class Actor(Protocol):
    """The host that plays them."""

    works: bool
    training: int
    life: int
    started: bool
    frozen: list[Callable[[], None]] | None
    out: Outbox

    @property
    def id(self) -> NodeId: ...
    @property
    def net(self) -> Stage: ...
    def do(self, action: Callable[[int], object]) -> None: ...


class IntegerRoles:
    """Worker, aggregator and coordinator of one host, for all its applications."""

    forest: Forest

    def __init__(self, host: Actor) -> None:
        self._host = host
        self.remaining = 0
        """Time that this host, as root, gives its waves, ns; 0: no history."""
        self.opened: list[WaveId] = []
        self.sat_out: list[WaveId] = []
        self.trained: list[int] = []
        """Rounds in which this host really worked."""
        self.commits: list[tuple[int, int, int]] = []
        self.epochs: list[int] = []
        """Epochs in which this host became root."""
        self.deposed: list[int] = []
        self.said: list[str] = []
        self.voters: list[Head] = []
        self.deposits: list[tuple[tuple[NodeId, ...], tuple[NodeId, ...]]] = []
        """(Who holds what the descriptor names, to whom it is on its way), as it was told."""
        self.left_out: list[int] = []
        """How many found no room in what this host hands on."""
        self._kept: dict[int, Partial] = {}
        self._busy: dict[int, WaveId] = {}
        self._head: Head | None = None
        self._wave = WaveId(0, 0, 0)
        self._parts: list[Partial] = []

    # ---- numbers ----------------------------------------------------------------------------------------------------

    @staticmethod
    def number(member: NodeId, round_: int) -> int:
        """What ``member`` contributes in ``round_``."""
        return int.from_bytes(hashlib.sha256(member + round_.to_bytes(2, "big")).digest()[:4], "big")

    @staticmethod
    def integer(value: Value) -> int:
        return int.from_bytes(value.inline, "big")

    @staticmethod
    def value(number: int) -> Value:
        return Value(16, number.to_bytes(16, "big"))

    # ---- worker -----------------------------------------------------------------------------------------------------

    def wave_opened(self, app: AppId, wave: OpenWave, now: int) -> None:
        self.opened.append(wave.id)
        me, round_ = self._host.id, wave.id.round
        if not wave.may_contribute or not self._host.works or me in wave.closed:
            self.sat_out.append(wave.id)
            self.forest.contribute(app, wave.id, None, now)
        elif round_ in self._kept:
            self.forest.contribute(app, wave.id, self._kept[round_], now)
        elif round_ in self._busy:
            self._busy[round_] = wave.id
        else:
            self._busy[round_] = wave.id
            life = self._host.life
            self._host.net.after(self._host.training, lambda: self._trained(app, round_, life))

    def _trained(self, app: AppId, round_: int, life: int) -> None:
        def done(now: int) -> None:
            wave = self._busy.pop(round_, None)
            if wave is not None:
                self.trained.append(round_)
                part = Partial(1.0, self.value(self.number(self._host.id, round_)), (self._host.id,), {"c": 1.0})
                self._kept[round_] = part
                self.forest.contribute(app, wave, part, now)

        if self._host.started and self._host.life == life:
            if self._host.frozen is not None:
                self._host.frozen.append(lambda: self._host.do(done))
            else:
                self._host.do(done)

    # ---- aggregator -------------------------------------------------------------------------------------------------

    def combine(self, app: AppId, wave: WaveId, parts: Sequence[HandedIn], now: int) -> None:
        self.forest.hand_in(app, wave, self.merge([part for _, part in parts]), now)

    @classmethod
    def merge(cls, parts: Sequence[Partial]) -> Partial:
        members = sorted(member for part in parts for member in part.contributors)
        total = cls.value(sum(cls.integer(part.value) for part in parts))
        return Partial(sum(part.weight for part in parts), total, tuple(members), {"c": float(len(members))})

    # ---- coordinator ------------------------------------------------------------------------------------------------

    def rooted(self, app: AppId, head: Head, now: int) -> None:
        self.epochs.append(head.epoch)
        self._host.net.note_commit(head)
        self.committed(app, head, now)

    def crowded(self, app: AppId, wave: WaveId, members: int, now: int) -> None:
        self.left_out.append(members)

    def committed(self, app: AppId, head: Head, now: int) -> None:
        self.commits.append(head.order)
        self._kept = {round_: part for round_, part in self._kept.items() if round_ > head.round}
        self._busy = {round_: wave for round_, wave in self._busy.items() if round_ > head.round}
        if self.forest.groves[app].proposer.leading:
            self._host.net.note_commit(head)
            self._head, self._parts = head, []
            if not head.finished:
                self._open(app, head, 0, now)
        if head.finished:
            self.forest.conclude(app, now)

    def _open(self, app: AppId, head: Head, number: int, now: int) -> None:
        self._wave = WaveId(head.epoch, head.round + 1, number)
        closed = tuple(sorted(member for part in self._parts for member in part.contributors))
        message = WaveOpen(app, self._wave, head.lean(), self.remaining, closed)
        self.forest.groves[app].waves.open(message, now)

    def wave_closed(self, app: AppId, wave: WaveId, parts: Sequence[HandedIn], absent: int, now: int) -> None:
        head = self._head
        if head is None or wave != self._wave:
            return
        self._parts.extend(part for _, part in parts)
        total = self.merge(self._parts)
        if absent and wave.wave + 1 < MAX_WAVES:
            self._open(app, head, wave.wave + 1, now)
        elif len(total.contributors) < self._host.net.min_workers:
            self._host.out.set_timer(("roles.retry", app), now + RETRY)
        else:
            self.forest.groves[app].propose(self._next(head, total), now)

    def _next(self, head: Head, total: Partial) -> Head:
        last = head.round + 1 >= self._host.net.rounds
        model = self.value(self.integer(head.model) + self.integer(total.value))
        return Head(
            head.app, head.epoch, head.round + 1, head.root, head.voters, model,
            contributors=total.contributors, weight=total.weight, finished=last,
        )  # fmt: skip

    def timer(self, timer: Timer, now: int) -> bool:
        app = timer[1]
        if self._head is not None and isinstance(app, bytes) and self.forest.groves[app].proposer.leading:
            self._open(app, self._head, self._wave.wave + 1, now)
        return True

    def unrooted(self, app: AppId, epoch: int, now: int) -> None:
        self.deposed.append(epoch)
        self._head = None

    # ---- notes ------------------------------------------------------------------------------------------------------

    def tree_changed(self, app: AppId, now: int) -> None:
        pass

    def status(self, app: AppId, status: str, detail: str, now: int) -> None:
        self.said.append(status)

    def forgotten(self, app: AppId) -> None:
        self.said.append("forgotten")

    def deposited(self, app: AppId, held: tuple[NodeId, ...], coming: tuple[NodeId, ...], now: int) -> None:
        self.deposits.append((held, coming))

    def voters_changed(self, head: Head, now: int) -> None:
        """Spread as a record would be: everybody hears of it, soon."""
        self.voters.append(head)
        self._host.net.spread(head.outline())
