"""The committed reference is the generated one."""

from __future__ import annotations

from .conftest import Cli
from .test_cli_main import REPOSITORY, commands


def test_the_committed_reference_is_the_generated_one(cli: Cli) -> None:
    generated = cli("help", "reference").out
    committed = (REPOSITORY / "docs" / "reference-cli.md").read_text()
    assert committed == generated, "run: mycelia help reference > docs/reference-cli.md"


def test_every_command_is_in_it(cli: Cli) -> None:
    generated = cli("help", "reference").out
    for words in commands():
        assert f"{'#' * (len(words) + 1)} `mycelia {' '.join(words)}`\n" in generated
