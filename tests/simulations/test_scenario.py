"""Scenario files: strict reading, clear errors, a reference in step with the code."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from protocol.errors import ConfigError
from simulations import reference
from simulations.scenario import Scenario, Section, load

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "simulations" / "scenarios").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_scenarios_are_valid_and_bear_their_own_names(path: Path) -> None:
    assert load(path).name == path.stem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[nodes]\ncuont = 3", "unknown field `cuont` - at `$.nodes`"),
        ("[nodse]\ncount = 3", "unknown field `nodse`"),
        ("[nodes]\ncount = 0", "Expected `int` >= 1 - at `$.nodes.count`"),
        ("[faults]\ncrash_share = 1.5", "Expected `float` <= 1.0 - at `$.faults.crash_share`"),
        ("name = 3", "Expected `str`, got `int` - at `$.name`"),
        ("name = ", "is not TOML"),
        ("[nodes]\ncount = 4\n[applications]\nworkers = 5", "applications.workers is 5, but there are 4 nodes"),
        ("[applications]\nworkers = 2\nmin_workers = 3", "applications.min_workers is 3, above its workers"),
        ("[nodes]\ncount = 8\noutbound_share = 0.5", "applications.voters is 5, but 4 nodes can be dialled"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


def test_a_missing_file_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        load(tmp_path / "absent.toml")


def test_the_reference_is_in_step_with_the_code() -> None:
    assert (ROOT / "docs" / "reference-scenarios.md").read_text() == reference.markdown()


def test_every_key_is_documented() -> None:
    text = reference.markdown()
    for field in msgspec.structs.fields(Scenario):
        if isinstance(field.type, type) and issubclass(field.type, Section):
            for key in msgspec.structs.fields(field.type):
                assert f"| `{key.name}` |" in text
