"""The best model so far of each application that may stop early, on every member.

Whoever is root when a run is stopped ends it with that model, so all keep it: a reference, and a pin on the artifact.
A member that was away in the rounds that made and measured it does not have it; as root it ends the run with the last
model, and the head says so.
"""

from __future__ import annotations

from protocol.effects import Outbox
from protocol.ids import AppId
from protocol.messages import Value
from pubsub.heads import Head

from .messages import decode_report


class Bests:
    """Of one node."""

    __slots__ = ("_kept", "_out")

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._kept: dict[AppId, tuple[int, Value]] = {}

    def note(self, before: Head | None, head: Head) -> None:
        """``head`` follows ``before``: it measured, and may have found to be the best, what that had made."""
        if before is None or head.finished or head.round != before.round + 1:
            return
        if decode_report(head.report).best_round == before.round and before.model.size:
            if before.model.blob:
                self._out.pin(before.model.blob)
            self.forget(head.app)
            self._kept[head.app] = before.round, before.model

    def get(self, app: AppId, round_: int) -> Value | None:
        """The model that ``round_`` made, if it is the best and here."""
        made, model = self._kept.get(app, (0, None))
        return model if made == round_ else None

    def forget(self, app: AppId) -> None:
        kept = self._kept.pop(app, None)
        if kept is not None and kept[1].blob:
            self._out.unpin(kept[1].blob)
