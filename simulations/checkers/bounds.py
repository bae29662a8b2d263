"""Nothing grows without bound, and every core keeps its own invariants."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from ..host import Host
from ..world import World
from .base import Report, who

CHECK_EVERY = 8
"""One host in so many is asked to check itself each time: each of them several times a minute."""
MEASURE_EVERY = 128
"""One host in so many is measured each time."""
FINAL_SHARE = 8
"""In the end one host in so many is measured."""
_OURS = ("protocol.", "dht.", "pubsub.", "fl.", "node.")


class Bounds:
    """Asks cores to check themselves, and measures their tables."""

    def __init__(self, world: World, report: Report) -> None:
        self._world, self._report = world, report
        scenario = world.scenario
        self.limit = 512 + 4 * scenario.nodes.count + 64 * scenario.applications.count
        """Far above what any table of a node needs, far below what a leak reaches."""
        self._turn = 0

    def sample(self, now: int) -> None:
        """Let some cores check themselves, and measure a few."""
        self._turn += 1
        for host in self._world.running():
            place = host.index + self._turn
            self._check(host, now, check=place % CHECK_EVERY == 0, measure=place % MEASURE_EVERY == 0)

    def finish(self, now: int) -> None:
        """In the end all check themselves, and more are measured."""
        for host in self._world.running():
            self._check(host, now, check=True, measure=host.index % FINAL_SHARE == 0)

    def _check(self, host: Host, now: int, *, check: bool, measure: bool) -> None:
        core = self._world.core(host)
        if check:
            try:
                core.check_invariants()
            except AssertionError as error:
                self._report.add("core-invariant", now, f"{who(host)}: {error}")
        if measure:
            for path, size in oversize(core, self.limit):
                self._report.add("bounded", now, f"{who(host)}: {path} holds {size} entries")


def oversize(root: object, limit: int) -> Iterator[tuple[str, int]]:
    """All containers below ``root`` with more than ``limit`` entries: (path of attributes, entries)."""
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [(type(root).__name__, root)]
    while todo:
        path, item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict | list | set | deque):
            if len(item) > limit:
                yield path, len(item)
            values = item.values() if isinstance(item, dict) else item
            todo += [(path + "[]", value) for value in values if _interesting(value)]
        else:
            todo += [(f"{path}.{name}", value) for name, value in _fields(item) if _interesting(value)]


def _interesting(value: object) -> bool:
    return isinstance(value, dict | list | set | deque) or type(value).__module__.startswith(_OURS)


def _fields(item: object) -> Iterator[tuple[str, Any]]:
    """Attributes of an object, wherever its class keeps them."""
    for cls in type(item).__mro__:
        for name in getattr(cls, "__slots__", ()):
            if hasattr(item, name):
                yield name, getattr(item, name)
    yield from getattr(item, "__dict__", {}).items()
