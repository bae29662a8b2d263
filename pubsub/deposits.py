"""What no head carries, on several disks: the code of an application and the model that it starts from.

Both lie on the submitter's disk when the descriptor is published, and any one machine may burn.  So every voter that
the descriptor names fetches and pins them as soon as it learns the descriptor, from the submitter or from the other
voters, and goes on trying until it has them.  A voter that is elected later does so when a proven head names it; the
first model is of no use by then, unless no round is committed yet.  They are let go when the application is over.

Whoever submits asks the voters (``Hold``), again and again with a growing pause, until each has said ``Held``.  A voter
says so when the artifacts, its note that it keeps them, and the descriptor before it, are durable; until then it says
that they are on their way.  With a majority the application needs its submitter no more: whatever majority of the
voters survives, one of it has them.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from protocol.effects import Outbox
from protocol.ids import AppId, BlobId, NodeId
from protocol.messages import Value

from .config import TreeConfig
from .holdings import Holdings
from .messages import Held, Hold, TreeRefuse
from .ports import Genesis, Roles

MAX_ASKERS = 8
"""Nodes that are told when a deposit is complete: the submitter, and whoever asks before it is."""
MAX_SILENCE = 16
"""Times that voters are asked without an answer from anybody."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[BlobId])


class _Deposit:
    """One application's, here."""

    __slots__ = ("askers", "durable", "missing", "pinned", "tries")

    def __init__(self, missing: list[Value]) -> None:
        self.missing = missing
        """Still to be fetched, the first one now."""
        self.pinned: list[BlobId] = []
        self.durable = False
        self.askers: dict[NodeId, None] = {}
        self.tries = 0


class _Question:
    """What the voters of one application said to its submitter."""

    __slots__ = ("coming", "held", "tries", "voters")

    def __init__(self, voters: tuple[NodeId, ...]) -> None:
        self.voters = voters
        self.held: dict[NodeId, None] = {}
        self.coming: dict[NodeId, None] = {}
        self.tries = 0


class Deposits:
    """All that this node keeps for applications, and what it wants to know of others' deposits."""

    __slots__ = ("_config", "_count", "_genesis", "_holdings", "_kept", "_me", "_out", "_questions", "_roles")

    def __init__(
        self,
        me: NodeId,
        config: TreeConfig,
        *,
        out: Outbox,
        holdings: Holdings,
        roles: Roles,
        genesis: Callable[[AppId], Genesis | None],
        count: Callable[[str], None],
    ) -> None:
        """``genesis``: the descriptor of an application that is not over, None when it is not known here."""
        self._me, self._config, self._out, self._holdings, self._roles = me, config, out, holdings, roles
        self._genesis, self._count = genesis, count
        self._kept: dict[AppId, _Deposit] = {}
        self._questions: dict[AppId, _Question] = {}

    # ---- at a voter -------------------------------------------------------------------------------------------------

    @staticmethod
    def key(app: AppId) -> str:
        """Name of the durable note."""
        return "kept/" + app.hex()

    def restore(self, app: AppId, value: bytes) -> None:
        """Raises msgspec.MsgspecError when ``value`` is no note: the store is corrupt."""
        deposit = self._kept[app] = _Deposit([])
        deposit.pinned, deposit.durable = _decoder.decode(value), True
        for blob in deposit.pinned:
            self._out.pin(blob)

    def keep(self, genesis: Genesis, now: int, *, begun: bool = False) -> None:
        """Hold what ``genesis`` names until the application is over.  ``begun``: its first model is history."""
        if genesis.app in self._kept:
            return
        values = (genesis.bundle,) if begun else (genesis.bundle, genesis.initial)
        named = list({value.blob: value for value in values if value.blob}.values())
        if named:
            self._begin(genesis.app, named, now)

    def _begin(self, app: AppId, named: list[Value], now: int) -> None:
        self._kept[app] = _Deposit(named)
        self._fetch(app, now)

    def _fetch(self, app: AppId, now: int) -> None:
        """Bring the next one here; when none is missing, note it."""
        deposit, genesis = self._kept.get(app), self._genesis(app)
        if deposit is None or genesis is None:
            return
        if not deposit.missing:
            self._out.store(self.key(app), _encoder.encode(deposit.pinned))
            return
        value = deposit.missing[0]

        def here(at: int) -> None:
            if self._kept.get(app) is deposit and deposit.missing[:1] == [value]:
                self._out.pin(value.blob)
                deposit.pinned.append(value.blob)
                del deposit.missing[0]
                deposit.tries = 0
                self._fetch(app, at)

        def failed(at: int) -> None:
            if self._kept.get(app) is deposit and deposit.missing[:1] == [value]:
                pause = min(self._config.answer_wait << min(deposit.tries, 8), self._config.deposit_limit)
                deposit.tries += 1
                self._out.set_timer(("tree.deposit", app), at + pause)

        self._holdings.ensure(value, value.size, genesis.sources(self._me), here, now, failed=failed)

    def on_stored(self, app: AppId) -> None:
        """The note is durable, and what it names."""
        deposit = self._kept.get(app)
        if deposit is None or deposit.missing:
            return
        deposit.durable = True
        for peer in deposit.askers:
            self._out.send(peer, Held(app, True))
        deposit.askers.clear()

    def on_hold(self, peer: NodeId, message: Hold, now: int) -> None:
        """Somebody asks whether it is here."""
        app, genesis = message.app, self._genesis(message.app)
        if genesis is None:
            self._out.send(peer, TreeRefuse(app, 0, unknown=True))
            return
        if all(voter.id != self._me for voter in genesis.voters):
            self._count("deposits_elsewhere")
            return
        self.keep(genesis, now)
        if app not in self._kept:
            self._begin(app, [], now)  # the descriptor is all there is, and the note comes after it
        deposit = self._kept[app]
        if not deposit.durable and len(deposit.askers) < MAX_ASKERS:
            deposit.askers[peer] = None
        self._out.send(peer, Held(app, deposit.durable))

    def release(self, app: AppId) -> None:
        """The application is over, or forgotten: what it named goes when room is needed."""
        if self._questions.pop(app, None) is not None:
            self._out.cancel_timer(("tree.hold", app))
        deposit = self._kept.pop(app, None)
        if deposit is None:
            return
        self._out.cancel_timer(("tree.deposit", app))
        for blob in deposit.pinned:
            self._out.unpin(blob)
        self._out.store(self.key(app), None)

    # ---- at the submitter -------------------------------------------------------------------------------------------

    def ask(self, app: AppId, now: int) -> None:
        """Find out who holds it; each answer is told to the role (``Roles.deposited``)."""
        genesis = self._genesis(app)
        if genesis is not None:
            self._questions[app] = _Question(tuple(voter.id for voter in genesis.voters))
            self._ask(app, now)

    def _ask(self, app: AppId, now: int) -> None:
        question = self._questions[app]
        if question.tries >= MAX_SILENCE:
            del self._questions[app]
            return
        for voter in question.voters:
            if voter not in question.held:
                self._out.send(voter, Hold(app))
        pause = min(self._config.answer_wait << min(question.tries, 8), self._config.retry_limit)
        question.tries += 1
        self._out.set_timer(("tree.hold", app), now + pause)

    def on_held(self, peer: NodeId, message: Held, now: int) -> None:
        """A voter's answer; it counts as life."""
        question = self._questions.get(message.app)
        if question is None or peer not in question.voters:
            self._count("answers_unasked")
            return
        question.tries = min(question.tries, 4)
        question.coming.pop(peer, None)
        if message.whole:
            question.held[peer] = None
        elif peer not in question.held:
            question.coming[peer] = None
        if len(question.held) == len(question.voters):
            del self._questions[message.app]
            self._out.cancel_timer(("tree.hold", message.app))
        self._roles.deposited(message.app, tuple(question.held), tuple(question.coming), now)

    # ---- time -------------------------------------------------------------------------------------------------------

    def on_timer(self, name: str, app: AppId, now: int) -> None:
        if name == "tree.deposit":
            self._fetch(app, now)
        elif app in self._questions:
            self._ask(app, now)

    def __len__(self) -> int:
        return len(self._kept)
