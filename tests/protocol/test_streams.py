"""Random streams: repeatable, independent, uniform; golden draws keep replays of old runs valid."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.streams import Stream

GOLDEN = [4242448887977575955, 9767901500086690379, 13225682705104881253]

purposes = st.lists(st.one_of(st.text(max_size=4), st.binary(max_size=4), st.integers()), max_size=3)


def draws(stream: Stream, count: int = 8) -> list[int]:
    return [stream.bits() for _ in range(count)]


def test_golden_draws() -> None:
    assert draws(Stream(1, "golden", b"x", 2), 3) == GOLDEN


@given(st.integers(), purposes)
def test_a_stream_repeats_itself(seed: int, purpose: list[str | bytes | int]) -> None:
    assert draws(Stream(seed, *purpose)) == draws(Stream(seed, *purpose))


def test_streams_of_different_purposes_differ() -> None:
    names: list[tuple[str | bytes | int, ...]] = [(), ("a",), ("b",), (b"a",), (1,), ("1",), ("'a'",), (b"'a'",)]
    names += [("a", "b"), ("ab",), ("a", b"b"), ("", "ab")]
    seen = [tuple(draws(Stream(seed, *name))) for seed in (0, 1) for name in names]
    assert len(set(seen)) == len(seen)


@given(st.integers(), st.integers(1, 1 << 40))
def test_below_stays_below(seed: int, n: int) -> None:
    stream = Stream(seed)
    assert all(0 <= stream.below(n) < n for _ in range(20))


@given(st.integers(), st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_uniform_stays_in_its_interval(seed: int, low: float, width: float) -> None:
    stream = Stream(seed)
    assert all(low <= stream.uniform(low, low + width) <= low + width for _ in range(20))


def test_draws_are_uniform() -> None:
    stream = Stream(7)
    counts = [0] * 16
    for _ in range(16_000):
        counts[stream.below(16)] += 1
    chi_square = sum((count - 1000) ** 2 / 1000 for count in counts)
    assert chi_square < 37.7  # 99.9 % point of 15 degrees of freedom
    assert sum(stream.uniform() for _ in range(10_000)) / 10_000 == pytest.approx(0.5, abs=0.015)


@given(st.integers(), st.lists(st.integers(), max_size=12), st.integers(0, 15))
def test_a_sample_is_a_part_without_repetition(seed: int, items: list[int], k: int) -> None:
    stream = Stream(seed)
    positions = stream.sample(range(len(items)), k)
    assert len(positions) == len(set(positions)) == min(k, len(items))
    shuffled = list(items)
    stream.shuffle(shuffled)
    assert sorted(shuffled) == sorted(items)


def test_every_order_of_three_comes_up() -> None:
    stream = Stream(3)
    orders = {tuple(stream.sample("abc", 3)) for _ in range(200)}
    assert orders == set(itertools.permutations("abc"))
    assert {stream.choice("abc") for _ in range(50)} == set("abc")


def test_raw_gives_as_many_bytes_as_asked() -> None:
    assert [len(Stream(1).raw(n)) for n in (0, 1, 8, 9, 33)] == [0, 1, 8, 9, 33]
    assert Stream(1).raw(16)[:8] == Stream(1).raw(8)
