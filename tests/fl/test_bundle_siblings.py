"""Files that go along because the application imports them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl.bundle import siblings
from protocol.errors import UsageError


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    return directory / "app.py"


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_what_is_imported_goes_along_also_through_others(tmp_path: Path) -> None:
    entry = write(
        tmp_path,
        app="import layers\nimport json, fl\n",
        layers="from shapes import SIZE\n",
        shapes="SIZE = 1\n",
        other="",
    )
    assert names(siblings(entry)) == ["layers.py", "shapes.py"]


def test_imports_inside_functions_count_and_circles_end(tmp_path: Path) -> None:
    entry = write(tmp_path, app="def model():\n    import layers\n", layers="import app\nimport layers\n")
    assert names(siblings(entry)) == ["layers.py"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    entry = write(tmp_path, app="import torn\n", torn="def f(:\n")
    with pytest.raises(UsageError, match=r"torn\.py, line 1"):
        siblings(entry)
