"""Sums and the server's step, against plain numpy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl import aggregate, codec
from protocol.errors import AggregationError, UsageError
from pubsub.heads import MAX_MEMBERS
from pubsub.partials import MAX_SUM

RNG = np.random.default_rng(0)


def model(scale: float = 1.0, size: int = 5) -> codec.Tensors:
    return {"w": (RNG.normal(size=(size, 3)) * scale).astype(np.float32), "b": np.array([scale, -scale], np.float32)}


def same(content: bytes, expected: dict[str, np.ndarray], tolerance: float = 1e-6) -> None:
    decoded = codec.decode(content)
    assert sorted(decoded) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(decoded[name], array, rtol=tolerance, atol=tolerance)


def test_a_round_is_the_weighted_mean_of_the_local_models() -> None:
    before = model()
    locals_ = [model(scale) for scale in (0.5, 1.0, 2.0)]
    weights = [3.0, 10.0, 7.0]
    parts = [aggregate.contribution(local, before, weight) for local, weight in zip(locals_, weights, strict=True)]
    total = aggregate.merge([aggregate.merge(parts[:2]), parts[2]])
    after, state = aggregate.finish("fedavg", {}, codec.encode(before), b"", total, sum(weights))
    expected = {name: np.average([local[name] for local in locals_], axis=0, weights=weights) for name in before}
    same(after, expected)
    assert state == b""


@given(st.integers(1, 5), st.integers(0, 2 * aggregate.BLOCK + 1))
def test_merge_is_the_float64_sum_rounded_once(count: int, size: int) -> None:
    arrays = [np.random.default_rng([count, i]).normal(size=size).astype(np.float32) for i in range(count)]
    inputs = [codec.encode({"w": array}) for array in arrays]
    expected = np.zeros(size)
    for array in arrays:
        expected = expected + array
    merged = aggregate.merge(inputs)
    assert codec.decode(merged)["w"].tobytes() == expected.astype(np.float32).tobytes()
    accumulator = aggregate.Accumulator()
    for content in inputs:
        accumulator.add(content)
    assert accumulator.count == count
    assert accumulator.result() == merged


def test_integers_are_summed_exactly_and_order_does_not_matter() -> None:
    parts = [codec.encode({"w": np.array([i, -i, 2**20], np.float32)}) for i in range(9)]
    assert aggregate.merge(parts) == aggregate.merge(parts[::-1])
    assert codec.decode(aggregate.merge(parts))["w"].tolist() == [36.0, -36.0, 9.0 * 2**20]


def test_the_one_bad_input_is_named_by_its_place() -> None:
    good = codec.encode(model())
    for bad, why in (
        (b"nonsense", "header"),
        (codec.encode({"w": np.zeros(3)}), "differ"),
        (codec.encode(model() | {"b": np.array([np.nan, 0], np.float32)}), "not finite"),
        (codec.encode(model() | {"b": np.array([np.inf, 0], np.float32)}), "not finite"),
    ):
        with pytest.raises(aggregate.InputError, match=why) as raised:
            aggregate.merge([good, good, bad, good])
        assert raised.value.index == 2


def test_a_refused_input_leaves_the_accumulator_as_it_was() -> None:
    accumulator = aggregate.Accumulator()
    accumulator.add(codec.encode({"w": np.ones(3)}))
    with pytest.raises(aggregate.InputError) as raised:
        accumulator.add(codec.encode({"w": np.full(3, np.nan)}))
    assert raised.value.index == 1
    assert codec.decode(accumulator.result())["w"].tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(AggregationError, match="nothing"):
        accumulator.result()


def test_sums_beyond_float32_are_refused() -> None:
    huge = codec.encode({"w": np.array([3e38], np.float32)})
    with pytest.raises(AggregationError, match="range of float32"):
        aggregate.merge([huge, huge])


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_cannot_be_averaged(weight: float) -> None:
    before = model()
    with pytest.raises(AggregationError, match="weight"):
        aggregate.contribution(before, before, weight)
    with pytest.raises(AggregationError, match="weigh"):
        aggregate.finish("fedavg", {}, codec.encode(before), b"", codec.encode(before), weight)


def test_a_trained_model_must_match_and_be_finite() -> None:
    before = model()
    for local, why in (
        ({"w": before["w"]}, "lacks tensor 'b'"),
        (before | {"c": np.zeros(1, np.float32)}, "adds tensor 'c'"),
        (before | {"b": np.zeros(3, np.float32)}, r"'b' had shape \(2,\)"),
        (before | {"b": np.array([np.nan, 0], np.float32)}, "'b' is not finite"),
        (before | {"b": np.array([3e38, 0], np.float32)}, "'b' is not finite"),
    ):
        with pytest.raises(AggregationError, match=why):
            aggregate.contribution(local, before, 10.0)


def test_check_update_wants_the_tensors_of_the_model() -> None:
    content = codec.encode(model())
    aggregate.check_update(content, codec.encode(model(2.0)))
    with pytest.raises(AggregationError, match="differ"):
        aggregate.check_update(codec.encode({"w": np.zeros(1)}), content)


def test_an_update_is_compared_with_the_descriptor_and_never_with_another_update() -> None:
    content = codec.encode(model())
    layout = aggregate.layout_of(content)
    assert aggregate.fits(content, layout, 1)
    assert not aggregate.fits(codec.encode({"w": np.zeros(1)}), layout, 1)
    for junk in (b"", b"junk", content[:-1], content + b"\0"):
        assert not aggregate.fits(junk, layout, 1)


def test_bounds_are_such_that_sums_within_them_are_within_them() -> None:
    """Otherwise an honest node would be blamed for adding up what liars handed in at the very edge."""
    edge = codec.encode({"w": np.array([MAX_SUM, -MAX_SUM, 1.0], np.float32)})
    layout = aggregate.layout_of(edge)
    assert aggregate.fits(edge, layout, 1)
    total, members = edge, 1
    while members < MAX_MEMBERS:
        total, members = aggregate.merge([total, total, edge]), 2 * members + 1
        assert aggregate.fits(total, layout, members)
    assert not aggregate.fits(aggregate.merge([edge, edge]), layout, 1)
    for bad in (np.nan, np.inf, -np.inf):
        assert not aggregate.fits(codec.encode({"w": np.array([0, bad, 0], np.float32)}), layout, MAX_MEMBERS)


def test_server_momentum_carries_over_rounds() -> None:
    options = {"server_momentum": 0.5, "server_lr": 0.1}
    content, state, velocity = codec.encode({"w": np.zeros(4)}), b"", 0.0
    position = 0.0
    for update in (1.0, 2.0, -1.0):
        total = codec.encode({"w": np.full(4, update * 8.0)})
        content, state = aggregate.finish("fedavgm", options, content, state, total, 8.0)
        velocity = 0.5 * velocity + update
        position += 0.1 * velocity
        same(content, {"w": np.full(4, position)})
        same(state, {"w": np.full(4, velocity)})


def test_what_finish_is_given_must_belong_together() -> None:
    content = codec.encode(model())
    other = codec.encode({"w": np.zeros(1)})
    with pytest.raises(AggregationError):
        aggregate.finish("fedavg", {}, content, b"", other, 1.0)
    with pytest.raises(AggregationError):
        aggregate.finish("fedavgm", {}, content, other, content, 1.0)
    with pytest.raises(UsageError, match="no strategy 'fedsgd'"):
        aggregate.finish("fedsgd", {}, content, b"", content, 1.0)


@pytest.mark.parametrize("what", ["contribution", "merge", "finish"])
def test_arithmetic_takes_one_model_and_a_few_blocks_of_memory(what: str) -> None:
    content = codec.encode({"w": np.ones(1 << 22, np.float32)})
    tensors = codec.decode(content)
    tracemalloc.start()
    try:
        if what == "contribution":
            aggregate.contribution(tensors, tensors, 2.0)
        elif what == "merge":
            aggregate.merge([content] * 3)
        else:
            aggregate.finish("fedavg", {}, content, b"", content, 2.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(content) + 6 * 8 * aggregate.BLOCK
