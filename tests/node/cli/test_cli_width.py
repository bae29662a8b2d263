"""Everything that is shown fits the terminal that one has at least: 80 columns."""

from __future__ import annotations

import io

import pytest

from node.cli.catalogue import ROOT
from node.cli.command import Command
from node.cli.output import COLUMNS, Output, fitted, width
from node.cli.parser import Parser, command_help, overview
from node.service import AppInfo, ModelInfo, PeerInfo, TrustedKey

from ..fake_service import FakeService
from .conftest import Cli


def commands(command: Command, path: str) -> list[tuple[str, Command]]:
    return [(path, command), *(c for child in command.children for c in commands(child, f"{path} {child.name}"))]


@pytest.mark.parametrize(("path", "command"), commands(ROOT, "mycelia"), ids=lambda x: x if isinstance(x, str) else "")
def test_help_fits(path: str, command: Command) -> None:
    text = command_help(Parser(command, path))
    assert [line for line in text.splitlines() if width(line) > COLUMNS] == []


def test_the_overview_fits() -> None:
    assert [line for line in overview(Parser(ROOT, "mycelia")).splitlines() if width(line) > COLUMNS] == []


LONG = "an application with a name as long as a name may be: sixty-four."


def crowd(service: FakeService) -> None:
    """Of everything that is listed, the widest that may be."""
    service.apps = [
        AppInfo(id="ab" * 16, name=LONG, owner="ab" * 32, status="finished", round=10**6, rounds=10**6,
                role="aggregator", detail="0 of 3 workers; 3 nodes cannot contribute, the first is " + LONG * 4)
    ]  # fmt: skip
    service.peer_list = [
        PeerInfo(id="cd" * 16, name=LONG, addresses=["[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"] * 8, linked=True,
                 rtt_ms=12345.6, penalties=10**6)
    ]  # fmt: skip
    service.owners = [TrustedKey(key="ef" * 32, why="fabric"), TrustedKey(key="01" * 32, why="added")]
    service.model_list = [
        ModelInfo(name=LONG, version=10**6, app="ab" * 16, owner="ab" * 32, trusted=False, blob="00" * 32, size=1 << 40,
                  round=10**6, rounds=10**6, contributors=16384, created=1.0, final=True,
                  metrics={f"{n}{LONG}": 1e-300 for n in range(5)})
    ]  # fmt: skip


@pytest.mark.parametrize("words", [("ls",), ("peers",), ("models", "ls"), ("models", "ls", "--all"), ("trust", "ls")])
def test_tables_fit_on_a_pipe(cli: Cli, service: FakeService, words: tuple[str, ...]) -> None:
    crowd(service)
    result = cli(*words)
    assert result.code == 0
    assert [line for line in result.lines if width(line) > COLUMNS] == []


def test_what_identifies_is_never_cut(cli: Cli, service: FakeService) -> None:
    crowd(service)
    assert "abababab" in cli("ls").lines[1]
    assert "cdcdcdcd" in cli("peers").lines[1]
    assert "ef" * 32 in cli("trust", "ls").lines[1]


def test_wide_characters_count_as_two() -> None:
    out = Output(io.StringIO(), io.StringIO(), colour=False)
    lines = out.table(("name", "detail"), [("\u6f22" * 30, "\u5b57" * 60)])
    assert max(map(width, lines)) <= COLUMNS


@pytest.mark.parametrize(("widths", "room"), [([10, 20, 30], 80), ([64, 8, 9, 400], 74), ([90, 90, 90], 76)])
def test_columns_are_made_narrower_only_when_they_must(widths: list[int], room: int) -> None:
    result = fitted(widths, room, len(widths) - 1)
    assert sum(result) <= room
    assert result == widths or sum(widths) > room
    assert all(now <= before for now, before in zip(result, widths, strict=True))
