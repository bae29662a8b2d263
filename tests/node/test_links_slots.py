"""Places for strangers: who loses which."""

from __future__ import annotations

from node.links.slots import Slots, party


def filled(total: int, each: int, *parties: str) -> Slots[str, int]:
    slots: Slots[str, int] = Slots(total, each)
    for holder, name in enumerate(parties):
        assert slots.take(name, holder) is None
    return slots


def test_a_party_that_has_used_its_share_loses_its_oldest() -> None:
    slots = filled(10, 2, "a", "a", "b")
    assert slots.take("a", 3) == 0
    assert slots.take("a", 4) == 1
    assert slots.of("a") == (3, 4)
    assert slots.of("b") == (2,)


def test_when_all_places_are_taken_the_largest_party_pays() -> None:
    slots = filled(4, 3, "a", "b", "b", "b")
    assert slots.take("c", 4) == 1
    assert slots.take("d", 5) == 2
    assert sorted(slots) == [0, 3, 4, 5]


def test_ten_thousand_of_one_party_take_nothing_from_another() -> None:
    slots = filled(64, 16, "honest")
    for holder in range(1, 10_000):
        slots.take("crowd", holder)
    assert len(slots) == 17
    assert 0 in slots


def test_ten_thousand_parties_stay_within_the_total() -> None:
    slots: Slots[str, int] = Slots(64, 16)
    for holder in range(10_000):
        slots.take(f"party {holder}", holder)
    assert sorted(slots) == list(range(10_000 - 64, 10_000))


def test_a_place_that_was_given_back_is_free() -> None:
    slots = filled(2, 1, "a", "b")
    assert slots.leave(0)
    assert not slots.leave(0)
    assert slots.take("a", 2) is None
    assert slots.of("c") == ()


def test_parties_take_turns() -> None:
    slots = filled(10, 9, "crowd", "crowd", "crowd", "crowd", "honest")
    assert [slots.next() for _ in range(6)] == [0, 4, 1, 2, 3, None]
    assert len(slots) == 0


def test_a_party_is_an_address_or_what_a_site_gets_of_ipv6() -> None:
    assert party("192.0.2.1") == party("::ffff:192.0.2.1") == "192.0.2.1"
    assert party("2001:db8::1") == party("2001:db8::2") != party("2001:db8:0:1::1")
    assert party("fe80::1%eth0") == party("fe80::2")
