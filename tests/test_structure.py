"""How modules depend on one another: no circles, not even for types."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.test_layout import modules, none

KNOWN_CIRCLE = {"pubsub.forest", "pubsub.grove", "pubsub.rendezvous", "pubsub.throne"}
"""Modules that still import each other.  The list only ever shrinks."""


def name_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(path: str, tree: ast.Module, known: dict[str, str]) -> Iterator[str]:
    """Modules of the repository that ``tree`` imports anywhere: inside of functions and for type checkers too."""
    package = path.rpartition("/")[0].split("/")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in known or base in known:
                    yield inner if inner in known else base


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """What ``start`` imports, directly or not."""
    seen: set[str] = set()
    todo = [*graph[start]]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo.extend(graph[module])
    return seen


def circles(sources: dict[str, ast.Module]) -> set[str]:
    """The modules that import themselves by way of others."""
    known = {name_of(path): path for path in sources}
    graph = {name_of(path): set(imported(path, tree, known)) - {name_of(path)} for path, tree in sources.items()}
    return {module for module in graph if module in reached(module, graph)}


def test_no_modules_import_each_other() -> None:
    found = circles(modules())
    none(f"{module} is in a circle of imports" for module in sorted(found - KNOWN_CIRCLE))
    none(f"{module} is in no circle any more: take it off the list" for module in sorted(KNOWN_CIRCLE - found))


def test_circles_are_found_wherever_the_import_stands() -> None:
    for late in ("if TYPE_CHECKING:\n    from .b import B", "def f():\n    from a import b", "import a.b"):
        sources = {
            "a/a.py": ast.parse(late),
            "a/b.py": ast.parse("from .c import C"),
            "a/c.py": ast.parse("from . import a"),
        }
        assert circles(sources) == {"a.a", "a.b", "a.c"}
    assert circles({"a/a.py": ast.parse("from .b import B"), "a/b.py": ast.parse("import os")}) == set()
