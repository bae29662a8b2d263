"""The control API on a real node: :class:`node.service.DaemonService`, method by method.

What takes more than a look at the node's state stands in modules of its own: ``submission``, ``models``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Literal

import msgspec

from dht import records
from dht.messages import Record
from dht.records import Kind
from fl.notices import Publish
from fl.spec import AppSpec
from protocol.errors import UsageError
from protocol.ids import AppId, NodeId
from protocol.messages import Contact

from .assembly import Node, unix_time
from .identity import fabric
from .identity.fabric import is_issuer
from .identity.keys import Ed25519Verifier
from .identity.revocation import revoke
from .models import Models
from .provenance import version
from .service import (
    OVER,
    AppEvent,
    AppInfo,
    Invitation,
    ModelInfo,
    NodeStatus,
    PeerInfo,
    TrustInfo,
)
from .submission import Submission
from .trust import parse_key
from .waiting import until

MIN_PREFIX = 4
"""Hex digits by which a node may be named at least."""


class Operations:
    """One node's control API.  ``ending`` is set when the daemon is to end, ``left`` if it gives up its membership."""

    def __init__(self, node: Node, started: float) -> None:
        """``started``: Unix seconds."""
        self.ending = asyncio.Event()
        self.left = False
        self._node = node
        self._started = started
        self._models = Models(node)
        self._submission = Submission(node, self._models)

    # ---- the node ---------------------------------------------------------------------------------------------------

    async def status(self) -> NodeStatus:
        node = self._node
        document, me = node.membership.document, node.daemon.me
        return NodeStatus(
            id=me.id.hex(),
            name=node.name,
            fabric=document.name,
            fabric_id=document.fingerprint.hex(),
            version=version(),
            pid=os.getpid(),
            zone=document.zone,
            state=self._state(),
            leaf_member=not me.dialable,
            issuer=node.desk is not None and is_issuer(document, me.id),
            addresses=list(me.addresses),
            started=self._started,
            certificate_expires=float(node.membership.credentials().leaf.not_after),
            links=len(node.daemon.links.peers()),
            applications=sum(app.status not in OVER for app in node.journal.infos()),
            penalties=sum(node.daemon.links.penalties.counts.values()),
            clock_error_s=node.core.ring.clock_error if node.core is not None else 0,
            sandbox=node.workers.sandbox,
            counters=self._counters(),
        )

    def _state(self) -> Literal["joining", "ready", "leaving", "revoked"]:
        if self._node.keeper.disowned:
            return "revoked"
        return "leaving" if self.ending.is_set() else "ready" if self._node.ready else "joining"

    def _counters(self) -> dict[str, float]:
        node = self._node
        protocol = node.core.forest.counters if node.core is not None else {}
        return {**node.daemon.metrics(), **{f"tree_{name}": float(count) for name, count in protocol.items()}}

    async def peers(self) -> list[PeerInfo]:
        return [self._peer(contact) for contact in self._known()]

    def _peer(self, contact: Contact) -> PeerInfo:
        links, core = self._node.daemon.links, self._node.core
        rtt = core.ring.view.table.rtt(contact.id) if core is not None else None
        return PeerInfo(
            id=contact.id.hex(),
            name=core.apps.labels.of(contact.id) if core is not None else "",
            addresses=list(contact.addresses),
            linked=links.linked(contact.id),
            rtt_ms=rtt / 1e6 if rtt is not None else None,
            penalties=round(links.penalties.score(contact.id)),
        )

    def _known(self) -> list[Contact]:
        """Neighbours on the ring, then whoever else has a link."""
        node = self._node
        found = {contact.id: contact for contact in node.neighbours()}
        for peer in node.daemon.links.peers():
            if peer not in found:
                known = node.core.contact(peer) if node.core is not None else None
                found[peer] = known or Contact(peer)
        return list(found.values())

    async def leave(self) -> None:
        self.left = True
        self.ending.set()

    async def shutdown(self) -> None:
        self.ending.set()

    # ---- members ----------------------------------------------------------------------------------------------------

    async def invite(self, lifetime_s: int) -> Invitation:
        desk = self._node.desk
        if desk is None:
            raise UsageError("this node is no issuer", "invite on the node that founded the fabric")
        token, expires = await desk.invite(lifetime_s)
        return Invitation(token=token, expires=float(expires))

    async def revoke(self, node: str) -> str:
        here = self._node
        document = here.membership.document
        if not is_issuer(document, here.membership.node):
            raise UsageError("this node is no issuer, so nobody would believe it", "revoke on an issuer")
        subject = self._resolve(node.lower())
        if is_issuer(document, subject):
            raise UsageError("an issuer cannot revoke an issuer", "change the fabric's document with the owner key")
        here.daemon.command(Publish(revoke(here.membership.key, subject, unix_time())))
        await until(here.keeper, lambda: subject in here.keeper.revoked, "the revocation was not accepted")
        return subject.hex()

    def _resolve(self, reference: str) -> NodeId:
        """A full id, or as much of a known node's as is unique."""
        if len(reference) == 32:
            try:
                return bytes.fromhex(reference)
            except ValueError:
                raise UsageError(f"{reference} is not the id of a node", "see `mycelia peers`") from None
        found = [contact.id for contact in self._known() if reference in contact.id.hex()]
        if len(found) != 1 or len(reference) < MIN_PREFIX:
            what = "no node is" if not found else f"{len(found)} nodes are"
            raise UsageError(f"{what} known by {reference}", "give more of the id, or all of it; see `mycelia peers`")
        return found[0]

    # ---- trust ------------------------------------------------------------------------------------------------------

    async def trusted(self) -> TrustInfo:
        return self._trust_info()

    async def trust(self, key: str) -> TrustInfo:
        return await self._change_trust(self._node.trust.add(parse_key(key, "mycelia trust add")))

    async def distrust(self, key: str) -> TrustInfo:
        return await self._change_trust(self._node.trust.remove(parse_key(key, "mycelia trust rm")))

    async def _change_trust(self, batch: dict[str, bytes | None]) -> TrustInfo:
        await self._node.notes.write(batch)
        self._node.apply_trust()
        return self._trust_info()

    def _trust_info(self) -> TrustInfo:
        named = [key.hex() for key in self._node.membership.document.app_owners]
        return msgspec.structs.replace(self._node.trust.info(), named=named)

    async def change_document(self, document: Record) -> TrustInfo:
        membership, verifier = self._node.membership, Ed25519Verifier()
        held = membership.document
        if not fabric.authorise(document, held, verifier) or not records.verify(document, verifier):
            raise UsageError(f"that is no document of fabric {held.name}", "sign it with the key of the fabric's owner")
        if document.version <= held.serial:
            raise UsageError("the fabric's document has changed meanwhile", "give the command again")
        self._node.daemon.command(Publish(document))
        await until(
            self._node.keeper, lambda: membership.document.serial >= document.version, "the document was not accepted"
        )
        return self._trust_info()

    # ---- applications -----------------------------------------------------------------------------------------------

    async def applications(self) -> list[AppInfo]:
        return self._node.journal.infos()

    async def prepare(self, bundle: bytes, settings: list[str], continue_from: str) -> AppSpec:
        return await self._submission.prepare(bundle, settings, continue_from)

    async def voters_for(self, app: AppId, count: int) -> list[Contact]:
        return await self._submission.voters_for(app, count)

    async def submit(self, descriptor: Record) -> AppInfo:
        return await self._submission.submit(descriptor)

    async def follow(self, app: str, after: int = 0) -> AsyncIterator[AppEvent]:
        async for event in self._node.journal.follow(self._node.journal.resolve(app), after):
            yield event

    async def stop(self, order: Record) -> AppInfo:
        journal = self._node.journal
        spec = journal.spec(order.subject)
        if order.kind != Kind.STOP or spec is None:
            raise UsageError("that stops no application that this node knows", "see `mycelia ls`")
        if order.signer != spec.owner or not records.verify(order, Ed25519Verifier()):
            raise UsageError(f"only its owner can stop {spec.name}", "give the owner's key with --owner-key")
        self._node.daemon.command(Publish(order))
        await until(self._node.keeper, lambda: journal.info(spec.id).status in OVER, f"{spec.name} did not stop")
        return journal.info(spec.id)

    # ---- models and artifacts ---------------------------------------------------------------------------------------

    async def models(self) -> list[ModelInfo]:
        return self._models.known()

    async def model(self, reference: str) -> ModelInfo:
        return await self._models.find(reference)

    async def download(self, blob: bytes) -> AsyncIterator[bytes]:
        async for chunk in self._models.read(blob):
            yield chunk
