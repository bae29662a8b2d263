"""models ls, show, pull."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from fl import codec
from node.names import find_model
from node.service import ModelInfo
from protocol.errors import UsageError

from ..fake_service import FakeService
from .conftest import Cli

TENSORS = {"bias": np.arange(3, dtype=np.float32), "weight": np.ones((2, 3), np.float32)}
CONTENT = codec.encode(TENSORS)


def model(version: int, name: str = "digits", content: bytes = CONTENT) -> ModelInfo:
    return ModelInfo(
        name=name,
        version=version,
        app="11" * 16,
        blob=hashlib.sha256(content).hexdigest(),
        size=len(content),
        round=version,
        rounds=20,
        final=version == 20,
        contributors=16,
        weight=1437.0,
        metrics={"loss": 0.25, "accuracy": 0.9375},
        code="cc" * 32,
        parent="digits@10",
        created=1_700_000_000.0 + version,
    )


@pytest.fixture
def models(service: FakeService) -> FakeService:
    service.model_list = [model(19), model(20)]
    service.blobs[hashlib.sha256(CONTENT).digest()] = CONTENT
    return service


def test_ls(cli: Cli, models: FakeService) -> None:
    lines = cli("models", "ls").lines
    assert lines[0].split() == ["model", "version", "round", "nodes", "size", "here", "made", "metrics"]
    assert lines[2].split()[:4] == ["digits", "20", "20/20", "16"]
    assert "yes, final" in lines[2]
    assert [entry["version"] for entry in cli("models", "ls", "--json").json] == [19, 20]


def test_ls_of_nothing(cli: Cli, service: FakeService) -> None:
    assert cli("models", "ls").out == "no models yet\n"


def test_show_tells_where_it_comes_from(cli: Cli, models: FakeService) -> None:
    shown = dict(line.split(maxsplit=1) for line in cli("models", "show", "digits@19").lines)
    assert shown["model"] == "digits@19"
    assert (shown["round"], shown["contributors"], shown["continues"]) == ("19 of 20", "16", "digits@10")
    assert (shown["code"], shown["accuracy"]) == ("cc" * 32, "0.9375")


def test_pull_writes_safetensors_with_lineage(cli: Cli, models: FakeService, tmp_path: Path) -> None:
    result = cli("models", "pull", "digits@20", "-o", "m.safetensors")
    assert (result.code, result.out) == (0, "wrote digits@20 to m.safetensors\n")
    loaded = load_file(tmp_path / "m.safetensors")
    assert {name: array.tolist() for name, array in loaded.items()} == {n: a.tolist() for n, a in TENSORS.items()}
    with safe_open(tmp_path / "m.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert (metadata["name"], metadata["version"], metadata["contributors"]) == ("digits", "20", "16")
    assert (metadata["code"], metadata["parent"]) == ("cc" * 32, "digits@10")
    assert json.loads(metadata["metrics"]) == {"accuracy": 0.9375, "loss": 0.25}


def test_pull_never_overwrites_unasked(cli: Cli, models: FakeService, tmp_path: Path) -> None:
    assert cli("models", "pull", "digits").out == "wrote digits@20 to digits.safetensors\n"
    result = cli("models", "pull", "digits")
    assert result.code == 2
    assert result.err == "error: digits.safetensors exists. try: repeat with --force, or name another file with -o\n"
    assert cli("models", "pull", "digits", "--force").code == 0
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["digits.safetensors"]


def test_pull_of_a_damaged_model_writes_nothing(cli: Cli, models: FakeService, tmp_path: Path) -> None:
    models.blobs[hashlib.sha256(CONTENT).digest()] = CONTENT[:-1] + b"!"
    result = cli("models", "pull", "digits")
    assert result.code == 7
    assert result.err == "error: digits@20 is damaged on this node. try: pull it from another node\n"
    assert not list(tmp_path.glob("*.safetensors"))


def test_pull_to_where_nothing_can_be_written(cli: Cli, models: FakeService) -> None:
    result = cli("models", "pull", "digits", "-o", "absent/m.safetensors")
    assert result.code == 7
    assert "cannot write absent/m.safetensors" in result.err


def test_which_model_is_meant() -> None:
    held = [model(19), model(20), model(3, "ward")]
    assert find_model(held, "digits").version == 20
    assert find_model(held, "digits@19").version == 19
    with pytest.raises(UsageError, match="no model called cats") as caught:
        find_model(held, "cats")
    assert caught.value.remedy == "it has: digits, ward"
    with pytest.raises(UsageError, match="knows no version 7 of digits") as caught:
        find_model(held, "digits@7")
    assert caught.value.remedy == "it knows: 19, 20"
