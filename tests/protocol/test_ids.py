"""Geometry of the id space, checked against plain integers."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from protocol import ids

SPACE = 1 << 112
positions = st.binary(min_size=16, max_size=16)


def test_ring_id_is_the_zone_and_a_hash_of_key_and_index() -> None:
    digest = hashlib.sha256(b"key" + b"\0\0\0\2").digest()
    assert ids.ring_id(0x1234, b"key", index=2) == b"\x12\x34" + digest[:14]


def test_app_id_separates_its_fields() -> None:
    made = {ids.app_id(0, name, owner, salt) for name, owner, salt in [("ab", b"c", b""), ("a", b"bc", b"")]}
    assert len(made) == 2
    assert ids.zone_of(ids.app_id(7, "a", b"", b"")) == 7


def test_blob_id_is_sha256_of_any_buffer() -> None:
    assert ids.blob_id(memoryview(b"abc")) == ids.blob_id(b"abc") == hashlib.sha256(b"abc").digest()


@given(positions)
def test_digits_spell_the_suffix(a: bytes) -> None:
    assert "".join(f"{ids.digit(a, row):x}" for row in range(ids.DIGITS)) == f"{ids.suffix(a):028x}"


@given(positions, positions)
def test_shared_prefix_counts_equal_leading_digits(a: bytes, b: bytes) -> None:
    shared = ids.shared_prefix(a, b)
    assert all(ids.digit(a, row) == ids.digit(b, row) for row in range(shared))
    assert shared == ids.DIGITS or ids.digit(a, shared) != ids.digit(b, shared)


@given(positions, positions)
def test_distance_is_symmetric_and_the_shorter_way(a: bytes, b: bytes) -> None:
    there, back = ids.clockwise(a, b), ids.clockwise(b, a)
    assert (there + back) % SPACE == 0
    assert ids.distance(a, b) == ids.distance(b, a) == min(there, back)
    assert (ids.distance(a, b) == 0) == (a[2:] == b[2:])


@given(positions, positions, positions)
def test_distance_obeys_the_triangle(a: bytes, b: bytes, c: bytes) -> None:
    assert ids.distance(a, c) <= ids.distance(a, b) + ids.distance(b, c)


@given(positions, st.lists(positions, min_size=1, unique=True))
def test_all_agree_on_the_closest(key: bytes, candidates: list[bytes]) -> None:
    closest = min(candidates, key=lambda one: ids.closeness(key, one))
    assert closest == min(reversed(candidates), key=lambda one: ids.closeness(key, one))
    assert all(ids.distance(key, closest) <= ids.distance(key, one) for one in candidates)


def test_a_tie_goes_to_the_smaller_id() -> None:
    key, below, above = (bytes(2) + n.to_bytes(14, "big") for n in (100, 90, 110))
    assert min([above, below], key=lambda one: ids.closeness(key, one)) == below


def test_short_names_are_eight_digits_of_the_suffix() -> None:
    assert ids.short(bytes(range(16))) == "02030405"
