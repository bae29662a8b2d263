"""From a bundle to an accepted run.

A worker process declares what the bundle's application is and makes its first model (``prepare``), the ring is asked
who is close to its id and may guard it (``voters_for``), and the descriptor that the owner has signed meanwhile is
published (``submit``).  It is refused here whenever it can be known that others would refuse it: a wrong owner, a clock
that nobody else shares, options of no strategy.  It is accepted when a majority of its voters holds code and first
model durably, so that this machine may burn.
"""

from __future__ import annotations

import asyncio
from itertools import count

import msgspec

from dht import records
from dht.messages import Record
from dht.records import Kind
from fl import aggregate, codec, validation
from fl.notices import Confirm, Deposited, FindVoters, Follow, Publish, ReplicasFound, StatusChanged
from fl.records import decode_spec
from fl.spec import AppSpec
from protocol.errors import AggregationError, TransportError, UsageError
from protocol.ids import AppId, short
from protocol.messages import INLINE_LIMIT, Contact, Value

from . import waiting
from .assembly import Node
from .daemon import now
from .identity.keys import Ed25519Verifier
from .models import Models
from .service import OVER, AppInfo
from .subscriptions import Lost
from .waiting import patience, until

DEPOSIT_S = 3600.0
"""Seconds that a submission waits for voters who say that code and model are on their way: 10 GB at 22 Mbit/s."""


class Submission:
    """What a node does for those who submit an application."""

    def __init__(self, node: Node, models: Models) -> None:
        self._node, self._models = node, models
        self._tokens = count(1)

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
            model = await self._models.find(continue_from)
            parent, blob = f"{model.name}@{model.version}", bytes.fromhex(model.blob)
            if not node.daemon.artifacts.has(blob):
                await self._models.fetch(blob)
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
        await until(node.keeper, lambda: node.ready, "this node is not in the ring yet")
        token = next(self._tokens)
        with node.daemon.subscribe() as notices:
            node.daemon.command(FindVoters(token, app, count))
            async with patience("nobody answered who is close to the application"):
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
        await until(self._node.keeper, lambda: journal.spec(spec.id) is not None, "the descriptor was not accepted")
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
            await until(self._node.keeper, lambda: ring.clock_confirmed, "no two nodes said what time it is")
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
                async with asyncio.timeout(waiting.PATIENCE_S) as limit:
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
                            limit.reschedule(min(loop.time() + waiting.PATIENCE_S, end))
            except TimeoutError:
                raise TransportError(*_homeless(spec, answers)) from None
        raise TransportError("the daemon is ending")


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
