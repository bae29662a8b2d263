"""The tensor codec: canonical bytes, the safetensors format as others read it, and bytes from nowhere."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl import codec
from protocol.errors import CodecError, LimitError

NAMES = st.text(st.characters(min_codepoint=32, blacklist_characters="\x7f"), min_size=1, max_size=20).filter(
    lambda name: name != "__metadata__"
)
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
TENSORS = st.dictionaries(NAMES, ARRAYS, max_size=5)


def file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


@given(TENSORS)
def test_what_is_encoded_decodes_to_the_same_bits(tensors: codec.Tensors) -> None:
    decoded = codec.decode(codec.encode(tensors))
    assert sorted(decoded) == sorted(tensors)
    for name, array in tensors.items():
        assert decoded[name].shape == array.shape
        assert decoded[name].tobytes() == array.tobytes()


@given(TENSORS, st.randoms())
def test_equal_tensors_give_equal_bytes_in_whatever_order_they_come(tensors: codec.Tensors, random: Any) -> None:
    shuffled = list(tensors.items())
    random.shuffle(shuffled)
    assert codec.encode(dict(shuffled)) == codec.encode(tensors)


@given(st.dictionaries(st.text("abc.", min_size=1, max_size=5), ARRAYS, max_size=5))
def test_the_safetensors_package_reads_what_we_write_and_we_what_it_writes(tensors: codec.Tensors) -> None:
    ours = codec.encode(tensors, {"round": "3"})
    for name, array in safetensors.numpy.load(ours).items():
        assert array.tobytes() == tensors[name].tobytes()
    theirs = codec.decode(safetensors.numpy.save(tensors))
    assert {name: array.tobytes() for name, array in theirs.items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }


def test_flat_is_header_and_data_of_a_canonical_file() -> None:
    content = codec.encode({"b": np.array([3.0]), "a": np.array([[1.0, 2.0]])})
    header, vector = codec.flat(content)
    assert vector.tolist() == [1.0, 2.0, 3.0]
    assert header + vector.tobytes() == content


def test_flat_refuses_metadata_and_any_other_order() -> None:
    with pytest.raises(CodecError, match="canonical"):
        codec.flat(codec.encode({"a": np.zeros(2)}, {"who": "me"}))
    swapped = file({"a": entry(data_offsets=[8, 16]), "b": entry()}, bytes(16))
    assert set(codec.decode(swapped)) == {"a", "b"}
    with pytest.raises(CodecError, match="canonical"):
        codec.flat(swapped)


def test_metadata_survives() -> None:
    content = codec.encode({"a": np.zeros(1)}, {"rounds": "20", "accuracy": "0.95"})
    assert codec.layout(content).metadata == {"accuracy": "0.95", "rounds": "20"}


def test_views_are_read_only_and_share_the_buffer() -> None:
    content = codec.encode({"a": np.arange(4.0)})
    array = codec.decode(content)["a"]
    assert not array.flags.writeable
    assert not array.flags.owndata


def test_other_floats_are_cast_and_integers_refused() -> None:
    assert codec.decode(codec.encode({"a": np.array([1.5])}))["a"].dtype == np.float32
    with pytest.raises(CodecError, match="'a' is int64"):
        codec.encode({"a": np.zeros(1, np.int64)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (b"\xff" * 8, "limit"),
        ((9).to_bytes(8, "little") + b"{}", "header of 9 bytes in a file of 10"),
        (file(b"[]"), "not a JSON object"),
        (file(b"{"), "not JSON"),
        (file(b"{\xff}"), "not JSON"),
        (file(b'{"a":NaN}'), "not JSON"),
        (file(b'{"a":1,"a":1}'), "twice"),
        (file(b'{"a":' + b"[" * 100_000), "not JSON"),
        (file({"a": 1}), "lacks dtype"),
        (file({"a": entry(dtype="F64")}), "F64"),
        (file({"a": entry(shape=[-2])}, bytes(8)), "small lists"),
        (file({"a": entry(shape=[True, 2])}, bytes(8)), "small lists"),
        (file({"a": entry(shape=[1] * 9)}, bytes(8)), "small lists"),
        (file({"a": entry(shape=[3])}, bytes(8)), "takes 8 bytes"),
        (file({"a": entry(data_offsets=[8, 0])}, bytes(8)), "takes -8 bytes"),
        (file({"a": entry(shape=[0, 2**40, 2**40], data_offsets=[0, 0])}), "too large"),
        (file({"a": entry(data_offsets=[4, 12])}, bytes(12)), "gap or an overlap"),
        (file({"a": entry(), "b": entry()}, bytes(8)), "gap or an overlap"),
        (file({"a": entry()}, bytes(9)), "end at byte"),
        (file({"a\n": entry()}, bytes(8)), "name of a tensor"),
        (file({"__metadata__": {"a": 1}}), "metadata"),
    ],
)
def test_every_defect_is_named(content: bytes, message: str) -> None:
    with pytest.raises((CodecError, LimitError), match=message):
        codec.decode(content)


@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_else(content: bytes) -> None:
    with contextlib.suppress(CodecError, LimitError):
        codec.decode(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NEARLY = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__", ""]),
    JSON
    | st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F64"]) | JSON,
            "shape": st.lists(st.sampled_from([0, 1, 2, 2**31, 2**60]), max_size=4) | JSON,
            "data_offsets": st.lists(st.integers(-1, 16), min_size=2, max_size=2) | JSON,
        }
    ),
    max_size=3,
)


@given(NEARLY, st.binary(max_size=16))
def test_headers_that_are_nearly_right_raise_nothing_else(header: dict[str, Any], data: bytes) -> None:
    with contextlib.suppress(CodecError, LimitError):
        codec.decode(file(header, data))
