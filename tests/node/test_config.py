"""Configuration: what is read, and the sentence for everything that cannot be."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.data.binding import Binding
from node import config
from node.config import NodeConfig, load, parse
from protocol.errors import ConfigError

FILE = Path("config.toml")


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    return caught.value


def test_an_empty_file_is_all_defaults() -> None:
    assert parse("", FILE) == NodeConfig()


def test_values_reach_their_fields() -> None:
    read = parse(
        """
        [node]
        name = "ward-3"
        advertise = ["a.example:7447"]
        [worker]
        nice = 19
        [data.digits]
        kind = "digits"
        partition = "dirichlet"
        part = 3
        parts = 16
        alpha = 1
        """,
        FILE,
    )
    assert read.node.name == "ward-3"
    assert read.node.advertise == ("a.example:7447",)
    assert read.worker.nice == 19
    assert read.data["digits"] == Binding(kind="digits", partition="dirichlet", part=3, parts=16, alpha=1)


def test_a_misspelt_key_names_its_neighbour() -> None:
    error = refused('[node]\nlisten_adress = "x"\nadvertize = []')
    assert str(error) == "config.toml: unknown key listen_adress in [node]"
    error = refused("[node]\nadvertize = []")
    assert str(error) == "config.toml: unknown key advertize in [node]"
    assert error.remedy == "did you mean advertise?"


def test_a_misspelt_section_names_its_neighbour() -> None:
    error = refused("[wrker]\nmax = 1")
    assert str(error) == "config.toml: unknown section [wrker]"
    assert error.remedy == "did you mean worker?"


def test_a_key_without_neighbour_lists_what_is_known() -> None:
    assert refused("[storage]\nxyzzy = 1").remedy == "known are: quota_gib"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[worker]\nmax = "many"', "config.toml: [worker] max = 'many' is not an integer of at least 1"),
        ("[worker]\nmax = 0", "config.toml: [worker] max = 0 is not an integer of at least 1"),
        ("[worker]\nmax = true", "config.toml: [worker] max = true is not an integer of at least 1"),
        ("[worker]\nnice = 20", "config.toml: [worker] nice = 20 is not an integer from 0 to 19"),
        ("[worker]\nenabled = 1", "config.toml: [worker] enabled = 1 is not true or false"),
        ("[links]\ndial_timeout_s = 0", "config.toml: [links] dial_timeout_s = 0 is not a number above 0"),
        ("[node]\nlisten = 7447", "config.toml: [node] listen = 7447 is not a string"),
        ('[node]\nadvertise = "h:1"', "config.toml: [node] advertise = 'h:1' is not a list of strings"),
        ('[log]\nformat = "xml"', """config.toml: [log] format = 'xml' is not "human" or "json\""""),
        ('[data.d]\nkind = "sql"', """config.toml: [data.d] kind = 'sql' is not "digits", "npz" or "csv\""""),
        ('[data.d]\npath = "x"', "config.toml: [data.d] lacks kind"),
        ("[data]\nd = 1", "config.toml: data.d is a section, not a value"),
        ("node = 1", "config.toml: node is a section, not a value"),
        ("[node", "config.toml is not valid TOML: expected ']' at the end of a table declaration (at end of document)"),
    ],
)
def test_what_cannot_be_is_one_sentence(text: str, sentence: str) -> None:
    error = refused(text)
    assert str(error) == sentence
    assert error.remedy


def test_a_long_value_is_cut_in_the_sentence() -> None:
    assert len(str(refused(f'[worker]\nmax = "{"9" * 5000}"'))) < 200


@given(st.text(max_size=300))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(text, FILE)


def test_state_directory_in_order_of_precedence(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "node.toml"
    file.parent.mkdir()
    file.write_text('[node]\nstate_dir = "state"\n')
    home = {"XDG_STATE_HOME": str(tmp_path / "xdg")}
    everything = {**home, "MYCELIA_CONFIG": str(file), "MYCELIA_STATE_DIR": str(tmp_path / "env")}
    assert load(tmp_path / "flag", None, everything).state_dir == tmp_path / "flag"
    assert load(None, None, everything).state_dir == tmp_path / "env"
    assert load(None, file, home).state_dir == file.parent / "state"
    assert load(None, None, home).state_dir == tmp_path / "xdg" / "mycelia"
    assert load(None, None, {}).state_dir == Path("~/.local/state/mycelia").expanduser()


def test_the_file_in_the_state_directory_is_found(tmp_path: Path) -> None:
    assert load(tmp_path, None, {}).source is None
    (tmp_path / "config.toml").write_text('[node]\nname = "n"\n')
    assert load(tmp_path, None, {}).node.name == "n"
    assert load(tmp_path, None, {}).source == tmp_path / "config.toml"


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.toml: No such file or directory"):
        load(None, tmp_path / "absent.toml", {})


@pytest.mark.parametrize(
    ("content", "reason"), [(b"\xff\xfe", "is not UTF-8 text"), (b"#" * (config.MAX_FILE + 1), "is larger than")]
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        load(tmp_path, None, {})


def test_a_socket_path_beyond_the_system_limit_is_refused_with_the_key_to_set(tmp_path: Path) -> None:
    long = dataclasses.replace(NodeConfig(), state_dir=Path("/" + "x" * 120))
    with pytest.raises(ConfigError, match="system takes 107") as caught:
        _ = long.socket_path
    assert "[control] socket" in caught.value.remedy
    assert load(tmp_path, None, {}).socket_path == tmp_path / "control.sock"


def test_data_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[data.w]\nkind = "csv"\npath = "w.csv"\n[data.v]\nkind = "npz"\npath = "/v"')
    data = load(tmp_path, None, {}).data
    assert {name: binding.path for name, binding in data.items()} == {"w": str(tmp_path / "w.csv"), "v": "/v"}
