"""Code as a canonical value."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl import bundle
from fl.spec import MAX_BUNDLE
from protocol.errors import CodecError, LimitError, UsageError


def write(path: Path, text: str = "import fl\n") -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_same_files_give_the_same_bytes_and_digest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    packed = [
        bundle.pack(
            write(tmp_path / where / "app.py", "import torch, numpy as np\nfrom helpers import x\n"),
            [write(tmp_path / where / "zeta.py"), write(tmp_path / where / "helpers.py", "import json\nx = 1\n")],
        )
        for where in ("a", "b")
    ]
    assert packed[0] == packed[1]
    assert bundle.digest(packed[0]) == bundle.digest(packed[1])
    decoded = bundle.decode(packed[0])
    assert decoded.entry == "app"
    assert list(decoded.modules) == ["app", "helpers", "zeta"]
    assert decoded.requires == ("numpy", "torch")


def test_what_a_machine_lacks_is_found_without_importing(tmp_path: Path) -> None:
    content = bundle.pack(write(tmp_path / "app.py", "import numpy\n\ndef f():\n    import no_such_package.part\n"))
    assert bundle.decode(content).missing() == ["no_such_package"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("app.txt", "", "cannot be imported"),
        ("my-app.py", "", "cannot be imported"),
        ("json.py", "", "already has"),
        ("fl.py", "", "already has"),
        ("app.py", "def f(:\n", "line 1"),
        ("app.py", "\0", "app.py"),
        ("app.py", "x = " + "'" + "a" * (1 << 20) + "'", "limit"),
    ],
)
def test_files_that_cannot_be_packed_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bundle.pack(write(tmp_path / name, text))


def test_missing_files_and_twins_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        bundle.pack(tmp_path / "app.py")
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match=r"called app\.py"):
        bundle.pack(write(tmp_path / "app.py"), [write(tmp_path / "b" / "app.py")])


GOOD = bundle.Bundle(1, "app", {"app": "x = 1\n"}, ())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (msgspec.structs.replace(GOOD, version=2), "version 2"),
        (msgspec.structs.replace(GOOD, entry="main"), "lacks its entry"),
        (msgspec.structs.replace(GOOD, modules={"app": "", "../etc": ""}), "not the name of a module"),
        (msgspec.structs.replace(GOOD, modules={"b": "", "app": ""}), "canonical"),
    ],
)
def test_bundles_that_are_not_canonical_are_refused(changed: bundle.Bundle, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        bundle.decode(bundle.encode(changed))


def test_trailing_and_foreign_bytes_are_refused() -> None:
    content = bundle.encode(GOOD)
    assert bundle.decode(content) == GOOD
    with pytest.raises(CodecError):
        bundle.decode(content + b"\0")
    with pytest.raises(LimitError):
        bundle.decode(bytes(MAX_BUNDLE + 1))


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(content: bytes) -> None:
    with pytest.raises((CodecError, LimitError)):
        bundle.decode(content)
