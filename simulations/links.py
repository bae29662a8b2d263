"""Links between hosts: dialling, order, and the ways in which they end.

A link behaves like one authenticated stream connection.  It keeps order in each direction; it is dialled by the first
message and counts as standing when that message arrives; whoever dies with a living kernel resets it, so that the
other side hears of it after one latency; whoever loses power says nothing.  Behind a cut a standing link only goes
quiet: what is sent is held, as in a kernel's buffers, until the cut heals (then it arrives late, or the link is reset)
or the kernel gives up.  A dial that nobody answers fails after a timeout; one that a living kernel without the process
answers is refused at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from protocol import wire
from protocol.events import Event, PeerDown, PeerUp, Received, SendFailed
from protocol.ids import NodeId
from protocol.messages import Message, Routed

from .clock import SECOND, Schedule
from .host import Host, Link, Parcel, State
from .network import Network

NOMINAL_BYTES = 160
"""Charged for messages that cannot be large: encoding each to learn its size would double the cost of a run."""
SMALL_LIMIT = 4096
HELD_LIMIT = 4096
"""Messages that a link which a cut holds up keeps; more are handed back."""


class Links:
    """All links, and how long a message takes on one."""

    def __init__(
        self,
        schedule: Schedule,
        network: Network,
        hosts: dict[NodeId, Host],
        deliver: Callable[[Host, Event], None],
        beside: Callable[[int, int], int] | None,
        *,
        check_wire: bool,
    ) -> None:
        """``beside``, of a shared uplink, is called with (host, bytes of a message) and answers how many transfers go
        out there."""
        self.sent = 0
        self.bytes = 0
        self._schedule = schedule
        self._network = network
        self._hosts = hosts
        self._deliver = deliver
        self._check_wire = check_wire
        self._ns_per_byte = SECOND / network.config.control_rate
        self._jitter = network.config.jitter
        self._draw = network.draw
        self._arrives = self._arrive
        """Bound once: a new bound method for each message would cost time and memory."""
        self._beside = beside
        self._held: dict[Link, None] = {}
        self._sized: Message | Routed | None = None
        self._size = 0

    # ---- what a process asks for ----

    def send(self, host: Host, peer: NodeId, message: Message | Routed) -> None:
        """Deliver ``message``, dialling if need be; the sender hears ``SendFailed`` if it is known not to have come."""
        if self._check_wire:
            message = _through_the_wire(message)
        link = host.links.get(peer) or self._dial(host, peer)
        if link is None:
            self._schedule.after(0, self._hand_back, host, host.boot, peer, message)
            return
        self.sent += 1
        inner = message.message if isinstance(message, Routed) else message
        size = NOMINAL_BYTES if inner.LIMIT <= SMALL_LIMIT else self._size_of(message)
        self.bytes += size
        leaves = self._schedule.now
        if host.busy_until > leaves:
            leaves = host.busy_until
        took = int(size * self._ns_per_byte)
        if self._beside is not None:
            took *= 1 + self._beside(host.index, size)
        host.busy_until = leaves = leaves + took
        if self._network.noise is None:
            self._schedule.at(self._arrival(link, host, leaves), self._arrives, link, host, message)
        else:
            self._carry_through_noise(link, host, message, leaves)

    def connect(self, host: Host, peer: NodeId) -> None:
        """Open a link ahead of need.  If that fails, the host is told that the link is down."""
        if peer in host.links:
            return
        link = self._dial(host, peer)
        if link is None:
            self._schedule.after(0, self._deliver_if, host, host.boot, PeerDown(peer, "closed"))
        else:
            self._carry(link, host, None, self._schedule.now)

    def disconnect(self, host: Host, peer: NodeId, why: str) -> None:
        """Close the link on purpose: both ends hear ``why``, and nobody takes it for a death."""
        link = host.links.pop(peer, None)
        if link is None:
            return
        other = link.other(host)
        if link.up:
            self._schedule.after(0, self._deliver_if, host, host.boot, PeerDown(peer, why))
        self._schedule.at(self._arrival(link, host, self._schedule.now), self._closed, link, host, other, why)

    # ---- what happens to hosts ----

    def process_died(self, host: Host) -> None:
        """The kernel closes every link of the dead process."""
        links, host.links = list(host.links.values()), {}
        for link in links:
            self._carry(link, host, None, self._schedule.now)

    def machine_died(self, host: Host) -> None:
        """Nobody is left to close anything."""
        host.links = {}

    def close_idle(self, hosts: Iterable[Host], before: int) -> None:
        """Close the links of ``hosts`` that have carried nothing since ``before``, as daemons do."""
        for host in hosts:
            for link in list(host.links.values()):
                idle = link.up and link.a is host and link.last_from_a < before and link.last_from_b < before
                if idle and link.held is None and link.serves(host):
                    self.disconnect(host, link.b.id, "idle")

    def recheck(self) -> None:
        """A cut healed or a machine came back: what was held goes on its way, or its link is reset."""
        for link in list(self._held):
            held = link.held or []
            for sender in (link.a, link.b):
                if not self._obstructed(sender, link.other(sender)):
                    released = [parcel for source, parcel in held if source is sender]
                    held = [(source, parcel) for source, parcel in held if source is not sender]
                    self._release(link, sender, released)
            link.held = held or None
            if link.held is None:
                del self._held[link]

    def _release(self, link: Link, sender: Host, parcels: list[Parcel]) -> None:
        if not parcels:
            return
        if self._network.heals_late():
            for parcel in parcels:
                # Retransmission timers have backed off meanwhile: the first packet through may be a while in coming.
                self._carry(link, sender, parcel, self._schedule.now + link.latency * 4)
            return
        receiver = link.other(sender)
        when = self._schedule.now + link.latency
        self._schedule.at(when, self._closed, link, sender, receiver, "closed")
        for parcel in parcels:
            self._schedule.at(when, self._undelivered, link, sender, parcel)

    # ---- on the way ----

    def _dial(self, host: Host, peer: NodeId) -> Link | None:
        assert host.core is not None
        contact = host.core.contact(peer)
        other = self._hosts.get(peer)
        if contact is None or not contact.dialable or other is None or other is host:
            return None
        link = Link(host, other, self._network.latency(host.index, other.index), self._schedule.now)
        host.links[peer] = link
        return link

    def _carry(self, link: Link, sender: Host, parcel: Parcel, leaves: int) -> None:
        self._schedule.at(self._arrival(link, sender, leaves), self._arrive, link, sender, parcel)

    def _carry_through_noise(self, link: Link, sender: Host, message: Message | Routed, leaves: int) -> None:
        arrive: Callable[[Link, Host, Message | Routed], None] = self._arrive
        for delay in self._network.disturb():
            if delay:
                when = max(leaves, link.opened + 2 * link.latency) + link.latency + delay
            else:
                when = self._arrival(link, sender, leaves)
            self._schedule.at(when, arrive, link, sender, message)
            arrive = self._arrive_again

    def _arrival(self, link: Link, sender: Host, leaves: int) -> int:
        when = leaves + link.latency + int(link.latency * self._jitter * self._draw())
        if sender is link.a:
            if when <= link.last_from_a:
                when = link.last_from_a + 1
            link.last_from_a = when
        else:
            if when <= link.last_from_b:
                when = link.last_from_b + 1
            link.last_from_b = when
        return when

    def _obstructed(self, sender: Host, receiver: Host) -> bool:
        network = self._network
        return receiver.state is State.OFF or (bool(network.cuts) and network.blocked(sender.index, receiver.index))

    def _arrive(self, link: Link, sender: Host, parcel: Parcel) -> None:
        receiver = link.b if sender is link.a else link.a
        if parcel is not None and receiver.links.get(sender.id) is link and not self._network.cuts:
            self._deliver(receiver, Received(sender.id, parcel))
        elif self._obstructed(sender, receiver) or (not link.up and self._unanswered(sender, receiver)):
            self._hold(link, sender, parcel)
        elif receiver.links.get(sender.id) is not link and not self._admit(link, sender, receiver):
            self._schedule.after(link.latency, self._undelivered, link, sender, parcel)
        elif parcel is not None:
            self._deliver(receiver, Received(sender.id, parcel))
        elif not link.serves(sender):
            self._closed(link, sender, receiver, "closed")

    def _arrive_again(self, link: Link, sender: Host, message: Message | Routed) -> None:
        """The second copy of a message, of whose fate nobody hears."""
        receiver = link.other(sender)
        if receiver.links.get(sender.id) is link and not self._obstructed(sender, receiver):
            self._deliver(receiver, Received(sender.id, message))

    def _unanswered(self, sender: Host, receiver: Host) -> bool:
        """A handshake needs the way back as well, and a process that runs."""
        return self._obstructed(receiver, sender) or receiver.state is State.FROZEN

    def _admit(self, link: Link, sender: Host, receiver: Host) -> bool:
        """May a message on a link that the receiver does not have come in?  A first message brings the link up."""
        if receiver.core is None or link.up:
            return False
        mine, theirs = receiver.links.get(sender.id), sender.links.get(receiver.id)
        if mine is not None and mine is theirs:
            return True  # Of two simultaneous dials the other one stands: it carries what was meant for this one.
        if theirs is not link:
            return False
        if mine is not None and mine.up:
            # The sender's process is a new one; the kernel resets the old connection when it hears of the new.
            self._closed(mine, sender, receiver, "closed")
        link.up, link.boot_b = True, receiver.boot
        receiver.links[sender.id] = link
        self._schedule.after(0, self._deliver_if, sender, sender.boot, PeerUp(receiver.id))
        self._deliver(receiver, PeerUp(sender.id))
        return True

    def _hold(self, link: Link, sender: Host, parcel: Parcel) -> None:
        now = self._schedule.now
        if not link.up:
            give_up = link.opened + self._network.config.dial_timeout_ns
            self._schedule.at(give_up, self._unanswered_dial, link, sender, parcel)
            return
        if link.held is None:
            link.held = []
            self._held[link] = None
        if not any(source is sender for source, _ in link.held):
            self._schedule.at(now + self._network.config.link_timeout_ns, self._expire, link, sender)
        if len(link.held) < HELD_LIMIT:
            link.held.append((sender, parcel))
        elif parcel is not None and link.serves(sender):
            self._schedule.after(0, self._hand_back, sender, sender.boot, link.other(sender).id, parcel)

    def _expire(self, link: Link, sender: Host) -> None:
        """The sender's kernel gives up; what a later cut holds on the same link shares the first one's patience."""
        held = link.held or []
        link.held = [(source, parcel) for source, parcel in held if source is not sender] or None
        if link.held is None:
            self._held.pop(link, None)
        for source, parcel in held:
            if source is not sender:
                continue
            if link.serves(sender):
                self._undelivered(link, sender, parcel)
            else:
                self._closed(link, sender, link.other(sender), "closed")

    # ---- the end ----

    def _closed(self, link: Link, gone: Host, host: Host, why: str) -> None:
        """``host`` finds its link to ``gone`` closed."""
        if host.links.get(gone.id) is link:
            del host.links[gone.id]
            if link.up:
                self._deliver(host, PeerDown(gone.id, why))

    def _undelivered(self, link: Link, sender: Host, parcel: Parcel) -> None:
        """A reset or a timeout tells ``sender`` that ``parcel`` did not arrive, and that the link is of no use."""
        if not link.serves(sender):
            return
        peer = link.other(sender).id
        if parcel is None and not link.up:
            sender.links.pop(peer, None)
            self._deliver(sender, PeerDown(peer, "closed"))
            return
        if sender.links.get(peer) is link:
            del sender.links[peer]
            if link.up:
                self._deliver(sender, PeerDown(peer, "closed"))
        if parcel is not None:
            self._deliver(sender, SendFailed(peer, parcel))

    def _unanswered_dial(self, link: Link, sender: Host, parcel: Parcel) -> None:
        """A dial timed out; if a later packet got through meanwhile, only this one is lost."""
        if not link.up:
            self._undelivered(link, sender, parcel)
        elif parcel is not None:
            self._deliver_if(sender, link.boot_of(sender), SendFailed(link.other(sender).id, parcel))

    def _hand_back(self, host: Host, boot: int, peer: NodeId, message: Message | Routed) -> None:
        self._deliver_if(host, boot, SendFailed(peer, message))

    def _deliver_if(self, host: Host, boot: int, event: Event) -> None:
        if host.boot == boot and host.core is not None:
            self._deliver(host, event)

    def _size_of(self, message: Message | Routed) -> int:
        if message is not self._sized:
            # A parent sends the same object to all its children, one after another.
            self._sized, self._size = message, wire.size(message)
        return self._size


def _through_the_wire(message: Message | Routed) -> Message | Routed:
    decoded, _ = wire.decode(wire.encode(message))
    assert decoded == message, f"changed by the wire: {message} became {decoded}"
    return decoded
