"""Joining a fabric: the issuer's side.  The joiner's, and the reasoning, is in ``enrol``.

This is the one port of a node that speaks to strangers, so everything about it is bounded before anything is believed:
connections at once (counted at ``accept``, before TLS costs anything), the time of each, the bytes of its question,
and the failures of one address, after which that address is not answered for a while.  Nothing else of the node
can be reached from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable

from protocol.errors import ConfigError, PeerError, StorageError
from protocol.ids import NodeId, short
from protocol.messages import Contact

from ..links.channels import split_address
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

MAX_CONNECTIONS = 64
DEADLINE = 10.0
"""Seconds for one connection, handshake included."""
MAX_FAILURES = 20
"""Failed attempts of one address (one /64 of IPv6) within ``FAILURE_WINDOW``.  Only failures count, so a site whose
thousand machines join through one address is not held up."""
FAILURE_WINDOW = 60.0
"""Seconds."""
MAX_ADDRESSES = 4096

_BACKLOG = 128
_SHUTDOWN = 1.0
"""Seconds for the closing TLS handshake."""
_ACCEPT_PAUSE = 0.5
"""Seconds between tries of accepting while the system has no room for another connection."""


class Failures:
    """Failed attempts per address, in fixed windows; the address seen longest ago is forgotten first."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, host: str, now: float) -> None:
        """Note one failure of ``host`` at ``now`` (seconds of any steady clock)."""
        key = _network(host)
        start, failures = self._windows.pop(key, (now, 0))
        if now - start >= FAILURE_WINDOW:
            start, failures = now, 0
        self._windows[key] = (start, failures + 1)
        if len(self._windows) > MAX_ADDRESSES:
            self._windows.popitem(last=False)

    def blocks(self, host: str, now: float) -> bool:
        """Whether ``host`` has used up its attempts."""
        start, failures = self._windows.get(_network(host), (now, 0))
        return failures >= MAX_FAILURES and now - start < FAILURE_WINDOW


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
        self._connections: dict[asyncio.Task[None], None] = {}
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    def start(self, address: str) -> int:
        """Listen on ``address`` (``HOST:PORT``) and return the port.  Raises ConfigError when that is impossible."""
        self._socket = _bind(address)
        self._accepting = self._supervisor.spawn(self._accept(self._socket), "join listener")
        return int(self._socket.getsockname()[1])

    def renewed(self) -> None:
        """Show the membership's new leaf from the next connection on."""
        load_leaf(self._context, self._membership.credentials().leaf)

    async def close(self) -> None:
        """Stop listening and drop the connections that stand.  Idempotent."""
        tasks = [*self._connections, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
        self._socket = self._accepting = None

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, (host, *_) = await loop.sock_accept(listening)
            except OSError as error:
                # Gone before it was accepted, or we are out of descriptors or memory: neither ends the service.
                if error.errno != errno.ECONNABORTED:
                    log.warning("cannot accept joiners: %s", error.strerror)
                    await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            if len(self._connections) >= MAX_CONNECTIONS or self._failures.blocks(host, time.monotonic()):
                connection.close()
                continue
            task = self._supervisor.spawn(self._serve(connection, host), "joiner")
            self._connections[task] = None
            task.add_done_callback(self._connections.pop)

    async def _serve(self, connection: socket.socket, host: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                answer = await self._converse(connection, host)
        except (OSError, asyncio.IncompleteReadError, PeerError) as error:
            log.info("a joiner at %s went away or sent nonsense: %s", host, error)
            self._failures.count(host, time.monotonic())
        else:
            if isinstance(answer, Refused) and answer.reason != Reason.UNAVAILABLE:
                self._failures.count(host, time.monotonic())

    async def _converse(self, connection: socket.socket, host: str) -> Answer:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_QUESTION)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=self._context,
            ssl_handshake_timeout=DEADLINE,
            ssl_shutdown_timeout=_SHUTDOWN,
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            answer = await self._answer(await read_question(reader), host)
            writer.write(pack(answer))
            await writer.drain()
            writer.close()
            # The joiner may hang up as soon as it has its answer.
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return answer
        finally:
            transport.abort()

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


def _network(host: str) -> str:
    """What one party can be assumed to have only one of: an IPv4 address, or a /64 of IPv6."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _bind(address: str) -> socket.socket:
    host, port = split_address(address)
    dual = host == "::"
    if dual and not socket.has_dualstack_ipv6():
        host, dual = "0.0.0.0", False  # noqa: S104 - what `[::]` means on a host without IPv6
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} is in use", "set node.join_listen to another port") from None
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}", "check node.join_listen") from error
    listening.setblocking(False)
    return listening
