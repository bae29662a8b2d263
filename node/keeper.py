"""What a daemon does beside driving its core: it keeps books.

It notes what the core tells (journal, log), keeps the last two models of each application from the artifact store's
garbage collector, cuts off who was revoked, remembers whom to dial after a restart, and renews the certificate.
A disk that fails costs notes, never the node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from dht.messages import Record
from dht.records import Kind
from fl.messages import Ailment
from fl.notices import (
    ClockChanged,
    DataDescribed,
    Declined,
    PeerDead,
    Publish,
    RecordChanged,
    Refuse,
    RingReady,
    RoleChanged,
    RoundCommitted,
    StatusChanged,
    SteppedDown,
    TookOver,
    Troubled,
    WorkFailed,
)
from protocol.errors import MyceliaError, StorageError
from protocol.ids import AppId, BlobId, short
from protocol.messages import Contact

from .contacts import save_contacts
from .daemon import NodeDaemon
from .desk import JoinDesk
from .identity.fabric import decode_document
from .identity.membership import Membership
from .identity.renewal import seconds_left
from .identity.revocation import RevocationSet, revoke
from .journal import Journal
from .kvstore import KVStore
from .service import OVER
from .statedir import StateDir
from .subscriptions import Lost, Subscription
from .workers import WorkerPool

log = logging.getLogger("mycelia.node")

REMEMBER_S = 5.0
"""Seconds between two looks at whom to remember (only a change costs a write), and at who refuses this node."""
MAX_FAILING = 512
"""Applications of which the keeper remembers what it has logged already."""
RENEW_CHECK_S = 600.0
"""Seconds after which the certificate is looked at again at the latest: the wall clock may have jumped meanwhile."""


class Keeper:
    """``start`` it when the daemon has started; it ends with the daemon's supervisor."""

    def __init__(
        self,
        daemon: NodeDaemon,
        journal: Journal,
        notes: KVStore,
        *,
        state: StateDir,
        membership: Membership,
        desk: JoinDesk | None,
        workers: WorkerPool,
        neighbours: Callable[[], tuple[Contact, ...]],
        document_changed: Callable[[], None],
        unix_time: Callable[[], int],
    ) -> None:
        """``desk`` is None on nodes that are no issuers."""
        self.revoked = RevocationSet()
        self.disowned = False
        """Whether this node's own membership was revoked, as a record or all whom it could reach say."""
        self.noted = asyncio.Condition()
        """Notified after each notice was taken in."""
        self._daemon = daemon
        self._journal = journal
        self._notes = notes
        self._state = state
        self._membership = membership
        self._desk = desk
        self._neighbours = neighbours
        self._document_changed = document_changed
        self._unix_time = unix_time
        self._workers = workers
        self._kept: dict[AppId, list[BlobId]] = {}
        self._remembered: tuple[Contact, ...] = ()
        self._failing: dict[AppId, tuple[str, int]] = {}
        """Applications whose work failed here: the sentence, and how often in a row."""
        self._complaints: dict[AppId, frozenset[tuple[bytes, str]]] = {}
        """Complaints of others that were logged."""

    def start(self, notices: Subscription) -> None:
        """Begin; ``notices`` was subscribed to before the daemon started, so nothing is missed."""
        spawn = self._daemon.supervisor.spawn
        spawn(self._note_all(notices), "keeper")
        spawn(self._renew(), "certificate renewal")
        spawn(self._remember(), "contacts")

    # ---- notices ----------------------------------------------------------------------------------------------------

    async def _note_all(self, notices: Subscription) -> None:
        async for notice in notices:
            with self._daemon.supervisor.guard("notice"):
                await self._note(notice)
            async with self.noted:
                self.noted.notify_all()

    async def _note(self, notice: Any) -> None:
        if isinstance(notice, ClockChanged):
            self._clock(notice.error)
        elif isinstance(notice, RecordChanged) and notice.record.kind == Kind.REVOCATION:
            self._revocation(notice.record)
        elif isinstance(notice, RecordChanged) and notice.record.kind == Kind.DOCUMENT:
            self._document(notice.record)
        await self.note(self._journal.notice(notice))
        self._log(notice)
        try:
            if isinstance(notice, RoundCommitted):
                await self._keep_models(notice)
            elif isinstance(notice, RecordChanged) and notice.record.kind == Kind.APP:
                self._keep_inputs(notice.record.subject)
                await self._consider(notice.record.subject)
            elif isinstance(notice, StatusChanged) and notice.status in OVER:
                self._release_inputs(notice.app)
        except StorageError as error:
            log.warning("the disk refuses models: %s", error)

    async def note(self, batch: Mapping[str, bytes | None]) -> None:
        """Make ``batch`` durable, as far as the disk allows."""
        try:
            if batch:
                await self._notes.write(batch)
        except StorageError as error:
            log.warning("the disk refuses notes: %s", error)

    async def _keep_models(self, notice: RoundCommitted) -> None:
        """The last two versions stay: in the store, whether they rode inline or not, and pinned there."""
        artifacts, model = self._daemon.artifacts, notice.head.model
        if model.inline:
            await artifacts.put(model.inline)
        kept = self._journal.kept(notice.app)
        for blob in kept:
            artifacts.pin(blob, holder="journal")
        for blob in self._kept.get(notice.app, []):
            if blob not in kept:
                artifacts.pin(blob, keep=False, holder="journal")
        self._kept[notice.app] = kept
        if notice.head.finished:
            for blob in kept:
                if artifacts.has(blob):
                    await artifacts.persist(blob)

    async def _consider(self, app_id: AppId) -> None:
        """Refuse at once, by name, what could only fail in every round: data or packages that do not fit."""
        spec = self._journal.spec(app_id)
        if spec is None or spec.data not in self._workers.bound:
            return
        artifacts, bundle = self._daemon.artifacts, spec.bundle.inline
        if spec.bundle.blob and artifacts.has(spec.bundle.blob):
            bundle = await artifacts.read(spec.bundle.blob)
        if why := await asyncio.to_thread(self._workers.refuses, spec, bundle):
            self._daemon.command(Refuse(app_id, why))

    def _inputs(self, app_id: AppId) -> list[BlobId]:
        """What was handed in beside the descriptor: members fetch it from here if this is the application's home."""
        spec = self._journal.spec(app_id)
        if spec is None or spec.home.id != self._membership.node:
            return []
        return [value.blob for value in (spec.initial, spec.bundle) if value.blob]

    def _keep_inputs(self, app_id: AppId) -> None:
        for blob in self._inputs(app_id):
            self._daemon.artifacts.pin(blob, holder="home")

    def _release_inputs(self, app_id: AppId) -> None:
        for blob in self._inputs(app_id):
            self._daemon.artifacts.pin(blob, keep=False, holder="home")

    def _revocation(self, record: Record) -> None:
        if not self.revoked.add(record, self._membership.document):
            return
        if record.subject == self._membership.node:
            self._say_revoked("as the issuer says")
            return
        log.warning("node %s was revoked", short(record.subject))
        self._daemon.revoke(record.subject)

    def _clock(self, error: int) -> None:
        if error:
            side = "ahead of" if error > 0 else "behind"
            log.warning(
                "this machine's clock is %d minutes %s those of the other nodes, whose time counts: set it, e.g. "
                "with NTP", abs(error) // 60, side,
            )  # fmt: skip

    def _say_revoked(self, source: str) -> None:
        """Once, with the way out."""
        if not self.disowned:
            self.disowned = True
            log.error(
                "this node was revoked, %s: all members refuse it. To take part again it needs a new key: "
                "mycelia join TOKEN with a new state directory", source
            )  # fmt: skip

    def _look_for_refusals(self) -> None:
        """A node that was off when it was revoked hears of it from those who refuse it, and they are all it hears."""
        links = self._daemon.links
        if links.disowned and not links.peers():
            self._say_revoked(f"as {len(links.disowned)} of them say")
        elif links.peers() and self._membership.node not in self.revoked:
            self.disowned = False

    def _document(self, record: Record) -> None:
        """The owner has changed the fabric's document."""
        try:
            if self._membership.adopt(decode_document(record.body), self._state):
                log.info("the fabric's document is now number %d", self._membership.document.serial)
                self._document_changed()
        except MyceliaError as error:
            log.warning("the fabric's new document cannot be used: %s", error)

    def _log(self, notice: Any) -> None:
        """What an operator wants to read of it."""
        app_id = getattr(notice, "app", None)
        name = self._journal.name(app_id) if isinstance(app_id, bytes) else None
        about: dict[str, Any] = {"app": name, "round": None}
        match notice:
            case RingReady():
                log.info("member of the ring")
            case PeerDead():
                log.warning("%s is gone: %s, silent for %.1f s", short(notice.peer), notice.why, notice.silence / 1e9)
            case StatusChanged():
                log.info("%s%s", notice.status, f": {notice.detail}" if notice.detail else "", extra=about)
            case RoleChanged():
                log.info("role %s, %d children", notice.role, len(notice.children), extra=about)
            case RoundCommitted():
                contributors = len(notice.contributors)
                log.info("committed, %d contributors", contributors, extra={**about, "round": notice.head.round})
            case TookOver() | SteppedDown():
                what = "root" if isinstance(notice, TookOver) else "no longer root"
                log.info("%s, epoch %d", what, notice.epoch, extra=about)
            case Declined():
                log.info("%s", f"this node refuses: {notice.why}" if notice.why else "this node works", extra=about)
            case WorkFailed():
                self._log_failure(notice, about)
            case Troubled():
                self._log_troubles(notice, about)
            case DataDescribed():
                log.info("%d nodes described their data", notice.workers, extra=about)
            case Lost():
                log.warning("%d notices were lost: the node is overloaded", notice.count)

    def _log_failure(self, notice: WorkFailed, about: dict[str, Any]) -> None:
        """The first time whole; what fails alike again and again, less and less often."""
        known, count = self._failing.get(notice.app, ("", 0))
        count = count + 1 if known == notice.error else 1
        self._failing[notice.app] = notice.error, count
        if len(self._failing) > MAX_FAILING:
            del self._failing[next(iter(self._failing))]
        if count == 1:
            log.error("the local work failed: %s", notice.error, extra={**about, "trace": notice.trace})
        elif count & (count - 1) == 0:
            log.error("the local work failed %d times: %s", count, notice.error, extra=about)

    def _log_troubles(self, notice: Troubled, about: dict[str, Any]) -> None:
        """What other nodes complain of, once each, with the traceback: this may be where the run was submitted."""
        known = self._complaints.get(notice.app, frozenset())
        now = frozenset((one.node, one.sentence) for one in notice.complaints)
        self._complaints[notice.app] = now
        if len(self._complaints) > MAX_FAILING:
            del self._complaints[next(iter(self._complaints))]
        for one in notice.complaints:
            if (one.node, one.sentence) not in known and one.node != self._membership.node:
                what = {Ailment.REFUSED: "refuses", Ailment.CROWDED: "is crowded"}.get(one.kind, "fails")
                more = {**about, "round": one.round or None, "trace": one.trace}
                log.error("node %s (%s) %s: %s", one.name, short(one.node), what, one.sentence, extra=more)

    # ---- housekeeping -----------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(
                min(RENEW_CHECK_S, seconds_left(self._membership.credentials().leaf, self._unix_time()))
            )
            with self._daemon.supervisor.guard("certificate renewal"):
                if self._membership.renew(self._unix_time()):
                    log.info("certificate renewed")
                    if self._desk is not None:
                        self._desk.renewed()
                self._repeat_revocations()

    def _repeat_revocations(self) -> None:
        """An issuer says again what is about to expire."""
        if self._desk is not None:
            now = self._unix_time()
            for node in self.revoked.expiring(now):
                self._daemon.command(Publish(revoke(self._membership.key, node, now)))

    async def _remember(self) -> None:
        while True:
            await asyncio.sleep(REMEMBER_S)
            self._look_for_refusals()
            await self.remember_contacts()

    async def remember_contacts(self) -> None:
        """Make durable whom to dial after a restart, if that has changed."""
        contacts = tuple(sorted(self._neighbours(), key=lambda contact: contact.id))
        if not contacts or contacts == self._remembered:
            return
        try:
            await asyncio.to_thread(save_contacts, self._state, contacts)
            self._remembered = contacts
        except MyceliaError as error:
            log.warning("the disk refuses contacts: %s", error)
