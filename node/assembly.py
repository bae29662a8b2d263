"""One whole node, put together from its configuration and its state directory.

This is the composition root: the only place that knows all parts, and knows nothing else.

    membership ── credentials ──► daemon ◄── core (ring, forest, roles)
        │                           │ notices
    join desk (issuers only)        ▼
                                  keeper ──► journal ──► control API
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

from dht.messages import Record
from dht.records import Kind
from fl.notices import Bind, Trust
from protocol.ids import AppId
from protocol.membership import Roll
from protocol.messages import Contact

from .artifacts import ArtifactConfig, ArtifactStore
from .config import NodeConfig
from .contacts import load_contacts
from .core import CoreConfig, NodeCore
from .daemon import DaemonConfig, NodeDaemon
from .desk import JoinDesk
from .identity import fabric, revocation
from .identity import membership as members
from .identity.keys import Ed25519Verifier
from .identity.membership import Membership
from .journal import Journal
from .keeper import Keeper
from .kvstore import KVStore
from .links.channels import split_address
from .links.manager import LinkConfig
from .ports import Ports
from .statedir import StateDir
from .trust import TrustList
from .workers import WorkerPool

app_log = logging.getLogger("mycelia.app")

NEIGHBOURS = 24
"""Members of the leaf set: who is told to newcomers and remembered for a restart."""


def unix_time() -> int:
    """Seconds, by the wall clock."""
    return int(time.time())


class Node:
    """What one ``mycelia up`` runs.  ``start`` and ``stop`` it on one loop, with the state directory locked."""

    def __init__(self, config: NodeConfig, state: StateDir) -> None:
        """Reads the state directory.  Raises ConfigError when it does not make a member, StorageError."""
        self.config = config
        self.state = state
        self.membership = Membership.load(state, unix_time())
        self.notes = KVStore(state.root / "notes.db")
        restored = self.notes.load()
        self._ports = Ports(restored)
        self.core: NodeCore | None = None
        self.name = config.node.name or os.uname().nodename
        self.workers = WorkerPool(
            config.worker,
            config.data,
            state.root / "workers",
            private=(state.root,),
            label=self.name,
            hear=self._heard,
        )
        artifacts = ArtifactStore(state.artifacts, ArtifactConfig(quota=int(config.storage.quota_gib * (1 << 30))))
        self.daemon = NodeDaemon(
            self.membership.node,
            self._daemon_config(),
            credentials=self.membership.credentials,
            make_core=self._make_core,
            state=KVStore(state.core_db),
            artifacts=artifacts,
            workers=self.workers if config.worker.enabled else None,
        )
        self.trust = TrustList(config.trust, self.membership.document.owner, restored)
        self.journal = Journal(restored, time.time, me=self.membership.node, trusted=self.trust.believes)
        self.desk = self._make_desk()
        self.keeper = Keeper(
            self.daemon,
            self.journal,
            self.notes,
            state=state,
            membership=self.membership,
            desk=self.desk,
            workers=self.workers,
            neighbours=self.neighbours,
            document_changed=self.apply_trust,
            unix_time=unix_time,
        )

    # ---- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and enter the ring.  Raises ConfigError, StorageError; then everything is closed again."""
        notices = self.daemon.subscribe()
        try:
            await self.workers.start()
            await self.daemon.start()
            self.keeper.start(notices)
            self.apply_trust()
            self.daemon.command(Bind(frozenset(self.config.data), self.config.worker.enabled))
            await self._open_desk()
            await self.keeper.note(self._bound())
        except BaseException:
            await self.stop()
            raise

    async def _open_desk(self) -> None:
        if self.desk is not None:
            address = self._ports.choose("join", self.config.node.join_listen)
            port = self.desk.start(address, self.config.node.advertise)
            await self.keeper.note(self._ports.took("join", port))

    def _bound(self) -> dict[str, bytes | None]:
        """What to remember of the address that peers were given; nothing when the operator chose it."""
        addresses = () if self.config.node.advertise else self.daemon.me.addresses
        return self._ports.took("listen", split_address(addresses[0])[1]) if addresses else {}

    async def stop(self) -> None:
        """Hand over, say goodbye, close everything.  Idempotent."""
        await self.keeper.remember_contacts()
        if self.desk is not None:
            await self.desk.close()
        await self.daemon.stop()
        await self.workers.close()
        await self.notes.close()

    def give_up(self) -> None:
        """After ``stop``: be a member no more, durably.  Raises StorageError."""
        members.give_up(self.state)

    # ---- for the parts ----------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """A full member of the ring."""
        return self.core is not None and self.core.ring.ready

    def neighbours(self) -> tuple[Contact, ...]:
        """Live dialable nodes nearest on the ring, without this one."""
        if self.core is None:
            return ()
        near = self.core.ring.closest(self.membership.node, NEIGHBOURS)
        return tuple(contact for contact in near if contact.id != self.membership.node)

    def apply_trust(self) -> None:
        """Tell the core whom the operator trusts."""
        owners, approved = self.trust.effective()
        self.daemon.command(Trust(owners, approved))

    def _heard(self, app: AppId, line: str) -> None:
        """A line that user code wrote."""
        app_log.info("%s", line, extra={"app": self.journal.name(app)})

    def _make_core(self, me: Contact, restored: Mapping[str, bytes], wall_offset: int) -> NodeCore:
        verifier = Ed25519Verifier()
        self.core = NodeCore(
            me,
            CoreConfig(),
            signer=self.membership.key,
            verifier=verifier,
            roll=Roll(self.membership.voucher, verifier, self.membership.authorities),
            seed=int.from_bytes(os.urandom(8), "big"),
            wall_offset=wall_offset,
            restored=restored,
            owns=self.owns,
            authorise=self._authorise,
            label=self.name,
        )
        return self.core

    def _make_desk(self) -> JoinDesk | None:
        authority = members.load_authority(self.state)
        if authority is None:
            return None
        return JoinDesk(
            self.membership,
            authority,
            KVStore(self.state.issuer_db),
            supervisor=self.daemon.supervisor,
            members=lambda: (self.daemon.me, *self.neighbours()),
            revoked=lambda node: node in self.keeper.revoked,
            unix_time=unix_time,
        )

    def owns(self, key: bytes) -> bool:
        """May the holder of ``key`` have applications, as far as this node is concerned?"""
        return fabric.may_own(self.membership.document, key) or self.trust.names(key)

    def _authorise(self, record: Record) -> bool:
        """May the signer say this, of records that do not belong to an application?"""
        if record.kind == Kind.DOCUMENT:
            return fabric.authorise(record, self.membership.document, Ed25519Verifier())
        return revocation.authorise(record, self.membership.document)

    def _daemon_config(self) -> DaemonConfig:
        node, links = self.config.node, self.config.links
        return DaemonConfig(
            listen=(self._ports.choose("listen", node.listen),) if node.listen else (),
            advertise=node.advertise,
            seeds=load_contacts(self.state),
            incarnation=self.state.next_incarnation(unix_time()),
            links=LinkConfig(
                dial_timeout=links.dial_timeout_s,
                idle_close=links.idle_close_s,
                max_links=links.max_links,
                queue_frames=links.queue_frames,
                max_penalties=links.max_penalties,
                ban=links.ban_s,
            ),
        )
