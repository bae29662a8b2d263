"""The register: at most one head per round is ever committed, whoever asks and whatever fails.

A head is *chosen* (Lamport's term) when a majority of its own voters has accepted it durably.  That is decided here
from what the voters' disks hold, not from what anybody says.  Around it stand the properties of a single voter: nothing
durable is ever taken back, nothing is said that is not durable, and one epoch is promised to one candidate.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import Any

import msgspec

from fl.messages import decode_report
from fl.notices import RoundCommitted
from fl.spec import AppSpec
from protocol.ids import AppId, NodeId, short
from protocol.messages import Contact
from pubsub.heads import Head
from pubsub.messages import Accepted, Committed, Promise
from pubsub.voter import Ballot

from ..compute import contribution
from ..host import Host
from ..world import World
from .base import Report, who

_ballots = msgspec.msgpack.Decoder(Ballot)


class Slot:
    """One proposal: all that voters accept under one (epoch, round, revision)."""

    __slots__ = ("acceptors", "chosen", "head")

    def __init__(self, head: Head) -> None:
        self.head = head
        self.acceptors: dict[NodeId, None] = {}
        self.chosen = False


class Chain:
    """The history of one application, as its voters decided it."""

    def __init__(self) -> None:
        self.slots: dict[tuple[int, int, int], Slot] = {}
        self.rounds: dict[int, Head] = {}
        """Round → the first head that was chosen for it."""
        self.order: list[tuple[int, int, int]] = []
        """(epoch, round, revision) of all chosen heads, sorted."""

    @property
    def newest(self) -> Head | None:
        return self.slots[self.order[-1]].head if self.order else None

    @property
    def finished(self) -> bool:
        return self.newest is not None and self.newest.finished


class Heads:
    """Reconstructs every application's history from its voters' disks."""

    def __init__(self, world: World, report: Report, *, exact: bool) -> None:
        self._world, self._report, self._exact = world, report, exact
        self.chains: dict[AppId, Chain] = {}
        self.on_round: list[Callable[[AppId, Head, Head, int], None]] = []
        """Called with (application, head, head of the round before, now) when a round is decided first."""
        self._ballots: dict[tuple[int, AppId], Ballot] = {}
        world.engine.disks.on_durable.append(self._durable)
        world.engine.tap(Promise, self._promise)
        world.engine.tap(Accepted, self._accepted)
        world.engine.tap(Committed, self._committed)
        world.engine.tap(RoundCommitted, self._committed)

    def sample(self, now: int) -> None:
        """Everything is checked as it happens."""

    def finish(self, now: int) -> None:
        """Everything was checked as it happened."""

    def before(self, app: AppId, round_: int) -> Head | None:
        """The head on which ``round_`` builds."""
        chain = self.chains.get(app)
        return chain.rounds.get(round_ - 1) if chain is not None else None

    def accepted_by(self, host: Host, app: AppId) -> Head | None:
        """The head that ``host`` holds as a voter, as its disk has it."""
        ballot = self._ballots.get((host.index, app))
        return ballot.accepted if ballot is not None else None

    # ---- what one voter may do ----

    def _durable(self, host: Host, key: str, value: bytes | None) -> None:
        kind, _, name = key.partition("/")
        if kind != "voter" or value is None:
            return
        app, ballot = bytes.fromhex(name), _ballots.decode(value)
        before = self._ballots.get((host.index, app), Ballot())
        self._ballots[host.index, app] = ballot
        now, report, voter = self._world.engine.now, self._report, who(host)
        report.require(
            ballot.promised >= before.promised, "promise-kept", now,
            f"{voter} promised epoch {before.promised} and went back to {ballot.promised}",
        )  # fmt: skip
        same_epoch = ballot.promised == before.promised and before.candidate is not None
        report.require(
            not same_epoch or _life(ballot.candidate) == _life(before.candidate), "one-promise-per-epoch", now,
            f"{voter} promised epoch {ballot.promised} to two candidates",
        )  # fmt: skip
        if before.accepted is not None:
            kept = ballot.accepted is not None and ballot.accepted.order >= before.accepted.order
            report.require(kept, "acceptance-kept", now, f"{voter} took back head {before.accepted.order}")
        if ballot.accepted is not None and ballot.accepted != before.accepted:
            self._accept(app, host, ballot.accepted)

    def _promise(self, now: int, host: Host, effect: Any) -> None:
        message: Promise = effect.message
        ballot = self._ballots.get((host.index, message.app), Ballot())
        promised = ballot.promised > message.epoch or (
            ballot.promised == message.epoch and ballot.candidate is not None and ballot.candidate.id == effect.peer
        )
        self._report.require(
            promised, "durable-before-said", now, f"{who(host)} promises epoch {message.epoch}, its disk knows nothing"
        )

    def _accepted(self, now: int, host: Host, effect: Any) -> None:
        message: Accepted = effect.message
        ballot = self._ballots.get((host.index, message.app), Ballot())
        durable = ballot.accepted is not None and ballot.accepted.order >= message.order
        self._report.require(
            durable, "durable-before-said", now,
            f"{who(host)} accepts head {message.order}, its disk knows nothing",
        )  # fmt: skip

    # ---- what the voters decide together ----

    def _accept(self, app: AppId, host: Host, head: Head) -> None:
        chain = self.chains.setdefault(app, Chain())
        slot = chain.slots.get(head.order)
        if slot is None:
            slot = chain.slots[head.order] = Slot(head)
        now = self._world.engine.now
        different = f"{short(app)}: two different heads {head.order} were accepted"
        self._report.require(slot.head == head, "one-root-per-epoch", now, different)
        slot.acceptors[host.id] = None
        votes = sum(voter.id in slot.acceptors for voter in head.voters)
        if not slot.chosen and 2 * votes > len(head.voters):
            slot.chosen = True
            self._choose(app, chain, slot.head, now)

    def _choose(self, app: AppId, chain: Chain, head: Head, now: int) -> None:
        insort(chain.order, head.order)
        first = chain.rounds.setdefault(head.round, head)
        self._report.require(
            _content(first) == _content(head), "one-head-per-round", now,
            f"{short(app)}: round {head.round} was committed as {first.order} and, differently, as {head.order}",
        )  # fmt: skip
        place = chain.order.index(head.order)
        for earlier, later in zip(chain.order[max(place - 1, 0) :], chain.order[max(place, 1) :][:2], strict=False):
            self._compare(app, chain.slots[earlier].head, chain.slots[later].head, now)
        if first is head:
            self._extend(app, chain, head, now)

    def _compare(self, app: AppId, earlier: Head, later: Head, now: int) -> None:
        """Two heads that were chosen one after the other."""
        self._report.require(
            earlier.round <= later.round, "rounds-never-back", now,
            f"{short(app)}: head {later.order} was committed after {earlier.order}",
        )  # fmt: skip
        changed = {voter.id for voter in earlier.voters} ^ {voter.id for voter in later.voters}
        self._report.require(
            len(changed) <= 1, "one-voter-at-a-time", now,
            f"{short(app)}: {len(changed)} voters changed from {earlier.order} to {later.order}",
        )  # fmt: skip

    def _committed(self, now: int, host: Host, effect: Any) -> None:
        head: Head = (effect.message if hasattr(effect, "message") else effect.notice).head
        chain = self.chains.get(head.app)
        slot = chain.slots.get(head.order) if chain is not None else None
        self._report.require(
            slot is not None and slot.chosen, "majority-before-commit", now,
            f"{who(host)} calls head {head.order} of {short(head.app)} committed, its voters do not",
        )  # fmt: skip
        if slot is not None:
            self._report.require(
                slot.head.model == head.model, "majority-before-commit", now,
                f"{who(host)} spreads another head {head.order} of {short(head.app)} than its voters hold",
            )  # fmt: skip

    # ---- what a round is made of ----

    def _extend(self, app: AppId, chain: Chain, head: Head, now: int) -> None:
        """A new round: built on the last one, from exactly what its contributors made."""
        submission = self._world.by_app.get(app)
        if submission is None or submission.spec is None:
            return
        spec, name = submission.spec, f"{short(app)} round {head.round}"
        before = chain.rounds.get(head.round - 1)
        if before is None:
            known = head.round == 0 and head.model == spec.initial
            self._report.require(known, "rounds-in-order", now, f"{name} was committed before the round before it")
            return
        unique = list(head.contributors) == sorted(set(head.contributors))
        self._report.require(unique, "counted-once", now, f"{name} names a contributor twice")
        unknown = [node for node in head.contributors if node not in self._world.engine.by_id]
        self._report.require(not unknown, "contributors-exist", now, f"{name} names {len(unknown)} that do not exist")
        if self._exact:
            self._recompute(spec, before, head, name, now)
        for hook in self.on_round:
            hook(app, head, before, now)

    def _recompute(self, spec: AppSpec, before: Head, head: Head, name: str, now: int) -> None:
        integer = self._world.integers.integer
        model = integer(before.model)
        training = not decode_report(before.report).closing
        if training:
            parts = [contribution(spec, head.round, node, model) for node in head.contributors]
            expected, state = model + sum(update for update, _ in parts), integer(before.state) + 1
            few = f"{name} has {len(parts)} contributors, {spec.min_workers} are the least"
            self._report.require(len(parts) >= spec.min_workers, "enough-workers", now, few)
        else:
            parts = [contribution(spec, 0, node, 0) for node in head.contributors]
            self._report.require(bool(parts), "evaluated-by-somebody", now, f"{name} ends the run, measured by nobody")
            expected, state = model, integer(before.state)
        self._report.require(
            integer(head.model) == expected, "sum-is-exact", now,
            f"{name}: the model is not the last one plus the {len(parts)} contributions",
        )  # fmt: skip
        self._report.require(integer(head.state) == state, "sum-is-exact", now, f"{name}: wrong server state")
        weight = float(sum(weight for _, weight in parts))
        self._report.require(head.weight == weight, "sum-is-exact", now, f"{name}: weight {head.weight}, not {weight}")


def _life(candidate: Contact | None) -> tuple[NodeId, int] | None:
    return None if candidate is None else (candidate.id, candidate.incarnation)


def _content(head: Head) -> tuple[Any, ...]:
    """What a round decided; who proposed it in which epoch, and who guards it, may change when it is adopted."""
    return head.model, head.state, head.contributors, head.weight, head.finished, head.report
