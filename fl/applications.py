"""All applications of one node: what it knows of them, whether it takes part, and the roles it plays.

Descriptors arrive as signed records and speak for themselves: the id is a hash of name, owner and salt, the signature
is the owner's.  Whether this node *works* for an application is its operator's decision: the data must be bound under
the name asked for, and the owner trusted (or the bundle approved by hash).  Whether it *routes and aggregates* is not
asked: any node may be rendezvous, voter or root for any application of its fabric, and runs no code of it for that.

This class is what the forest calls up to (``pubsub.ports.Roles``) and what the three role machines work with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protocol.effects import Outbox
from protocol.errors import Code
from protocol.events import Timer
from protocol.ids import AppId, NodeId
from protocol.messages import Contact, Message
from protocol.signing import Sealer
from pubsub.forest import Forest
from pubsub.heads import Head
from pubsub.messages import MAX_CLAIMS, WaveId, WaveOpen
from pubsub.ports import Gathering, Genesis, HandedIn, OpenWave
from pubsub.tree import Tree

from .aggregator import Combined, combine
from .bests import Bests
from .config import RoundConfig
from .coordinator import Coordinator
from .finals import Finals
from .jobs import Jobs
from .labels import Labels
from .messages import Condition, Label, Trouble, decode_order
from .notices import (
    Concluded,
    DataDescribed,
    Declined,
    Deposited,
    RoleChanged,
    RoundCommitted,
    StatusChanged,
    SteppedDown,
    TookOver,
    WorkFailed,
)
from .records import Records
from .spec import AppSpec
from .troubles import Troubles
from .willingness import Willingness
from .worker import Worker

MAX_OVER = 16_384
"""Ended applications that are remembered: four times what the record table holds."""


class Application:
    """What this node keeps of one application."""

    __slots__ = ("coordinator", "declined", "follows", "head", "role", "spec", "status", "worker")

    def __init__(self, spec: AppSpec) -> None:
        self.spec = spec
        self.worker: Worker | None = None
        self.coordinator: Coordinator | None = None
        self.head: Head | None = None
        """Newest committed head that this node heard of as a member."""
        self.follows = False
        self.declined = ""
        """Why this node does not work for it, although it has data of the name."""
        self.status = ("known", "")
        self.role: tuple[str, NodeId | None, int, tuple[NodeId, ...]] | None = None

    @property
    def rooted(self) -> bool:
        """This node is its root."""
        return self.coordinator is not None


class Applications:
    """The federated roles of one node."""

    forest: Forest

    def __init__(
        self,
        me: Contact,
        config: RoundConfig,
        *,
        out: Outbox,
        publish_voters: Callable[[Head, int], None],
        sealer: Sealer,
        label: str = "",
    ) -> None:
        self.me, self.config, self.out = me, config, out
        self._publish_voters = publish_voters
        """Signs and spreads a VOTERS record."""
        self.jobs = Jobs(out)
        self.troubles = Troubles(me.id, self, out=out, sealer=sealer, label=label)
        self.apps: dict[AppId, Application] = {}
        self.willingness = Willingness()
        self.records = Records(self)
        self.finals = Finals(self)
        self.bests = Bests(out)
        self.labels = Labels(label, out)
        self._over: dict[AppId, str] = {}
        """Applications that ended, and how: a late copy of the descriptor must not revive them."""
        self._ends: dict[AppId, int] = {}
        """Last rounds of applications that ended by rumour, while the tree still owes the head itself."""

    def attach(self, forest: Forest) -> None:
        """To be called right after construction: the forest needs us, and we need the forest."""
        self.forest = forest

    # ---- called by the records ------------------------------------------------------------------------------------

    def learn(self, spec: AppSpec, now: int) -> bool:
        """There is such an application; False when there is no room for it."""
        genesis = Genesis(spec.id, spec.voters, spec.fan_out, spec.quorum, spec.initial, spec.home, spec.bundle)
        self.apps[spec.id] = Application(spec)
        known = self.forest.know(genesis, now)
        if not known:
            del self.apps[spec.id]
        return known

    def consider(self, app_id: AppId, now: int) -> None:
        """Take part, as far as this node is willing."""
        self._consider(self.apps[app_id], now)

    def concluded(self, head: Head, now: int) -> None:
        """A record has the last head."""
        self.out.emit(Concluded(head.app, head))
        tree = self.tree(head.app)
        if head.app in self.apps and tree is not None and tree.attached:
            # The rumour overtakes the tree, which brings the head itself: contributors, metrics, model.
            self.out.set_timer(("fl.end", head.app), now + self.config.farewell)
            self._ends[head.app] = head.round
        else:
            self.end(head.app, "finished", f"after round {head.round}", now)

    # ---- taking part ------------------------------------------------------------------------------------------------

    def bind(self, names: frozenset[str], works: bool, now: int) -> None:
        self.willingness.bind(names, works)
        self._reconsider(now)

    def trust(self, owners: frozenset[bytes], approved: frozenset[bytes], now: int) -> None:
        self.willingness.trust(owners, approved)
        self._reconsider(now)

    def _reconsider(self, now: int) -> None:
        for app in list(self.apps.values()):
            self._consider(app, now)

    def refuse(self, app_id: AppId, why: str, now: int) -> None:
        """Do not work for it, whatever is bound and trusted."""
        app = self.apps.get(app_id)
        if app is None:
            return
        self.willingness.refuse(app_id, why)
        self._dismiss(app, now)
        self._consider(app, now)

    def follow(self, app_id: AppId, now: int) -> None:
        """Be a member without data."""
        app = self.apps.get(app_id)
        if app is not None:
            app.follows = True
            self._consider(app, now)

    def _consider(self, app: Application, now: int) -> None:
        """Work for it, follow it, or leave it to others."""
        spec = app.spec
        if spec.id in self._over:
            return
        offered = self.willingness.offers(spec)
        why = self.willingness.objection(spec) if offered else ""
        if offered and not why:
            app.worker = app.worker or Worker(spec, self)
        else:
            self._dismiss(app, now)
        if app.worker is not None or app.follows:
            self.forest.join(spec.id, now)
        self._decline(app, why, now)

    def _decline(self, app: Application, why: str, now: int) -> None:
        if app.declined == why:
            return
        app.declined = why
        self.out.emit(Declined(app.spec.id, why))
        if why:
            self.troubles.refused(app.spec.id, why, now)
        else:
            self.troubles.willing(app.spec.id)

    def _dismiss(self, app: Application, now: int) -> None:
        if app.worker is not None:
            app.worker.resign(now)
            app.worker = None

    # ---- called by the forest ---------------------------------------------------------------------------------------

    def wave_opened(self, app_id: AppId, wave: OpenWave, now: int) -> None:
        app, order = self.apps.get(app_id), decode_order(wave.order)
        if app is None or app.worker is None or order is None:
            self.forest.contribute(app_id, wave.id, None, now)
            return
        if app.coordinator is None and not self.troubles.knows(app_id, wave.id.epoch):
            self.status(app_id, "running", "", now)
        app.worker.opened(wave, order, True, now)

    def combine(self, app_id: AppId, wave: WaveId, parts: Sequence[HandedIn], now: int) -> None:
        def merged(result: Combined, at: int) -> None:
            absent = self.left_out(parts, result)
            self.forest.hand_in(app_id, wave, result.total, at, absent)

        app = self.apps.get(app_id)
        if app is None:
            self.forest.hand_in(app_id, wave, None, now)
        else:
            combine(app.spec, [part for _, part in parts], self.me.id, self.jobs, merged, now)

    def left_out(self, parts: Sequence[HandedIn], result: Combined) -> int:
        """Blame those who handed in what nobody may; how many members stand behind all that was left out."""
        for index in result.refused:
            self.forest.count("partials_refused")
            if parts[index].sender != self.me.id:
                self.out.penalize(parts[index].sender, Code.MALFORMED, "a value that cannot be added")
        return sum(len(parts[index].partial.contributors) for index in result.left_out)

    def wave_closed(self, app_id: AppId, wave: WaveId, parts: Sequence[HandedIn], absent: int, now: int) -> None:
        app = self.apps.get(app_id)
        if app is not None and app.coordinator is not None:
            self.troubles.closed(app_id, wave, parts, absent, now)
            app.coordinator.closed(wave, parts, absent, now)

    def crowded(self, app_id: AppId, wave: WaveId, members: int, now: int) -> None:
        why = (
            f"{members} contributors below this node find no room in what it hands on, which names {MAX_CLAIMS} at most"
        )
        self.troubles.crowded(app_id, wave.round, why, now)

    def committed(self, app_id: AppId, head: Head, now: int) -> None:
        app = self.apps.get(app_id)
        if app is None:
            return
        if app.head is None or head.round > app.head.round or head.finished:
            self.out.emit(RoundCommitted(app_id, head, head.contributors, head.metrics))
        if app.spec.stop is not None:
            self.bests.note(app.head, head)
        app.head = head
        self.troubles.committed(app_id, head, now)
        if app.worker is not None:
            app.worker.committed(head.round)
        if app.coordinator is not None and head.epoch == self.epoch(app_id):
            app.coordinator.committed(head, now)
        if head.finished:
            few, least = len(head.contributors), app.spec.min_workers
            doubt = f"; evaluated by {few}, a round needs {least}" if few < least else ""
            self.end(app_id, "finished", f"after round {head.round}{doubt}", now)

    def rooted(self, app_id: AppId, head: Head, now: int) -> None:
        app = self.apps.get(app_id)
        if app is None:
            return
        self.out.emit(TookOver(app_id, head.epoch))
        goes_on = app.coordinator is not None  # it only went on to a newer epoch
        self.committed(app_id, head, now)
        if not head.finished and not goes_on and app_id in self.apps:
            self.troubles.rooted(app_id, now)
            app.coordinator = Coordinator(app.spec, head, self)
            app.coordinator.start(now)

    def unrooted(self, app_id: AppId, epoch: int, now: int) -> None:
        app = self.apps.get(app_id)
        if app is None or app.coordinator is None:
            return
        app.coordinator = None
        self.out.cancel_timer(("fl.next", app_id))
        self.out.emit(SteppedDown(app_id, epoch))

    def tree_changed(self, app_id: AppId, now: int) -> None:
        app, tree = self.apps.get(app_id), self.tree(app_id)
        if app is None or tree is None:
            return
        self.troubles.tree_changed(app_id, now)
        role = "none"
        if tree.is_root:
            role = "root"
        elif tree.parent is not None:
            role = "aggregator" if tree.children else ("worker" if app.worker is not None else "observer")
        state = (role, tree.parent, tree.depth, tuple(tree.children))
        if state != app.role:
            app.role = state
            self.out.emit(RoleChanged(app_id, *state))

    def status(self, app_id: AppId, status: str, detail: str, now: int) -> None:
        app = self.apps.get(app_id)
        if app is not None and app.coordinator is not None:
            status, detail = self.troubles.speaks(app_id, status, detail, now)
        if app is not None and app.status != (status, detail):
            app.status = (status, detail)
            self.out.emit(StatusChanged(app_id, status, detail))

    def forgotten(self, app_id: AppId) -> None:
        """What is left of it is in the hands of the program above; a descriptor may weigh 160 KiB."""
        self.apps.pop(app_id, None)
        self.willingness.forget(app_id)
        self.bests.forget(app_id)
        self.troubles.forget(app_id)

    def deposited(self, app_id: AppId, held: tuple[NodeId, ...], coming: tuple[NodeId, ...], now: int) -> None:
        self.out.emit(Deposited(app_id, held, coming))

    def voters_changed(self, head: Head, now: int) -> None:
        """Said outside the tree too: a rendezvous of later days may never have been a member."""
        self._publish_voters(head, now)

    def recover(self, app_id: AppId, voters: tuple[Contact, ...], now: int) -> None:
        """Find out how an application ended; what runs here is not asked about."""
        if app_id not in self.apps or app_id in self._over:
            self.finals.recover(app_id, voters, now)

    def received(self, peer: NodeId, message: Message, now: int) -> bool:
        """A message that is not the forest's; False when it is not ours either."""
        if isinstance(message, Trouble):
            self.troubles.on_trouble(peer, message, now)
        elif isinstance(message, Condition):
            self.troubles.on_condition(peer, message, now)
        elif isinstance(message, Label):
            self.labels.heard(peer, message)
        else:
            return False
        return True

    # ---- called by the parts; `ports` says for what -----------------------------------------------------------------

    def open_wave(self, message: WaveOpen, gathering: Gathering | None, now: int) -> None:
        self.forest.groves[message.app].waves.open(message, now, gathering)

    def propose(self, head: Head, now: int) -> None:
        self.forest.groves[head.app].propose(head, now)

    def reigns(self, app_id: AppId, coordinator: object) -> bool:
        app = self.apps.get(app_id)
        return app is not None and app.coordinator is coordinator

    def complain(self, app_id: AppId, round_: int, error: str, now: int) -> None:
        """The local work failed: said here and to the root; the round goes on without this node."""
        self.forest.count("work_failed")
        sentence, _, trace = error.partition("\n")
        self.out.emit(WorkFailed(app_id, sentence, trace))
        self.troubles.failed(app_id, round_, error, now)

    def stumbled(self, app_id: AppId, round_: int, error: str, now: int) -> None:
        self.troubles.stumbled(app_id, round_, error, now)

    def described(self, app_id: AppId, sums: dict[str, float], workers: int, now: int) -> None:
        self.out.emit(DataDescribed(app_id, sums, workers))

    def tree(self, app_id: AppId) -> Tree | None:
        grove = self.forest.groves.get(app_id)
        return grove.tree if grove is not None else None

    def live_root(self, app_id: AppId) -> Contact | None:
        grove = self.forest.groves.get(app_id)
        return grove.rendezvous.live_root if grove is not None else None

    def epoch(self, app_id: AppId) -> int:
        return self.forest.groves[app_id].proposer.epoch

    def outcome(self, app_id: AppId) -> str | None:
        return self._over.get(app_id)

    # ---- end --------------------------------------------------------------------------------------------------------

    def timer(self, timer: Timer, now: int) -> bool:
        """True when it was one of ours."""
        if timer[0] not in ("fl.next", "fl.end", "fl.refused", "fl.tell"):
            return False
        app_id = timer[1]
        assert isinstance(app_id, bytes)
        self.troubles.on_timer(timer[0], app_id, now)
        app = self.apps.get(app_id)
        if timer[0] == "fl.end" and app_id in self._ends:
            self.end(app_id, "finished", f"after round {self._ends[app_id]}", now)
        elif timer[0] == "fl.next" and app is not None and app.coordinator is not None:
            app.coordinator.on_timer(now)
        return True

    def end(self, app_id: AppId, status: str, detail: str, now: int) -> None:
        """It is over: no role of this node goes on."""
        if app_id in self._over:
            return
        self._over[app_id] = status
        if self._ends.pop(app_id, None) is not None:
            self.out.cancel_timer(("fl.end", app_id))
        if len(self._over) > MAX_OVER:
            del self._over[next(iter(self._over))]
        app = self.apps.get(app_id)
        if app is not None:
            if app.worker is not None:
                app.worker.drop()
            app.worker, app.coordinator = None, None
            self.bests.forget(app_id)
            self.out.cancel_timer(("fl.next", app_id))
            self.status(app_id, status, detail, now)
        self.forest.conclude(app_id, now)
