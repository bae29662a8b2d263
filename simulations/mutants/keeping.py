"""Bugs of what is kept: models without holders, guardians that nobody replaces, state and news that get lost."""
# ruff: noqa: SLF001 - a planted bug has the body of the method that it replaces

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from dht.messages import Record
from fl.coordinator import Coordinator
from fl.records import Records
from protocol.ids import AppId, NodeId
from protocol.messages import EMPTY, Contact, Value
from pubsub import throne
from pubsub.deposits import Deposits
from pubsub.forest import Forest
from pubsub.messages import Partial
from pubsub.ports import Genesis
from pubsub.voter import Voter

from .planting import patched


def accepted_without_model() -> AbstractContextManager[None]:
    """A voter accepts a head before the model that it names has arrived."""

    def fetch(self: Voter, values: list[Value], peer: NodeId, then: Any, now: int) -> None:
        then(now)

    return patched(Voter, "_fetch", fetch)


def code_kept_at_home_alone() -> AbstractContextManager[None]:
    """A voter says that it holds code and first model, and leaves them where they are."""

    def keep(self: Deposits, genesis: Genesis, now: int, *, begun: bool = False) -> None:
        if genesis.app not in self._kept:
            self._begin(genesis.app, [], now)

    return patched(Deposits, "keep", keep)


def dead_voters_stay() -> AbstractContextManager[None]:
    """A root never replaces a voter."""

    def next_voters(app: AppId, voters: tuple[Contact, ...], *_: Any) -> tuple[Contact, ...]:
        return voters

    return patched(throne, "next_voters", next_voters)


def server_state_lost() -> AbstractContextManager[None]:
    """The state of the server's optimiser is not committed with the model."""
    original = Coordinator._propose

    def propose(self: Coordinator, total: Partial, model: Value, state: Value, now: int) -> None:
        original(self, total, model, EMPTY, now)

    return patched(Coordinator, "_propose", propose)


def stop_kept_to_the_tree() -> AbstractContextManager[None]:
    """Only nodes with a part in an application take notice of its owner's word that it is over."""
    original = Records._stop

    def stop(self: Records, record: Record, now: int) -> None:
        forest = self._host.forest
        if isinstance(forest, Forest) and record.subject in forest.groves:
            original(self, record, now)

    return patched(Records, "_stop", stop)
