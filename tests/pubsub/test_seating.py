"""Who guards the next head."""

from __future__ import annotations

from protocol.messages import Contact
from pubsub.seating import next_voters
from tests.pubsub.quiet import QuietRing
from tests.pubsub.seals import node

APP = b"application-id-1"
V = tuple(Contact(node(index), (f"10.0.0.{index}:1",), 1) for index in range(9))
ME = V[8]


def after(voters: tuple[Contact, ...], *dead: int) -> tuple[Contact, ...]:
    """The next of three voters, when ``dead`` are."""
    ring = QuietRing(V[3:])
    ring.dead = [V[index].id for index in dead]
    return next_voters(APP, voters, 3, ME.id, ring)


def test_one_voter_is_added_or_one_removed_never_both() -> None:
    assert after(V[:3]) == V[:3]
    assert after(V[:3], 2) == V[:2]
    assert after(V[:2], 2) == (*V[:2], V[3])


def test_never_towards_a_set_without_a_live_majority() -> None:
    assert after(V[:3], 0, 1, 2) == V[:3]
    assert after(V[:3], 1, 2) == V[:3]


def test_the_root_is_alive_whatever_its_ring_says() -> None:
    assert after((*V[:2], ME), 8) == (*V[:2], ME)
