"""Code from memory."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator

import pytest

from fl.bundle import Bundle
from fl.learn import importer
from protocol.errors import UsageError


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    finders, modules = list(sys.meta_path), set(sys.modules)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def bundle(**modules: str) -> Bundle:
    return Bundle(1, "entry", dict(sorted(modules.items())))


def test_modules_import_each_other_and_tracebacks_show_their_lines() -> None:
    app = importer.load(
        bundle(
            entry="import fl\nfrom part import fail\napp = fl.App(name='a', model=fail)\n",
            part="def fail():\n    raise ValueError('here')\n",
        )
    )
    with pytest.raises(ValueError, match="here") as raised:
        app.model()
    shown = "".join(traceback.format_exception(raised.value))
    assert 'File "<bundle>/part.py", line 2, in fail' in shown
    assert "raise ValueError('here')" in shown


def test_a_bundle_wins_over_what_is_loaded_and_what_lies_around() -> None:
    before = sys.modules["traceback"]
    app = importer.load(
        bundle(entry="import fl, traceback\napp = fl.App(name=traceback.NAME, model=dict)", traceback="NAME='mine'")
    )
    sys.modules["traceback"] = before
    assert app.name == "mine"


def test_a_module_has_a_file_name() -> None:
    app = importer.load(bundle(entry="import fl\napp = fl.App(name=__file__[9:-3], model=dict)"))
    assert app.name == "entry"


def test_a_bundle_without_an_application_is_refused() -> None:
    with pytest.raises(UsageError, match=r"entry\.py defines no applications"):
        importer.load(bundle(entry="import fl"))
