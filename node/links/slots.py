"""Places for those who have not shown who they are: few in total, fewer per party, and never kept by waiting.

Whoever comes gets a place.  When its party has used its share, or all places are taken, the one that has waited longest
in the party concerned, which is the largest one when all are taken, loses its own.  So a party that opens thousands of
connections pushes out its own and nobody else's, and a newcomer never waits for somebody who idles.  Pure.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

H = TypeVar("H", bound=Hashable)
P = TypeVar("P", bound=Hashable)


class Slots(Generic[P, H]):
    """``total`` places, at most ``each`` per party.  A holder is in here once."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._party: dict[H, P] = {}
        self._holders: OrderedDict[P, OrderedDict[H, None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._party)

    def __contains__(self, holder: H) -> bool:
        return holder in self._party

    def __iter__(self) -> Iterator[H]:
        return iter(tuple(self._party))

    def parties(self) -> tuple[P, ...]:
        """Those who have a place, the one whose turn is next in front."""
        return tuple(self._holders)

    def of(self, party: P) -> tuple[H, ...]:
        """The holders of ``party``, the one that came first in front."""
        return tuple(self._holders.get(party, ()))

    def take(self, party: P, holder: H) -> H | None:
        """Give ``holder`` a place; returns the one that lost its own for that."""
        lost = None
        if len(self._holders.get(party, ())) >= self._each:
            lost = self._oldest(party)
        elif len(self._party) >= self._total:
            lost = self._oldest(max(self._holders, key=lambda other: len(self._holders[other])))
        if lost is not None:
            self.leave(lost)
        self._party[holder] = party
        self._holders.setdefault(party, OrderedDict())[holder] = None
        return lost

    def leave(self, holder: H) -> bool:
        """Give the place back; False when ``holder`` has none."""
        if holder not in self._party:
            return False
        party = self._party.pop(holder)
        del self._holders[party][holder]
        if not self._holders[party]:
            del self._holders[party]
        return True

    def next(self) -> H | None:
        """Take out the first of the party whose turn it is; parties take turns.  None when nobody is here."""
        if not self._holders:
            return None
        party = next(iter(self._holders))
        holder = self._oldest(party)
        self._holders.move_to_end(party)
        self.leave(holder)
        return holder

    def _oldest(self, party: P) -> H:
        return next(iter(self._holders[party]))


def party(host: str) -> str:
    """What one party can be assumed to have only one of: an IPv4 address, or a /64 of IPv6."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
