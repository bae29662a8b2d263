"""Joining a fabric: the issuer's side.  The joiner's, and the reasoning, is in ``enrol``.

This port answers strangers, so everything about it is bounded before anything is believed.  A connection waits for its
turn, which costs a descriptor; addresses take turns, and conversations, each with a TLS handshake, begin at a bounded
rate.  Places are few per address and in total, and whoever takes long loses its place to whoever comes
(``links.slots``).  The time for the question and the time for the whole are bounded, and so are the bytes; an address
that asks wrongly too often is not answered for a while.  To be slow, silent or pushed out is no fault: behind one
address there may be others.  Nothing else of the node can be reached from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from protocol.errors import PeerError, StorageError
from protocol.ids import NodeId, short
from protocol.messages import Contact

from ..links.accepting import Acceptor
from ..links.slots import Slots, party
from ..supervisor import Supervisor
from .credentials import join_server_context, load_leaf
from .frames import (
    MAX_QUESTION,
    PROOF_DOMAIN,
    Answer,
    AskEndorsement,
    AskFabric,
    Endorsed,
    Question,
    Refused,
    ShowFabric,
    pack,
    proof_bytes,
    read_question,
)
from .keys import Ed25519Verifier
from .ledger import Ledger, Reason, RefusedError
from .membership import Authority, Membership

log = logging.getLogger("mycelia.identity")

WAITING, WAITING_EACH = 256, 128
"""Connections whose turn has not come, in total and per address (per /64 of IPv6)."""
CONVERSATIONS, CONVERSATIONS_EACH = 32, 8
"""Those that are being served: some 300 kB each."""
PACE = 0.005
"""Seconds between the beginnings of two conversations: a handshake takes half of that."""
QUESTION_DEADLINE = 4.0
"""Seconds from a connection's turn to its whole question, handshake included."""
DEADLINE = 10.0
"""Seconds from a connection's turn to its end."""
MAX_FAILURES = 20
"""Failed attempts of one address (one /64 of IPv6) within ``FAILURE_WINDOW``.  Only failures count, so a site whose
thousand machines join through one address is not held up."""
FAILURE_WINDOW = 60.0
"""Seconds."""
MAX_ADDRESSES = 4096

SETTING = "node.join_listen"

_SHUTDOWN = 1.0
"""Seconds for the closing TLS handshake."""


class Failures:
    """Failed attempts per address, in fixed windows; the address seen longest ago is forgotten first."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, host: str, now: float) -> None:
        """Note one failure of ``host`` at ``now`` (seconds of any steady clock)."""
        key = party(host)
        start, failures = self._windows.pop(key, (now, 0))
        if now - start >= FAILURE_WINDOW:
            start, failures = now, 0
        self._windows[key] = (start, failures + 1)
        if len(self._windows) > MAX_ADDRESSES:
            self._windows.popitem(last=False)

    def blocks(self, host: str, now: float) -> bool:
        """Whether ``host`` has used up its attempts."""
        start, failures = self._windows.get(party(host), (now, 0))
        return failures >= MAX_FAILURES and now - start < FAILURE_WINDOW


class _Caller(NamedTuple):
    connection: socket.socket
    host: str

    def over(self, _: object) -> None:
        self.connection.close()


class JoinListener:
    """Endorses whoever shows a valid invitation."""

    def __init__(
        self,
        membership: Membership,
        authority: Authority,
        ledger: Ledger,
        *,
        supervisor: Supervisor,
        unix_time: Callable[[], int],
        seeds: Callable[[], tuple[Contact, ...]],
        revoked: Callable[[NodeId], bool],
    ) -> None:
        """``seeds`` gives the contacts, at most 64, that a new node is told to dial, ``revoked`` who may not return."""
        self._membership = membership
        self._authority = authority
        self._ledger = ledger
        self._supervisor = supervisor
        self._unix_time = unix_time
        self._seeds = seeds
        self._revoked = revoked
        self._context = join_server_context(membership.credentials().leaf)
        self._verifier = Ed25519Verifier()
        self._failures = Failures()
        self._acceptor: Acceptor | None = None
        self._waiting: Slots[str, _Caller] = Slots(WAITING, WAITING_EACH)
        self._talking: Slots[str, asyncio.Task[None]] = Slots(CONVERSATIONS, CONVERSATIONS_EACH)
        self._arrived = asyncio.Event()
        self._turns: asyncio.Task[None] | None = None

    def start(self, address: str) -> int:
        """Listen on ``address`` (``HOST:PORT``) and return the port.  Raises ConfigError when that is impossible."""
        self._acceptor = Acceptor(address, SETTING, self._accept)
        self._turns = self._supervisor.spawn(self._take_turns(), "join listener")
        return self._acceptor.port

    def renewed(self) -> None:
        """Show the membership's new leaf from the next connection on."""
        load_leaf(self._context, self._membership.credentials().leaf)

    async def close(self) -> None:
        """Stop listening and drop the connections that stand.  Idempotent."""
        if self._acceptor is not None:
            self._acceptor.close()
        tasks = [*self._talking, *([self._turns] if self._turns else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while (caller := self._waiting.next()) is not None:
            caller.connection.close()
        self._acceptor = self._turns = None

    def _accept(self, connection: socket.socket, host: str) -> None:
        if self._failures.blocks(host, time.monotonic()):
            connection.close()
            return
        if (lost := self._waiting.take(party(host), _Caller(connection, host))) is not None:
            lost.connection.close()
        self._arrived.set()

    async def _take_turns(self) -> None:
        while True:
            await self._arrived.wait()
            caller = self._waiting.next()
            if caller is None:
                self._arrived.clear()
                continue
            task = self._supervisor.spawn(self._serve(*caller), "joiner")
            task.add_done_callback(self._talking.leave)
            # Also of one that is cancelled before its first step.
            task.add_done_callback(caller.over)
            if (lost := self._talking.take(party(caller.host), task)) is not None:
                lost.cancel()
            await asyncio.sleep(PACE)

    async def _serve(self, connection: socket.socket, host: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                await self._converse(connection, host)
        except (OSError, asyncio.IncompleteReadError) as error:
            log.info("a joiner at %s went away or took too long: %s", host, error)

    async def _converse(self, connection: socket.socket, host: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_QUESTION)
        protocol = asyncio.StreamReaderProtocol(reader)
        in_time = asyncio.timeout(QUESTION_DEADLINE)
        async with in_time:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=QUESTION_DEADLINE,
                ssl_shutdown_timeout=_SHUTDOWN,
            )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            async with asyncio.timeout_at(in_time.when()):
                question = await self._question(reader, host)
            answer = question if isinstance(question, Refused) else await self._answer(question, host)
            if isinstance(answer, Refused) and answer.reason != Reason.UNAVAILABLE:
                self._failures.count(host, time.monotonic())
            writer.write(pack(answer))
            await writer.drain()
            writer.close()
            # The joiner may hang up as soon as it has its answer.
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        finally:
            transport.abort()

    async def _question(self, reader: asyncio.StreamReader, host: str) -> Question | Refused:
        """Who asks what nobody can read, perhaps a joiner of another version, is told so."""
        try:
            return await read_question(reader)
        except PeerError as error:
            log.info("a joiner at %s sent nonsense: %s", host, error)
            return Refused(Reason.MALFORMED)

    async def _answer(self, question: Question, host: str) -> Answer:
        if isinstance(question, AskFabric):
            return ShowFabric(self._membership.signed)
        try:
            endorsement = await self._endorse(question)
        except RefusedError as error:
            log.info("refused a joiner at %s: %s", host, error)
            return Refused(error.reason)
        except StorageError as error:
            log.error("cannot endorse a joiner at %s: %s", host, error)  # noqa: TRY400 - the sentence says it all
            return Refused(Reason.UNAVAILABLE)
        return Endorsed(endorsement, self._membership.signed, self._seeds())

    async def _endorse(self, question: AskEndorsement) -> bytes:
        document, key = self._membership.document, question.public_key
        proven = proof_bytes(document.fingerprint, question.secret, key)
        if not self._verifier.verify(key, PROOF_DOMAIN, proven, question.proof):
            raise RefusedError(Reason.UNPROVEN)
        node = self._authority.node(key, document.zone)
        if self._revoked(node):
            raise RefusedError(Reason.REVOKED)
        now = self._unix_time()
        endorsement = await self._ledger.redeem(
            question.secret, key, now, lambda: self._authority.endorse(key, document.zone, now)
        )
        log.info("endorsed node %s", short(node))
        return endorsement
