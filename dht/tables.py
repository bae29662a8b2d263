"""The two tables of a Pastry node (Rowstron & Druschel, Middleware 2001, section 2.2).

The *leaf set* holds the nodes with the nearest ids on either side; it decides who is closest to a key, so it holds
only nodes that were heard from directly.  The *routing table* has a row per shared prefix length and a column per
next digit; any node with the right prefix serves a slot, so the one with the lowest round trip is preferred
(proximity neighbour selection, Castro, Druschel, Hu & Rowstron 2002).

In a ring of fewer than 25 nodes the two sides of the leaf set overlap and cover the whole circle.  While a side is
short because of deaths it is filled up with nodes from the far end of the other side, as if the ring were small;
that costs a detour at worst, because whether a node *delivers* depends only on its two immediate neighbours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from protocol.ids import BASE, DIGITS, SUFFIX_BYTES, NodeId, closeness, digit, shared_prefix, suffix
from protocol.messages import Contact

SPACE = 1 << (SUFFIX_BYTES * 8)
_MASK = SPACE - 1
_HALF = SPACE >> 1


class LeafSet:
    """Up to ``width`` nearest contacts on each side of ``me``, by distance in that direction."""

    __slots__ = (
        "_left", "_left_at", "_me", "_members", "_origin", "_right", "_right_at", "_snapshot", "_whole", "_width",
    )  # fmt: skip

    def __init__(self, me: NodeId, width: int) -> None:
        self._me = me
        self._origin = suffix(me)
        self._width = width
        self._members: dict[NodeId, Contact] = {}
        self._right: list[NodeId] = []
        self._right_at: list[int] = []
        self._left: list[NodeId] = []
        self._left_at: list[int] = []
        self._snapshot: tuple[Contact, ...] | None = ()
        self._whole = True
        """Both sides together go round the whole ring."""

    def _offset(self, identifier: bytes) -> int:
        return (int.from_bytes(identifier, "big") - self._origin) & _MASK

    # ---- membership ----

    def get(self, peer: NodeId) -> Contact | None:
        return self._members.get(peer)

    def __contains__(self, peer: NodeId) -> bool:
        return peer in self._members

    def __iter__(self) -> Iterator[Contact]:
        return iter(self.snapshot())

    def __len__(self) -> int:
        return len(self._members)

    def snapshot(self) -> tuple[Contact, ...]:
        """All members once each; built when something changed, shared until then."""
        if self._snapshot is None:
            self._snapshot = tuple(self._members.values())
        return self._snapshot

    def fits(self, peer: NodeId, width: int = 0) -> bool:
        """Would ``peer`` be (or is it) among the nearest ``width`` (default: all) of a side?"""
        offset = self._offset(peer)
        if offset == 0:
            return False
        width = width or self._width
        right_at, left_at = self._right_at, self._left_at
        return (
            len(right_at) < width
            or len(left_at) < width
            or offset <= right_at[width - 1]
            or SPACE - offset <= left_at[width - 1]
        )

    def missing(self, candidates: Sequence[Contact]) -> list[Contact]:
        """Those of ``candidates`` that would enter if all of them did, members left out."""
        strangers = {contact.id: contact for contact in candidates if contact.id not in self._members}
        chosen: dict[NodeId, Contact] = {}
        ranked = sorted([(self._offset(peer), peer) for peer in strangers])
        for i, (offset, peer) in enumerate(ranked):
            if bisect_left(self._right_at, offset) + i >= self._width:
                break
            chosen[peer] = strangers[peer]
        for i, (offset, peer) in enumerate(reversed(ranked)):
            if bisect_left(self._left_at, SPACE - offset) + i >= self._width:
                break
            chosen[peer] = strangers[peer]
        return list(chosen.values())

    def add(self, contact: Contact) -> bool:
        """Insert or refresh; True when the membership changed."""
        peer = contact.id
        held = self._members.get(peer)
        if held is not None:
            if held != contact:
                self._members[peer] = contact
                self._snapshot = None
            return False
        offset = self._offset(peer)
        if offset == 0:
            return False
        outcast = [
            self._insert(self._right, self._right_at, offset, peer),
            self._insert(self._left, self._left_at, SPACE - offset, peer),
        ]
        if peer in outcast and peer not in self._right and peer not in self._left:
            return False
        self._members[peer] = contact
        for other in outcast:
            if other is not None and other not in self._right and other not in self._left:
                self._members.pop(other, None)
        self._changed()
        return True

    def _insert(self, side: list[NodeId], at: list[int], offset: int, peer: NodeId) -> NodeId | None:
        """Put ``peer`` into a side; who falls off its end, perhaps ``peer`` itself."""
        i = bisect_left(at, offset)
        if i >= self._width:
            return peer
        at.insert(i, offset)
        side.insert(i, peer)
        if len(at) <= self._width:
            return None
        at.pop()
        return side.pop()

    def remove(self, peer: NodeId) -> bool:
        """True when it was a member."""
        if self._members.pop(peer, None) is None:
            return False
        for side, at in ((self._right, self._right_at), (self._left, self._left_at)):
            if peer in side:
                i = side.index(peer)
                del at[i], side[i]
        self._changed()
        return True

    def _changed(self) -> None:
        self._snapshot = None
        right_at, left_at = self._right_at, self._left_at
        if right_at and left_at:
            self._whole = right_at[-1] + left_at[-1] >= SPACE
        else:
            self._whole = not self._members

    # ---- geometry ----

    def covers(self, key: bytes) -> bool:
        """Is ``key`` within the leaf set's range, so that the closest member is the closest node?"""
        if self._whole:
            return True
        offset = self._offset(key)
        return (
            offset == 0
            or (bool(self._right_at) and offset <= self._right_at[-1])
            or (bool(self._left_at) and SPACE - offset <= self._left_at[-1])
        )

    @property
    def spacing(self) -> int:
        """Mean distance of neighbours on the ring, over all members; 0 while they may be all nodes that there are."""
        right_at, left_at = self._right_at, self._left_at
        if self._whole or len(right_at) < self._width or len(left_at) < self._width:
            return 0
        return (right_at[-1] + left_at[-1]) // (len(right_at) + len(left_at))

    def closest(self, key: bytes) -> Contact | None:
        """The member closest to ``key``, or None when ``me`` is closer."""
        offset = self._offset(key)
        if offset == 0 or not self._members:
            return None
        if self._right_at and offset <= self._right_at[-1]:
            side, at, where = self._right, self._right_at, offset
        else:
            side, at, where = self._left, self._left_at, SPACE - offset
        i = bisect_left(at, where)
        best, best_distance = self._me, min(offset, SPACE - offset)
        for j in (i - 1, i):
            if 0 <= j < len(at):
                distance = abs(at[j] - where)
                distance = min(distance, SPACE - distance)
                if distance < best_distance or (distance == best_distance and side[j] < best):
                    best, best_distance = side[j], distance
        if i == len(at) and self._right and closeness(key, self._right[-1]) < closeness(key, best):
            best = self._right[-1]
        return self._members.get(best)

    def neighbours(self) -> tuple[NodeId, ...]:
        """The immediate neighbours: two, or one in a ring of two, or none."""
        return tuple(dict.fromkeys(self._right[:1] + self._left[:1]))

    def nearest(self, width: int) -> list[Contact]:
        """The nearest ``width`` of each side, once each."""
        return [self._members[peer] for peer in dict.fromkeys(self._right[:width] + self._left[:width])]

    def edges(self) -> list[Contact]:
        """The farthest true member of each side that is short of them: whom to ask for more.

        Members beyond half the ring are not true ones: they fill a side up while nobody nearer is known.
        """
        edges = []
        for side, at in ((self._right, self._right_at), (self._left, self._left_at)):
            true = bisect_left(at, _HALF)
            if side and true < self._width:
                edges.append(side[max(true - 1, 0)])
        return [self._members[peer] for peer in dict.fromkeys(edges)]

    def ends(self) -> list[Contact]:
        """The farthest member of each side, however many there are: it knows those that are a little nearer."""
        return [self._members[peer] for peer in dict.fromkeys(side[-1] for side in (self._right, self._left) if side)]

    def check(self) -> None:
        """Raise AssertionError when a side is out of order, too long or at the wrong distances."""
        for side, at, sign in ((self._right, self._right_at, 1), (self._left, self._left_at, -1)):
            assert len(side) == len(at) <= self._width
            assert at == sorted(at)
            assert at == [sign * (suffix(peer) - self._origin) % SPACE for peer in side]
        assert sorted(self._members) == sorted(dict.fromkeys(self._right + self._left))
        assert self._me not in self._members
        assert all(contact.dialable for contact in self._members.values())


class RoutingTable:
    """Rows by shared prefix, columns by next digit; rows exist only from the first entry on."""

    __slots__ = ("_me", "_rows", "_rtt")

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._rows: list[list[Contact | None]] = []
        self._rtt: dict[NodeId, int] = {}

    def _place(self, peer: NodeId) -> tuple[int, int]:
        row = shared_prefix(self._me, peer)
        return row, digit(peer, row) if row < DIGITS else 0

    def slot(self, row: int, column: int) -> Contact | None:
        return self._rows[row][column] if row < len(self._rows) else None

    def get(self, peer: NodeId) -> Contact | None:
        entry = self.slot(*self._place(peer))
        return entry if entry is not None and entry.id == peer else None

    def rtt(self, peer: NodeId) -> int | None:
        """Last measured round trip of an entry, ns."""
        return self._rtt.get(peer)

    def put(self, contact: Contact, rtt: int | None = None) -> bool:
        """Take ``contact`` when its slot is free, is its own, or is held by a node measured to be farther.

        False when the slot stays with another node: the caller may measure ``contact`` and try again.
        """
        row, column = self._place(contact.id)
        if row >= DIGITS:
            return True
        holder = self.slot(row, column)
        if holder is not None and holder.id != contact.id:
            incumbent = self._rtt.get(holder.id)
            # An eighth of hysteresis: two equal candidates must not displace each other for ever.
            if rtt is None or incumbent is None or rtt * 8 >= incumbent * 7:
                return False
            del self._rtt[holder.id]
        while len(self._rows) <= row:
            self._rows.append([None] * BASE)
        self._rows[row][column] = contact
        if rtt is not None:
            self._rtt[contact.id] = rtt
        return True

    def measured(self, peer: NodeId, rtt: int) -> None:
        """Note the round trip of an entry."""
        if self.get(peer) is not None:
            self._rtt[peer] = rtt

    def remove(self, peer: NodeId) -> bool:
        row, column = self._place(peer)
        holder = self.slot(row, column)
        if holder is None or holder.id != peer:
            return False
        self._rows[row][column] = None
        self._rtt.pop(peer, None)
        while self._rows and not any(self._rows[-1]):
            self._rows.pop()
        return True

    def row(self, row: int) -> list[Contact]:
        return [entry for entry in self._rows[row] if entry is not None] if row < len(self._rows) else []

    def entries(self, first_row: int = 0) -> Iterator[Contact]:
        """All contacts that share at least ``first_row`` digits with us."""
        for row in self._rows[first_row:]:
            for entry in row:
                if entry is not None:
                    yield entry

    def __len__(self) -> int:
        return sum(1 for _ in self.entries())

    def closest(self, key: bytes, usable: Callable[[NodeId], bool]) -> Contact | None:
        """The rare case: an entry with no shorter shared prefix than ours that is numerically closer to ``key``."""
        best: Contact | None = None
        best_rank = closeness(key, self._me)
        for entry in self.entries(shared_prefix(self._me, key)):
            rank = closeness(key, entry.id)
            if rank < best_rank and usable(entry.id):
                best, best_rank = entry, rank
        return best

    def check(self) -> None:
        """Raise AssertionError when an entry sits in a slot that is not its own."""
        for r, row in enumerate(self._rows):
            assert len(row) == BASE
            for c, entry in enumerate(row):
                assert entry is None or (entry.dialable and self._place(entry.id) == (r, c))
        assert all(self.get(peer) is not None for peer in self._rtt)
