"""How modules depend on one another: no circles, not even for types, and nobody changes what is another's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TypeGuard

from node.provenance import PACKAGES
from tests.test_layout import modules, none

KNOWN_CIRCLE = {"pubsub.forest", "pubsub.grove", "pubsub.rendezvous", "pubsub.throne"}
"""Modules that still import each other.  The list only ever shrinks."""
TABLES = {"simulations/host.py": "simulations/"}
"""Modules of plain tables → where these are changed: the laws of the simulated world stand apart from its machines."""
PLANTED = "simulations/mutants/"
"""Bugs that are planted on purpose may do what is forbidden."""


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


# ---- whose attributes ------------------------------------------------------------------------------------------------


def fields(owner: ast.ClassDef) -> set[str]:
    """The attributes that a class gives its objects."""
    found = {
        node.target.id for node in owner.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return found | {node.attr for node in ast.walk(owner) if written(node) and ast.unparse(node.value) == "self"}


def written(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del))


def owners(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def foreign(tree: ast.Module, ours: set[str]) -> Iterator[str]:
    """What ``tree`` writes that is an attribute in the repository (``ours``), but of no class that ``tree`` defines.

    Who owns an object cannot be read off a name, so this goes by the names of attributes: a write to a part of ``self``
    must be to a field of another class of the module, any other write to one of any class of it.
    """
    classes = {id(owner): fields(owner) for owner in owners(tree)}
    within = {id(node): id(owner) for owner in owners(tree) for node in ast.walk(owner)}
    for node in ast.walk(tree):
        if not written(node) or ast.unparse(node.value) in {"self", "cls"} or node.attr not in ours:
            continue
        own = within.get(id(node)) if ast.unparse(node.value).startswith("self.") else None
        if not any(node.attr in names for owner, names in classes.items() if owner != own):
            yield ast.unparse(node)


def foreign_writes(sources: dict[str, ast.Module]) -> set[str]:
    ours = {name for tree in sources.values() for owner in owners(tree) for name in fields(owner)}
    tables = {
        path: {name for owner in owners(sources[path]) for name in fields(owner)} for path in TABLES if path in sources
    }
    return {
        f"{path}: {write}"
        for path, tree in sources.items()
        for write in foreign(tree, ours)
        if not any(path.startswith(TABLES[table]) and write.rpartition(".")[2] in tables[table] for table in tables)
    }


def test_nobody_writes_another_objects_attributes() -> None:
    packages = tuple(f"{name}/" for name in PACKAGES)
    found = foreign_writes({path: tree for path, tree in modules().items() if path.startswith(packages)})
    found = {write for write in found if not write.startswith(PLANTED)}
    none(f"{write} is written by a module that does not define it" for write in sorted(found))


def test_writes_are_seen_however_the_object_is_reached() -> None:
    owner = ast.parse("class Tree:\n    def __init__(self):\n        self.head = None")
    for write in ("tree.head = 1", "self.tree.head = 1", "trees[0].head += 1", "a, tree.head = 1, 2", "del tree.head"):
        user = ast.parse(f"class Grove:\n    def f(self):\n        self.other = 0\n        {write}")
        assert len(foreign_writes({"a/tree.py": owner, "a/grove.py": user})) == 1
    own = "class Child:\n    told: int\n\nclass Grove:\n    def f(self, child):\n        self.head, child.told = 0, 1"
    assert foreign_writes({"a/tree.py": owner, "a/grove.py": ast.parse(own)}) == set()
    hidden = ast.parse("class Grove:\n    def f(self):\n        self.head = 0\n        self.tree.head = 0")
    assert foreign_writes({"a/tree.py": owner, "a/grove.py": hidden}) == {"a/grove.py: self.tree.head"}
