"""What an application's author may write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fl
from fl import sdk
from fl.spec import Scalar
from protocol.errors import UsageError


def app(**keys: Any) -> fl.App:
    defaults: dict[str, Any] = {"name": "shop", "model": dict, "options": {"lr": 0.1, "steps": 3, "note": "a"}}
    return fl.App(**(defaults | keys))


def test_importing_the_sdk_is_cheap() -> None:
    program = "import sys, fl; assert not {'numpy', 'torch', 'asyncio', 'grpc'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(fl.__file__).parents[1])


def test_defaults() -> None:
    assert app().data == "shop"
    assert app(data="sales").data == "sales"
    assert app().rounds == 20


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"model": 3}, "model"),
        ({"rounds": 0}, "rounds"),
        ({"fraction": 0.0}, "fraction"),
        ({"quorum": 1.5}, "quorum"),
        ({"min_workers": 0}, "min_workers"),
        ({"fan_out": 65}, "fan_out"),
        ({"schema": {"x": fl.Field("complex64")}}, r"schema\['x'\]"),
        ({"options": {str(i): i for i in range(129)}}, "options"),
    ],
)
def test_what_cannot_be_is_refused_by_name(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        app(**keys)


def test_settings_of_the_command_line_keep_their_types() -> None:
    changed = app().override(["rounds=5", "lr=1", "steps=7", "note=3", "batch_size=16", "server_lr=.5", "fraction=0.5"])
    assert changed.rounds == 5
    assert changed.fraction == 0.5
    assert changed.options == {"lr": 1.0, "steps": 7, "note": "3", "batch_size": 16, "server_lr": 0.5}
    assert type(changed.options["lr"]) is float
    assert app(options={"fast": False}).override(["fast=True"]).options == {"fast": True}


@pytest.mark.parametrize(
    ("setting", "message", "remedy"),
    [
        ("rouds=3", "'rouds=3' sets nothing", "did you mean rounds?"),
        ("xyzzy=3", "sets nothing", "known keys"),
        ("rounds", "is not key=value", "did you mean rounds?"),
        ("rounds=many", "rounds=many is not a int", "20"),
        ("steps=1.5", "steps=1.5 is not a int", "3"),
        ("rounds=0", "rounds of the application is 0", "1 to"),
    ],
)
def test_a_wrong_setting_gets_a_remedy(setting: str, message: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        app().override([setting])
    assert remedy in raised.value.remedy


def test_the_context_gives_options_as_the_type_of_their_default() -> None:
    config: dict[str, Scalar] = {"lr": 1, "name": "a", "fast": True}
    context = sdk.Context(config, 1, 2, "n", 3)
    assert context.get("lr", 0.1) == 1.0
    assert type(context.get("lr", 0.1)) is float
    assert context.get("absent", 5) == 5
    assert context.get("fast", False) is True
    assert context.time_left() == float("inf")
    for key, default in (("name", 1), ("fast", 1), ("lr", "x")):
        with pytest.raises(UsageError, match=f"option {key}"):
            context.get(key, default)


def test_a_file_defines_one_application(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text("import fl\nfirst = fl.App(name='a', model=dict)\nalias = first\n")
    assert fl.load(path).name == "a"
    path.write_text("import fl\n")
    with pytest.raises(UsageError, match="no applications"):
        fl.load(path)
    path.write_text("import fl\na = fl.App(name='a', model=dict)\nb = fl.App(name='b', model=dict)\n")
    with pytest.raises(UsageError, match="2 applications"):
        fl.load(path)
    with pytest.raises(UsageError, match="not a Python file"):
        fl.load(tmp_path / "absent.py")


def test_running_needs_data_that_is_there() -> None:
    with pytest.raises(UsageError, match="no data called 'shop' in the package"):
        app().run()
