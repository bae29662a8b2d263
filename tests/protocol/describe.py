"""Messages as JSON that people can read, and from there to plain values that the ``msgpack`` package packs.

The way from JSON to bytes does not touch msgspec, which is what makes the golden vectors an independent check.
A field of a struct is named, so that a vector documents the layout: ``{"Contact": {"id": {"hex": …}, …}}``.
"""

from __future__ import annotations

from typing import Any

import msgspec


def describe(value: Any) -> Any:
    """JSON for any part of a message."""
    match value:
        case msgspec.Struct():
            fields = value.__struct_fields__
            return {type(value).__name__: {name: describe(getattr(value, name)) for name in fields}}
        case bytes():
            return {"hex": value.hex()}
        case dict():
            return {"map": [[describe(key), describe(item)] for key, item in value.items()]}
        case tuple():
            return [describe(item) for item in value]
        case _:
            return value


def plain(description: Any) -> Any:
    """What ``msgpack`` packs for a description: structs are arrays of their fields."""
    match description:
        case {"hex": str(digits)}:
            return bytes.fromhex(digits)
        case {"map": list(pairs)}:
            return {plain(key): plain(item) for key, item in pairs}
        case dict():
            ((_, fields),) = description.items()
            return [plain(item) for item in fields.values()]
        case list():
            return [plain(item) for item in description]
        case _:
            return description
