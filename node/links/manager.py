"""All links of this daemon: who may connect, who is connected, and which link is given up when there are too many.

The manager dials, listens behind a ``front``, keeps one :class:`~node.links.control.Link` per peer, decodes frames, and
turns what happens into events for the core. A link on which nothing was said for a while is closed with a goodbye, so
that both sides know that nobody died; above the maximum the least recently used go first. Links from peers that cannot
be dialled back are left to them: only they could open them again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from node.supervisor import Supervisor
from protocol import wire
from protocol.errors import Code, PeerError, TransportError, UsageError
from protocol.events import Event, PeerDown, PeerUp, Received, SendFailed
from protocol.ids import NodeId, short
from protocol.messages import Contact, Message, Routed

from . import channels
from .channels import ACCEPTED, Current, DisownedError, UnreachableError
from .control import Link
from .frames import DriverMessage, Goodbye
from .front import Door, Front, FrontConfig
from .penalties import Penalties
from .streams import AcceptedStream, DialledStream, Stream

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds for which a peer that could not be dialled is not dialled again: doubles from the first to the longest."""
_PAUSES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Bounds and patience of the links."""

    dial_timeout: float = 5.0
    """Seconds until a dial, over all addresses of the peer, is given up."""
    idle_close: float = 900.0
    """Seconds without a frame after which a link is closed."""
    max_links: int = 64
    """Links above which the least recently used are closed; twice as many and newcomers are refused."""
    queue_frames: int = 512
    """Frames that wait for one peer."""
    queue_bytes: int = 8 << 20
    """Bytes that wait for one peer."""
    max_penalties: int = 32
    """Violations, leaking away, after which a peer is disconnected."""
    ban: float = 300.0
    """Seconds for which such a peer is refused."""
    front: FrontConfig = field(default_factory=FrontConfig)
    """What strangers may cost."""


MAX_REFUSALS = 64
"""Peers that are remembered for having refused this node."""

log = logging.getLogger("mycelia.node.links")


def _ignore(*_: object) -> None:
    """Until there is someone to listen."""


class LinkManager:
    """See the module.  All methods are called on the loop."""

    def __init__(
        self,
        me: NodeId,
        config: LinkConfig,
        current: Current,
        supervisor: Supervisor,
        *,
        post: Callable[[Event], None],
        lookup: Callable[[NodeId], Contact | None],
    ) -> None:
        """``post`` takes events for the core, ``lookup`` answers whom to dial where."""
        self.counters = dict.fromkeys(
            (
                "frames_in", "frames_out", "bytes_in", "bytes_out", "dials", "dials_failed", "sends_failed",
                "unsendable", "refused",
            ),
            0,
        )  # fmt: skip
        self._me = me
        self._config = config
        self._current = current
        self._supervisor = supervisor
        self._post = post
        self._lookup = lookup
        self._on_driver: Callable[[NodeId, DriverMessage], None] = _ignore
        self._on_gone: Callable[[NodeId], None] = _ignore
        self._clock = asyncio.get_running_loop().time
        self.penalties = Penalties(config.max_penalties, config.ban, self._clock)
        self._links: dict[NodeId, Link] = {}
        self._active: OrderedDict[NodeId, float] = OrderedDict()
        self._revoked: dict[NodeId, None] = {}
        self._refusals: dict[NodeId, tuple[str, bool]] = {}
        """Peers that took the call and refused this node a link: why, and whether for a revocation, as they say."""
        self._pauses: OrderedDict[NodeId, tuple[float, float]] = OrderedDict()
        self._sweeper: asyncio.TimerHandle | None = None
        self._server: Any = None
        self.front: Front | None = None
        """Where strangers come in; None while this node does not listen."""
        self._closing = False

    def attach(self, on_driver: Callable[[NodeId, DriverMessage], None], on_gone: Callable[[NodeId], None]) -> None:
        """``on_driver`` takes what other drivers say about transfers, ``on_gone`` is told when a peer cannot be talked
        to at the moment."""
        self._on_driver, self._on_gone = on_driver, on_gone

    # ---- life -------------------------------------------------------------------------------------------------------

    async def listen(self, addresses: Sequence[str], handlers: Mapping[str, Any]) -> tuple[str, ...]:
        """Serve links, and ``handlers`` beside them, on ``addresses``; returns them with the ports that were bound.

        Raises ConfigError.
        """
        if not addresses:
            return ()
        control = grpc.stream_stream_rpc_method_handler(self._serve)
        server = self._server = channels.make_server({"Control": control, **handlers})
        door = Door(lambda path: channels.bind(server, path, self._current))
        front = self.front = Front(door, self._config.front)
        await server.start()
        try:
            return tuple(front.listen(address) for address in addresses)
        except BaseException:
            await self._stop_listening()
            raise

    async def _stop_listening(self) -> None:
        if self.front is not None:
            self.front.close()
            self.front = None
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def close(self, patience: float = 1.0) -> None:
        """Send what waits, for ``patience`` seconds at most, then drop every link and stop listening."""
        try:
            async with asyncio.timeout(patience):
                for link in list(self._links.values()):
                    await link.flushed()
        except TimeoutError:
            pass
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for link in list(self._links.values()):
            link.abort("closed")
        if self._server is not None:
            await self._server.stop(None)
        await self._stop_listening()

    # ---- what the core asks for -------------------------------------------------------------------------------------

    def send(self, peer: NodeId, message: Message | Routed) -> None:
        """Deliver ``message``, dialling if need be; otherwise ``SendFailed`` comes back."""
        if self._closing and peer not in self._links:
            return
        self._link(peer).send(message)

    def connect(self, peer: NodeId) -> None:
        if peer != self._me and not self._closing:
            self._link(peer).connect()

    def disconnect(self, peer: NodeId, why: str) -> None:
        """Close the link with a goodbye, after what was already sent to ``peer``."""
        if (link := self._links.get(peer)) is not None:
            link.close(why)

    def revoke(self, peer: NodeId) -> None:
        """``peer`` is no longer a member: drop its link now and refuse it from here on."""
        self._revoked[peer] = None
        if (link := self._links.get(peer)) is not None:
            link.abort("revoked")
        self._expel(peer)

    def penalise(self, peer: NodeId, code: Code) -> None:
        """Count against ``peer``, and disconnect it when it is too much."""
        if not self.penalties.count(peer, code):
            return
        if (link := self._links.get(peer)) is not None:
            link.abort("closed")
        self._expel(peer)

    def linked(self, peer: NodeId) -> bool:
        link = self._links.get(peer)
        return link is not None and link.up

    def peers(self) -> list[NodeId]:
        """Those with a standing link."""
        return [peer for peer, link in self._links.items() if link.up]

    @property
    def disowned(self) -> list[NodeId]:
        """Peers that refuse this node because its membership was revoked, as they say."""
        return [peer for peer, (_, disowned) in self._refusals.items() if disowned]

    def strangers(self) -> dict[str, int]:
        """What happened at the door, and how many stand there now."""
        if self.front is None:
            return {}
        counted = {**self.front.counters, **self.front.standing()}
        return {f"strangers_{name}": count for name, count in counted.items()}

    def refusal(self, peer: NodeId) -> str:
        """Why ``peer`` may not have a link; empty when it may."""
        if peer == self._me:
            return "that is this node itself"
        if peer in self._revoked:
            return "membership revoked"
        if self.penalties.banned(peer):
            return "too many protocol violations"
        return "shutting down" if self._closing else ""

    async def open_channel(self, peer: NodeId) -> Any:
        """A new connection to ``peer``, which the caller closes.  Raises TransportError."""
        contact = self._lookup(peer)
        if refusal := self.refusal(peer):
            raise TransportError(refusal)
        if contact is None or not contact.dialable:
            raise UnreachableError(f"{short(peer)} has no address")
        until, pause = self._pauses.get(peer, (0.0, _FIRST_PAUSE))
        if self._clock() < until:
            raise UnreachableError(f"{short(peer)} was unreachable a moment ago")
        self.counters["dials"] += 1
        try:
            channel = await channels.open_channel(peer, contact.addresses, self._current, self._config.dial_timeout)
        except UnreachableError:
            self.counters["dials_failed"] += 1
            self._pauses[peer] = (self._clock() + pause, min(2 * pause, _LONGEST_PAUSE))
            if len(self._pauses) > _PAUSES:
                self._pauses.popitem(last=False)
            raise
        self._pauses.pop(peer, None)
        return channel

    # ---- what links ask for: control.Owner --------------------------------------------------------------------------

    async def dial(self, link: Link) -> Stream:
        channel = await self.open_channel(link.peer)
        try:
            async with asyncio.timeout(self._config.dial_timeout):
                stream = await DialledStream.open(channel)
        except TimeoutError:
            raise TransportError("no answer") from None
        except TransportError as error:
            self._note_refusal(link.peer, str(error), disowned=isinstance(error, DisownedError))
            raise
        self._refusals.pop(link.peer, None)
        return stream

    def _note_refusal(self, peer: NodeId, why: str, *, disowned: bool) -> None:
        """For the operator, once for as long as ``peer`` gives the same reason."""
        known = self._refusals.get(peer)
        if known == (why, disowned) or (known is None and len(self._refusals) >= MAX_REFUSALS):
            return
        self._refusals[peer] = (why, disowned)
        log.info("no link to %s: %s", short(peer), why)

    async def read(self, link: Link, stream: Stream) -> None:
        why = "closed"
        try:
            while (frame := await stream.read()) is not None:
                self.counters["frames_in"] += 1
                self.counters["bytes_in"] += len(frame)
                self._touch(link)
                message = self._decode(link.peer, frame)
                if isinstance(message, Goodbye):
                    # The sender's word is taken only for that which harms nobody: that it did not die.
                    why = "idle" if message.why == "idle" else "closed"
                    break
                if isinstance(message, DriverMessage):
                    self._on_driver(link.peer, message)
                elif message is not None:
                    self._post(Received(link.peer, message))
        finally:
            link.detach(stream, why)
            await stream.close()
            self.on_rest(link)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[Any]:
        return self._supervisor.spawn(coroutine, what)

    def wrote(self, link: Link, size: int) -> None:
        self.counters["frames_out"] += 1
        self.counters["bytes_out"] += size
        self._touch(link)

    def on_up(self, link: Link) -> None:
        self._pauses.pop(link.peer, None)
        self._touch(link)
        self._post(PeerUp(link.peer))
        if len(self._active) > self._config.max_links:
            self._close_oldest()
        if self._sweeper is None:
            self._arm()

    def on_down(self, link: Link, why: str) -> None:
        self._active.pop(link.peer, None)
        self._post(PeerDown(link.peer, why))
        self._on_gone(link.peer)

    def on_failed(self, link: Link, message: Message | Routed, why: str) -> None:
        self.counters["sends_failed"] += 1
        if isinstance(message, DriverMessage):
            self._on_gone(link.peer)
        else:
            self._post(SendFailed(link.peer, message))

    def on_unsendable(self, link: Link, error: UsageError) -> None:
        self.counters["unsendable"] += 1
        log.warning("not sent to %s: %s", short(link.peer), error)
        self.on_rest(link)

    def on_rest(self, link: Link) -> None:
        if link.quiet and self._links.get(link.peer) is link:
            del self._links[link.peer]

    # ---- inside -----------------------------------------------------------------------------------------------------

    async def admit(self, context: Any, unless_linked: str = "") -> NodeId:
        """The caller of an incoming call; a refusal, or ``unless_linked`` where it has no link, ends the call."""
        peer = await channels.identify(context)
        refusal = self.refusal(peer) or ("" if peer in self._links else unless_linked)
        if refusal:
            self.counters["refused"] += 1
            for_good = (channels.REVOKED,) if peer in self._revoked else ()
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal, for_good)
        if self.front is not None:
            self.front.admit(context.peer(), peer)
        return peer

    def _expel(self, peer: NodeId) -> None:
        if self.front is not None:
            self.front.expel(peer)

    async def _serve(self, _requests: Any, context: Any) -> None:
        """The server's half of ``Control``."""
        full = len(self._links) >= 2 * self._config.max_links
        peer = await self.admit(context, "too many links" if full else "")
        await context.send_initial_metadata((ACCEPTED,))
        with self._supervisor.guard("link"):
            stream = AcceptedStream(context)
            link = self._link(peer)
            link.attach(stream)
            await self.read(link, stream)

    def _decode(self, peer: NodeId, frame: bytes) -> Message | Routed | None:
        try:
            return wire.decode(frame)[0]
        except PeerError as error:
            self.penalise(peer, error.code)
            return None

    def _link(self, peer: NodeId) -> Link:
        link = self._links.get(peer)
        if link is None:
            config = self._config
            link = self._links[peer] = Link(self._me, peer, self, config.queue_frames, config.queue_bytes)
        return link

    def _touch(self, link: Link) -> None:
        if link.up:
            self._active[link.peer] = self._clock()
            self._active.move_to_end(link.peer)

    def _ours_to_close(self, link: Link) -> bool:
        """Whether either side can open the link again."""
        if link.dialled:
            return True
        contact = self._lookup(link.peer)
        return contact is not None and contact.dialable

    def _close_oldest(self) -> None:
        for peer in self._active:
            if self._ours_to_close(self._links[peer]):
                self._links[peer].close("idle")
                return

    def _arm(self) -> None:
        """One timer for all links, set for the one that has been silent longest."""
        self._sweeper = None
        if self._active and not self._closing:
            oldest = next(iter(self._active.values()))
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_at(oldest + self._config.idle_close, self._sweep)

    def _sweep(self) -> None:
        overdue = self._clock() - self._config.idle_close
        for peer, last in list(self._active.items()):
            if last > overdue:
                break
            if self._ours_to_close(self._links[peer]):
                self._links[peer].close("idle")
            self._touch(self._links[peer])
        self._arm()
