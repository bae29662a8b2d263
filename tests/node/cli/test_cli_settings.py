"""config show and config reference."""

from __future__ import annotations

import tomllib

from node.config import load, parse
from node.config_reference import markdown

from .conftest import Cli


def test_what_is_shown_is_a_configuration(cli: Cli) -> None:
    cli.state.mkdir()
    (cli.state / "config.toml").write_text('[node]\nname = "n"\n[data.w]\nkind = "csv"\npath = "/w.csv"\n')
    shown = cli("config", "show").out
    again = parse(shown, cli.state / "config.toml")
    effective = load(cli.state, None, {})
    assert (again.node, again.data, again.worker) == (effective.node, effective.data, effective.worker)
    answer = cli("config", "show", "--json").json
    assert answer["file"] == str(cli.state / "config.toml")
    assert answer["data"]["w"]["path"] == "/w.csv"
    assert tomllib.loads(shown)["data"]["w"] == answer["data"]["w"]


def test_a_mistake_in_the_file_is_named(cli: Cli) -> None:
    cli.state.mkdir()
    (cli.state / "config.toml").write_text("[node]\nlisten_on = 1\n")
    result = cli("config", "show")
    assert result.code == 3
    assert result.err.startswith(f"error: {cli.state / 'config.toml'}: unknown key listen_on in [node]. try:")


def test_the_reference(cli: Cli) -> None:
    assert cli("config", "reference").out == markdown()
