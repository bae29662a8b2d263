"""The control API on a real node: :class:`node.service.DaemonService`, method by method."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib import metadata
from itertools import count
from typing import Literal

import msgspec

from dht import records
from dht.messages import Record
from dht.records import Kind
from fl import aggregate, codec, validation
from fl.notices import Confirm, Deposited, FindVoters, Follow, Publish, Recover, ReplicasFound, StatusChanged
from fl.records import decode_spec
from fl.spec import AppSpec
from protocol.errors import AggregationError, MyceliaError, TransportError, UsageError
from protocol.ids import AppId, NodeId, short
from protocol.messages import INLINE_LIMIT, Contact, Value

from .assembly import Node, unix_time
from .daemon import now
from .identity import fabric
from .identity.fabric import is_issuer
from .identity.keys import Ed25519Verifier
from .identity.revocation import revoke
from .names import find_model, may_mean
from .service import (
    CHUNK,
    OVER,
    AppEvent,
    AppInfo,
    Invitation,
    ModelInfo,
    NodeStatus,
    PeerInfo,
    TrustInfo,
)
from .subscriptions import Lost
from .trust import parse_key

PATIENCE_S = 15.0
"""Seconds that a call waits for the fabric.  A look-up takes hops × round trip, well below a second; after a death in
its way it is repeated once the death is noticed, within 3 s."""
DEPOSIT_S = 3600.0
"""Seconds that a submission waits for voters who say that code and model are on their way: 10 GB at 22 Mbit/s."""
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
        self._tokens = count(1)

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
        await self._until(lambda: subject in here.keeper.revoked, "the revocation was not accepted")
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
        await self._until(lambda: membership.document.serial >= document.version, "the document was not accepted")
        return self._trust_info()

    # ---- applications -----------------------------------------------------------------------------------------------

    async def applications(self) -> list[AppInfo]:
        return self._node.journal.infos()

    async def prepare(self, bundle: bytes, settings: list[str], continue_from: str) -> AppSpec:
        node, workers = self._node, self._node.workers
        if not node.config.worker.enabled:
            raise UsageError(
                "this node runs no applications' code, so it cannot prepare one", "run it from another node"
            )
        declared = await workers.declare(bundle, settings)
        initial = await workers.initial(bundle, declared.options, declared.seed)
        parent = ""
        if continue_from:
            model = await self.model(continue_from)
            parent, blob = f"{model.name}@{model.version}", bytes.fromhex(model.blob)
            if not node.daemon.artifacts.has(blob):
                await self._fetch(blob)
            content = await node.daemon.artifacts.read(blob)
            if codec.flat(content)[0] != codec.flat(initial)[0]:
                raise AggregationError(
                    f"{parent} has other tensors than model() of {declared.name}", "continue with the same model()"
                )
            initial = content
        return msgspec.structs.replace(
            declared,
            zone=node.membership.document.zone,
            home=node.daemon.me,
            initial=await self._value(initial),
            bundle=await self._value(bundle),
            parent_model=parent,
            layout=aggregate.layout_of(initial),
        )

    async def _value(self, content: bytes) -> Value:
        """``content`` inline when it is small, else in the store."""
        if len(content) <= INLINE_LIMIT:
            return Value(len(content), content)
        return Value(len(content), blob=await self._node.daemon.artifacts.put(content))

    async def voters_for(self, app: AppId, count: int) -> list[Contact]:
        node = self._node
        if not 1 <= count <= 64:
            raise UsageError(f"an application cannot have {count} voters", "1 to 64 can be; 5 is usual")
        await self._until(lambda: node.ready, "this node is not in the ring yet")
        token = next(self._tokens)
        with node.daemon.subscribe() as notices:
            node.daemon.command(FindVoters(token, app, count))
            async with _patience("nobody answered who is close to the application"):
                async for notice in notices:
                    if isinstance(notice, ReplicasFound) and notice.token == token:
                        return list(notice.contacts)
        raise TransportError("the daemon is ending")

    async def submit(self, descriptor: Record) -> AppInfo:
        spec = decode_spec(descriptor.body)
        if descriptor.kind != Kind.APP or spec is None or spec.id != descriptor.subject:
            raise UsageError("that is not the descriptor of an application", "use the same version of mycelia on both")
        if not self._node.owns(spec.owner):
            raise UsageError(
                f"nobody here knows the owner {spec.owner.hex()}",
                "`mycelia trust add KEY --fabric` where the key of the fabric's owner is; "
                "`mycelia trust add KEY` lets it run code on one node",
            )
        if spec.owner != descriptor.signer or not records.verify(descriptor, Ed25519Verifier()):
            raise UsageError("the descriptor is not signed by its owner", "sign it with the owner's key")
        if why := validation.objection(spec):
            raise UsageError(f"nobody would work for it: {why}", "correct the application")
        await self._check_time(descriptor)
        journal = self._node.journal
        self._node.daemon.command(Publish(descriptor))
        await self._until(lambda: journal.spec(spec.id) is not None, "the descriptor was not accepted")
        self._node.daemon.command(Follow(spec.id))
        await self._deposited(spec)
        return journal.info(spec.id)

    async def _check_time(self, descriptor: Record) -> None:
        """Raises UsageError when the others would find that ``descriptor`` is over, or would not believe its date."""
        core = self._node.core
        if core is None:
            return
        ring = core.ring
        if len(ring.view.leaves) > 1:
            await self._until(lambda: ring.clock_confirmed, "no two nodes said what time it is")
        if error := ring.clock_error:
            raise UsageError(
                f"this clock is {abs(error) // 60} minutes {'ahead of' if error > 0 else 'behind'} those of the others",
                "set it, for example with NTP: what it signs now would be over, or not begin, for everybody else",
            )
        if not core.fits(descriptor, now()):
            raise UsageError(
                "by the clock of this node the descriptor is over already, or ends in more than a year",
                "set the clock of the machine that signs, or of the node, for example with NTP",
            )

    async def _deposited(self, spec: AppSpec) -> None:
        """Wait until a majority of the voters holds what ``spec`` names, so that this machine may burn.

        As long as voters say that it is on its way, that is waited for.  Raises TransportError.
        """
        answers, loop, daemon = Deposited(spec.id, (), ()), asyncio.get_running_loop(), self._node.daemon
        end = loop.time() + DEPOSIT_S
        with daemon.subscribe() as notices:
            daemon.command(Confirm(spec.id))
            try:
                async with asyncio.timeout(PATIENCE_S) as limit:
                    if self._node.journal.info(spec.id).status in OVER:
                        return
                    async for notice in notices:
                        if isinstance(notice, Lost):
                            daemon.command(Confirm(spec.id))
                        if isinstance(notice, StatusChanged) and notice.app == spec.id and notice.status in OVER:
                            return
                        if isinstance(notice, Deposited) and notice.app == spec.id:
                            answers = notice
                            if 2 * len(answers.held) > len(spec.voters):
                                return
                            limit.reschedule(min(loop.time() + PATIENCE_S, end))
            except TimeoutError:
                raise TransportError(*_homeless(spec, answers)) from None
        raise TransportError("the daemon is ending")

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
        await self._until(lambda: journal.info(spec.id).status in OVER, f"{spec.name} did not stop")
        return journal.info(spec.id)

    # ---- models and artifacts ---------------------------------------------------------------------------------------

    async def models(self) -> list[ModelInfo]:
        return self._node.journal.models(self._node.daemon.artifacts.has)

    async def model(self, reference: str) -> ModelInfo:
        journal = self._node.journal
        lacking = [run for run in journal.infos() if may_mean(run, reference) and _lacks_its_end(run)]
        for run in lacking:
            app = bytes.fromhex(run.id)
            self._node.daemon.command(Recover(app, journal.guardians(app)))
        if lacking:
            with suppress(TransportError):
                runs = [bytes.fromhex(run.id) for run in lacking]
                await self._until(
                    lambda: all(journal.info(run).complete for run in runs), "the last model did not come"
                )
        model = find_model(await self.models(), reference)
        still = journal.info(bytes.fromhex(model.app))
        if "@" not in reference and _lacks_its_end(still):
            raise TransportError(
                f"{still.name} has finished with version {still.base + still.round}, which nobody who guards it gave "
                f"out; this node has version {model.version}",
                f"try again later or on another node, or ask for {still.name}@{model.version}",
            )
        return model

    async def download(self, blob: bytes) -> AsyncIterator[bytes]:
        artifacts = self._node.daemon.artifacts
        if not artifacts.has(blob):
            await self._fetch(blob)
        reader = artifacts.reader(blob)
        try:
            while chunk := await reader.read():
                for start in range(0, len(chunk), CHUNK):
                    yield chunk[start : start + CHUNK]
        finally:
            reader.close()

    async def _fetch(self, blob: bytes) -> None:
        """Bring a model here from whoever guards it.  Raises UsageError, TransportError."""
        size, peers = self._node.journal.sources(blob)
        failure: MyceliaError = TransportError(
            "nobody who guards that model is known", "run the command on another node"
        )
        for peer in peers:
            if peer != self._node.membership.node:
                try:
                    await self._node.daemon.fetch(peer, blob, size)
                except TransportError as error:
                    failure = error
                else:
                    return
        raise failure

    # ---- waiting ----------------------------------------------------------------------------------------------------

    async def _until(self, holds: Callable[[], bool], otherwise: str) -> None:
        """Wait until what the keeper notes makes ``holds`` true.  Raises TransportError saying ``otherwise``."""
        noted = self._node.keeper.noted
        async with _patience(otherwise), noted:
            await noted.wait_for(holds)


def _lacks_its_end(run: AppInfo) -> bool:
    """Has it finished, without this node having its last round?"""
    return run.status == "finished" and not run.complete


def _homeless(spec: AppSpec, answers: Deposited) -> tuple[str, str]:
    """What a submission says that no majority of the voters holds, and what can be done."""
    fetching = [voter.id for voter in spec.voters if voter.id in answers.coming]
    silent = [voter.id for voter in spec.voters if voter.id not in (*answers.held, *answers.coming)]
    groups = (("no answer from", silent), ("still on its way to", fetching))
    why = "; ".join(f"{what} {', '.join(short(node) for node in nodes)}" for what, nodes in groups if nodes)
    what = f"{len(answers.held)} of its {len(spec.voters)} voters hold its code and first model"
    return (
        f"{spec.name} ({short(spec.id)}) is submitted, but only {what}: {why}",
        f"keep this node running until more of them do, or end it: mycelia stop {short(spec.id)}",
    )


@asynccontextmanager
async def _patience(otherwise: str) -> AsyncIterator[None]:
    """A time limit whose end is a TransportError that says ``otherwise``."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except TimeoutError:
        remedy = "see `mycelia status` and `mycelia logs`"
        raise TransportError(f"{otherwise} within {PATIENCE_S:.0f} seconds", remedy) from None


def version() -> str:
    """Of the installed distribution; ``source`` in a working tree that was never installed."""
    try:
        return metadata.version("mycelia-fabric")
    except metadata.PackageNotFoundError:
        return "source"
