"""Instances of any message type, read off its annotations: one fixed example, a Hypothesis strategy, a largest size.

All three walk :func:`msgspec.inspect.type_info`, so a new message type is covered by every test of this directory
the moment it is registered.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st
from msgspec import inspect as types

import protocol
from protocol.ids import ID_BYTES
from protocol.messages import KINDS, Message

ROOT = pathlib.Path(protocol.__file__).parent.parent
PACKAGES = ("protocol", "node", "dht", "pubsub", "fl", "nat", "crdt", "simulations")
INT_LOW, INT_HIGH = -(1 << 63), (1 << 64) - 1


def registered() -> list[type[Message]]:
    """Every message type of the fabric, by kind (tests have some of their own): modules that register are imported."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "\n@register(" in path.read_text():
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return [cls for _, cls in sorted(KINDS.items()) if cls.__module__.split(".")[0] in PACKAGES]


# ---- one example -----------------------------------------------------------------------------------------------------


class Examples:
    """Makes one instance of a type in which no two scalars are alike, and always the same one."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0

    def _draw(self) -> bytes:
        self._count += 1
        return hashlib.sha256(f"{self._seed} {self._count}".encode()).digest()

    def _integer(self, info: types.IntType) -> int:
        number = int.from_bytes(self._draw()[:2], "big")
        low = info.ge if info.ge is not None else 0
        high = info.le if info.le is not None else 1 << 32
        return low + number % (high - low + 1)

    def _bytes(self, info: types.BytesType) -> bytes:
        length = max(info.min_length or 0, min(info.max_length or 5, 5 + self._count % 3))
        return (self._draw() * (length // 32 + 1))[:length]

    def of(self, info: types.Type) -> Any:
        """An instance of what ``info`` describes; optional parts are present and containers hold two items."""
        match info:
            case types.BoolType():
                return True
            case types.EnumType():
                return next(iter(info.cls))
            case types.IntType():
                return self._integer(info)
            case types.FloatType():
                return int.from_bytes(self._draw()[:2], "big") / 8
            case types.StrType():
                return f"example-{self._draw()[:2].hex()}"
            case types.BytesType():
                return self._bytes(info)
            case types.VarTupleType():
                return tuple(self.of(info.item_type) for _ in range(2))
            case types.TupleType():
                return tuple(self.of(item) for item in info.item_types)
            case types.NamedTupleType() | types.StructType():
                return info.cls(*(self.of(field.type) for field in info.fields))
            case types.DictType():
                return {self.of(info.key_type): self.of(info.value_type) for _ in range(2)}
            case types.UnionType():
                return self.of(next(one for one in info.types if not isinstance(one, types.NoneType)))
            case _:
                raise NotImplementedError(f"messages have no {info} yet: teach tests/protocol/instances.py")


def example(cls: type[Any]) -> Any:
    """The instance of ``cls`` that the golden vectors hold."""
    return Examples(cls.__name__).of(types.type_info(cls))


# ---- any instance ----------------------------------------------------------------------------------------------------


def strategy(info: types.Type, ids: Sequence[bytes] = ()) -> st.SearchStrategy[Any]:  # noqa: C901 - a case per type
    """Instances of ``info`` within its bounds; containers stay short, since bounds have tests of their own.

    With ``ids`` every id is one of them and most numbers are small, so that messages concern each other.
    """
    inner = functools.partial(strategy, ids=ids)
    match info:
        case types.NoneType():
            return st.none()
        case types.BoolType():
            return st.booleans()
        case types.EnumType():
            return st.sampled_from(info.cls)
        case types.IntType():
            low = INT_LOW if info.ge is None else info.ge
            anything = st.integers(low, INT_HIGH if info.le is None else info.le)
            return st.integers(max(low, 0), 12) | anything if ids else anything
        case types.FloatType():
            return st.floats(allow_nan=False)
        case types.StrType():
            return _text(info)
        case types.BytesType():
            return _binary(info, ids)
        case types.VarTupleType():
            return st.lists(inner(info.item_type), min_size=info.min_length or 0, max_size=3).map(tuple)
        case types.TupleType():
            return st.tuples(*map(inner, info.item_types))
        case types.NamedTupleType() | types.StructType():
            fields = st.tuples(*(inner(field.type) for field in info.fields))
            return fields.map(lambda values, cls=info.cls: cls(*values))  # type: ignore[misc]
        case types.DictType():
            return st.dictionaries(inner(info.key_type), inner(info.value_type), max_size=3)
        case types.UnionType():
            return st.one_of(*map(inner, info.types))
        case _:
            raise NotImplementedError(f"messages have no {info} yet: teach tests/protocol/instances.py")


def _binary(info: types.BytesType, ids: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    low = info.min_length or 0
    if ids and low == ID_BYTES:
        return st.sampled_from(ids)
    return st.binary(min_size=low, max_size=max(low, min(info.max_length or 40, 40)))


def _text(info: types.StrType) -> st.SearchStrategy[str]:
    longest = min(info.max_length or 8, 8)
    if info.pattern:
        return st.from_regex(info.pattern).map(lambda text: text[:longest])
    return st.text(min_size=info.min_length or 0, max_size=longest)


def messages(ids: Sequence[bytes] = ()) -> st.SearchStrategy[Message]:
    """Any instance of any registered type."""
    return st.one_of(*(strategy(types.type_info(cls), ids) for cls in registered()))


# ---- the largest instance --------------------------------------------------------------------------------------------

_SCALAR = 9
"""Bytes of the longest MessagePack integer or float."""

_HEAD = 5
"""Bytes of the longest MessagePack length prefix."""


def largest(info: types.Type) -> float:
    """Bytes that the largest instance takes, ``inf`` when a field has no bound of its own."""
    match info:
        case types.NoneType() | types.BoolType():
            return 1
        case types.IntType() | types.FloatType() | types.EnumType():
            return _SCALAR
        case types.StrType():
            widest = 1 if info.pattern else 4  # a pattern of ours admits printable ASCII only
            return _HEAD + widest * _or_inf(info.max_length)
        case types.BytesType():
            return _HEAD + _or_inf(info.max_length)
        case types.VarTupleType():
            return _HEAD + _or_inf(info.max_length) * largest(info.item_type)
        case types.TupleType():
            return _HEAD + sum(map(largest, info.item_types))
        case types.NamedTupleType() | types.StructType():
            return _HEAD + sum(largest(field.type) for field in info.fields)
        case types.DictType():
            return _HEAD + _or_inf(info.max_length) * (largest(info.key_type) + largest(info.value_type))
        case types.UnionType():
            return max(map(largest, info.types))
        case _:
            raise NotImplementedError(f"messages have no {info} yet: teach tests/protocol/instances.py")


def _or_inf(bound: int | None) -> float:
    return float("inf") if bound is None else bound


def containers(info: types.Type, rebuild: Callable[[Any], Any], value: Any) -> Iterator[tuple[Any, str]]:
    """Copies of ``value`` in which one bounded container, string or byte string is a single item too long."""
    match info:
        case types.StrType(max_length=int(bound)):
            yield rebuild("x" * (bound + 1)), f"{bound + 1} characters"
        case types.BytesType(max_length=int(bound)):
            yield rebuild(b"x" * (bound + 1)), f"{bound + 1} bytes"
        case types.VarTupleType():
            if info.max_length is not None:
                yield rebuild([value[0]] * (info.max_length + 1)), f"{info.max_length + 1} items"
            yield from containers(info.item_type, lambda item: rebuild([item, *value[1:]]), value[0])
        case types.TupleType():
            yield from _inside(info.item_types, rebuild, value)
        case types.NamedTupleType() | types.StructType():
            yield from _inside([field.type for field in info.fields], rebuild, value)
        case types.DictType(max_length=int(bound)):
            extra = {f"key {n}": 0.0 for n in range(bound + 1)}
            yield rebuild(extra), f"{bound + 1} entries"
        case types.UnionType():
            present = next(one for one in info.types if not isinstance(one, types.NoneType))
            yield from containers(present, rebuild, value)


def _inside(
    infos: Sequence[types.Type], rebuild: Callable[[Any], Any], value: Sequence[Any]
) -> Iterator[tuple[Any, str]]:
    for i, info in enumerate(infos):

        def replaced(item: Any, i: int = i) -> Any:
            return rebuild([*value[:i], item, *value[i + 1 :]])

        yield from containers(info, replaced, value[i])
