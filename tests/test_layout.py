"""The shape of the repository: what reviewers would otherwise have to look for in every change."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from node.provenance import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (*PACKAGES, "tests", "benchmarks", "examples")
MAX_FILE = 500
MAX_TEST_FILE = 600
MAX_FUNCTION = 60
MAX_EXAMPLE = 40


@functools.cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module of the repository, by its path from the root."""
    paths = sorted(path for top in SOURCES for path in (ROOT / top).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def machines() -> dict[str, ast.Module]:
    """The modules without clock and I/O, as the import contract lists them."""
    (contract,) = [one for one in pyproject()["tool"]["importlinter"]["contracts"] if "clock" in one["name"]]
    tops = [source.replace(".", "/") for source in contract["source_modules"]]
    return {
        path: tree
        for path, tree in modules().items()
        if any(path == f"{top}.py" or path.startswith(f"{top}/") for top in tops)
    }


def texts() -> Iterator[tuple[str, str]]:
    """Every text file that is, or is about to be, committed, but for this one, which has to name what it looks for.

    What is no text (vectors, arrays, a model that somebody keeps in the working tree) has no words to look for.
    """
    names = list(modules())
    if shutil.which("git") and (ROOT / ".git").exists():
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(listing, cwd=ROOT, check=False, capture_output=True, text=True)
        names = listed.stdout.splitlines() or names
    for name in names:
        path = ROOT / name
        if path.is_file() and path != Path(__file__).resolve():
            with contextlib.suppress(UnicodeDecodeError):
                yield name, path.read_text(encoding="utf-8")


def none(found: Iterable[str]) -> None:
    """Fail with one line per finding."""
    lines = list(found)
    assert not lines, "\n" + "\n".join(lines)


# ---- sizes and documentation -----------------------------------------------------------------------------------------


def test_files_stay_short() -> None:
    none(
        f"{path}: {count} lines, at most {most}"
        for path in modules()
        for most in [MAX_TEST_FILE if path.startswith("tests/") else MAX_FILE]
        if (count := len((ROOT / path).read_text().splitlines())) > most
    )


def test_functions_stay_short() -> None:
    none(
        f"{path}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION
    )


def test_modules_say_what_they_are() -> None:
    none(f"{path}: no docstring" for path, tree in modules().items() if not ast.get_docstring(tree))


def test_the_first_example_fits_a_page() -> None:
    example = ROOT / "examples" / "digits.py"
    assert not example.exists() or len(example.read_text().splitlines()) <= MAX_EXAMPLE


# ---- words -----------------------------------------------------------------------------------------------------------


def mentions(pattern: str, *, only: str = "") -> Iterator[str]:
    wanted = re.compile(pattern)
    for name, text in texts():
        if only and not name.endswith(only):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if match := wanted.search(line):
                yield f"{name}:{number}: {match.group()!r}"


def test_nothing_is_left_for_later() -> None:
    none(mentions(r"\b(?:TODO|FIXME|XXX|HACK)\b", only=".py"))


def test_nothing_is_unpickled() -> None:
    none(mentions(r"^\s*(?:import|from) +(?:_?pickle|marshal|shelve|dill|cloudpickle)\b", only=".py"))
    none(mentions(r"allow_pickle *= *True|weights_only *= *False", only=".py"))


def test_no_path_of_any_one_machine_is_named() -> None:
    none(mentions(r"(?<![\w.])/(?:home/(?!user)\w|root/|work/|opt/m|tmp/(?:brief|issues))"))


# ---- determinism and waiting -----------------------------------------------------------------------------------------

SET_MAKERS = {"set", "frozenset"}


def _is_set(node: ast.expr) -> bool:
    if isinstance(node, (ast.Set, ast.SetComp)):
        return True
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SET_MAKERS


def _annotates_set(node: ast.expr) -> bool:
    base = node.value if isinstance(node, ast.Subscript) else node
    return isinstance(base, ast.Name) and base.id in SET_MAKERS


def _set_names(tree: ast.Module) -> set[str]:
    """Variables and attributes that hold sets, as far as assignments and annotations tell."""
    names = set()
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign) and _is_set(node.value):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign) and _annotates_set(node.annotation):
            targets = [node.target]
        elif isinstance(node, ast.arg) and node.annotation and _annotates_set(node.annotation):
            names.add(node.arg)
        names |= {ast.unparse(target) for target in targets}
    return names


def _iterated(tree: ast.Module) -> Iterator[ast.expr]:
    """What the module goes through in order."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.For, ast.comprehension)):
            yield node.iter
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"list", "tuple"}:
            yield from node.args[:1]


def test_machines_never_iterate_sets() -> None:
    """The order of a set of bytes changes with PYTHONHASHSEED, and the run with it."""
    none(
        f"{path}:{node.lineno}: goes through the set {ast.unparse(node)}: use a dict, or sorted()"
        for path, tree in machines().items()
        for names in [_set_names(tree)]
        for node in _iterated(tree)
        if _is_set(node) or ast.unparse(node) in names
    )


def test_machines_never_call_hash_or_id() -> None:
    none(
        f"{path}:{node.lineno}: {node.func.id}() differs from run to run"
        for path, tree in machines().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"hash", "id"}
    )


def _sleeps(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        yields = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
        if name in {"time.sleep", "sleep", "asyncio.sleep"} and not yields:
            yield node


def test_tests_wait_for_conditions_and_never_just_sleep() -> None:
    """A pause is allowed between two looks at a condition: inside ``while not …`` and nowhere else."""
    polls = {
        id(inner)
        for tree in modules().values()
        for loop in ast.walk(tree)
        if isinstance(loop, ast.While) and not isinstance(loop.test, ast.Constant)
        for inner in ast.walk(loop)
    }
    none(
        f"{path}:{call.lineno}: {ast.unparse(call)}"
        for path, tree in modules().items()
        if path.startswith("tests/")
        for call in _sleeps(tree)
        if id(call) not in polls
    )


# ---- packages --------------------------------------------------------------------------------------------------------


def test_packages_share_one_parent() -> None:
    homes = {Path(str(importlib.import_module(name).__file__)).resolve().parent.parent for name in PACKAGES}
    assert homes == {ROOT}


def test_packages_are_listed_alike_everywhere() -> None:
    tool = pyproject()["tool"]
    assert tuple(tool["hatch"]["build"]["targets"]["wheel"]["packages"]) == PACKAGES
    assert tuple(tool["importlinter"]["root_packages"]) == PACKAGES
    assert {f"/{name}" for name in PACKAGES} <= set(tool["hatch"]["build"]["targets"]["sdist"]["include"])
    assert set(PACKAGES) <= set(tool["mypy"]["files"])


def test_all_dependencies_are_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins)
    project = pyproject()["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {_canonical(line.split("==")[0]) for line in pins}
    assert {_canonical(re.split(r"[<>=!~\[; ]", one)[0]) for one in wanted} <= names


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
