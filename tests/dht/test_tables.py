"""Leaf set and routing table against the definition, computed naively."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dht.tables import SPACE, LeafSet, RoutingTable
from protocol.ids import clockwise, closeness, digit, shared_prefix
from protocol.messages import Contact

ME = bytes(2) + b"\x80" + bytes(13)
suffixes = st.one_of(
    st.binary(min_size=14, max_size=14),
    # Crowded places: near us, and sharing our first digits.
    st.binary(min_size=1, max_size=1).map(lambda b: ME[2:15] + b),
    st.binary(min_size=13, max_size=13).map(lambda b: ME[2:3] + b),
)
ids = suffixes.map(lambda suffix: bytes(2) + suffix)
strangers = ids.filter(lambda i: i != ME)


def contact(identifier: bytes, incarnation: int = 1) -> Contact:
    return Contact(identifier, ("host:1",), incarnation)


def filled(members: list[bytes], width: int) -> LeafSet:
    leaves = LeafSet(ME, width)
    for member in members:
        leaves.add(contact(member))
    return leaves


def naive(members: list[bytes], width: int) -> set[bytes]:
    right = sorted(members, key=lambda i: clockwise(ME, i))[:width]
    left = sorted(members, key=lambda i: clockwise(i, ME))[:width]
    return set(right) | set(left)


@given(st.lists(strangers, unique=True, max_size=40), st.integers(1, 6))
def test_the_leaf_set_is_the_nearest_of_each_side(members: list[bytes], width: int) -> None:
    leaves = filled(members, width)
    leaves.check()
    assert {c.id for c in leaves} == naive(members, width)
    assert len(leaves) == len(leaves.snapshot())
    for member in members:
        assert (member in leaves) == (member in naive(members, width))
        assert leaves.fits(member) == (member in naive(members, width))


@given(st.lists(strangers, unique=True, max_size=30), st.permutations(range(30)), st.integers(1, 6))
def test_order_of_arrival_does_not_matter(members: list[bytes], order: list[int], width: int) -> None:
    shuffled = [members[i] for i in order if i < len(members)]
    one, other = filled(members, width), filled(shuffled, width)
    assert {c.id for c in one} == {c.id for c in other}
    assert one.neighbours() == other.neighbours()


@given(st.lists(strangers, unique=True, min_size=1, max_size=30), st.integers(1, 6), ids)
def test_closest_is_the_closest_member_or_us(members: list[bytes], width: int, key: bytes) -> None:
    leaves = filled(members, width)
    nearest = min([ME, *(c.id for c in leaves)], key=lambda i: closeness(key, i))
    best = leaves.closest(key)
    assert (ME if best is None else best.id) == nearest
    if leaves.covers(key):
        assert nearest == min([ME, *members], key=lambda i: closeness(key, i))


@given(st.lists(strangers, unique=True, max_size=30), st.lists(strangers, unique=True, max_size=30), st.integers(1, 6))
def test_missing_names_exactly_those_that_would_enter(members: list[bytes], others: list[bytes], width: int) -> None:
    leaves = filled(members, width)
    held = {c.id for c in leaves}
    wanted = naive(sorted(held | set(others)), width)
    assert {c.id for c in leaves.missing([contact(i) for i in others])} == (wanted - held)


@given(st.lists(strangers, unique=True, min_size=1, max_size=30), st.data())
def test_removal_forgets_one_member(members: list[bytes], data: st.DataObject) -> None:
    leaves = filled(members, 4)
    victim = data.draw(st.sampled_from(members))
    before = {c.id for c in leaves}
    assert leaves.remove(victim) == (victim in before)
    leaves.check()
    assert {c.id for c in leaves} == before - {victim}
    assert not leaves.remove(victim)


def test_a_small_ring_is_covered_whole_and_a_large_one_is_not() -> None:
    step = SPACE // 100
    ring = [bytes(2) + ((int.from_bytes(ME[2:], "big") + i * step) % SPACE).to_bytes(14, "big") for i in range(1, 100)]
    far = ring[49]
    assert filled(ring[:5], 12).covers(far)
    assert not filled(ring, 12).covers(far)
    assert filled(ring, 12).covers(ring[11])
    assert filled([], 12).covers(far)
    assert filled([], 12).closest(far) is None


def test_edges_are_the_ends_of_short_sides_without_fillers() -> None:
    step = SPACE // 100
    ring = [bytes(2) + ((int.from_bytes(ME[2:], "big") + i * step) % SPACE).to_bytes(14, "big") for i in range(1, 100)]
    leaves = filled(ring, 3)
    assert leaves.edges() == []
    leaves.remove(ring[2])
    assert [c.id for c in leaves.edges()] == [ring[1]]
    leaves.remove(ring[-1])
    leaves.add(contact(ring[-3]))
    assert [c.id for c in leaves.edges()] == [ring[1], ring[-3]]


def test_a_newer_contact_replaces_and_we_are_never_a_member() -> None:
    leaves = filled([bytes(16)], 4)
    assert not leaves.add(contact(bytes(16), 2))
    assert [c.incarnation for c in leaves] == [2]
    assert not leaves.add(contact(ME))
    assert not leaves.fits(ME)


# ---- routing table ------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(strangers, st.integers(1, 1000)), max_size=60))
def test_each_slot_prefers_the_lowest_round_trip(offers: list[tuple[bytes, int]]) -> None:
    table = RoutingTable(ME)
    best: dict[tuple[int, int], tuple[bytes, int]] = {}
    for peer, rtt in offers:
        table.put(contact(peer), rtt)
        row = shared_prefix(ME, peer)
        place = row, digit(peer, row)
        held = best.get(place)
        if held is None or held[0] == peer or rtt * 8 < held[1] * 7:
            best[place] = peer, rtt
    table.check()
    assert {c.id for c in table.entries()} == {peer for peer, _ in best.values()}
    for peer, rtt in best.values():
        assert table.rtt(peer) == rtt
        assert table.get(peer) == contact(peer)
    assert len(table) == len(best)


def test_an_unmeasured_rival_waits_and_a_dead_holder_is_replaced() -> None:
    table = RoutingTable(ME)
    one, other = bytes(16), bytes(15) + b"\1"
    assert table.put(contact(one))
    assert not table.put(contact(other))
    assert not table.put(contact(other), 5)
    table.measured(one, 100)
    assert table.put(contact(other), 5)
    assert table.get(one) is None
    assert table.remove(other)
    assert not table.remove(other)
    assert table.put(contact(one))
    table.check()


@given(st.lists(strangers, unique=True, max_size=40), ids)
def test_alternates_make_progress(members: list[bytes], key: bytes) -> None:
    table = RoutingTable(ME)
    for member in members:
        table.put(contact(member))
    suspects = set(members[::3])
    found = table.closest(key, lambda peer: peer not in suspects)
    if found is not None:
        assert found.id not in suspects
        assert shared_prefix(found.id, key) >= shared_prefix(ME, key)
        assert closeness(key, found.id) < closeness(key, ME)


@settings(max_examples=30)
@given(st.lists(strangers, unique=True, max_size=40))
def test_rows_shrink_when_emptied(members: list[bytes]) -> None:
    table = RoutingTable(ME)
    for member in members:
        table.put(contact(member))
    for member in members:
        table.remove(member)
    assert len(table) == 0
    assert table.row(0) == []
    assert table.slot(0, 0) is None
