"""The frame around all commands: help, errors, exit codes, JSON."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from node.cli import exits, main
from node.cli.catalogue import ROOT
from node.cli.command import Command, Session
from node.cli.output import Output
from node.cli.parser import GROUPS, command_help, parse
from node.control import NotRunningError
from protocol import errors
from protocol.errors import MyceliaError, UsageError

from .conftest import Cli

REPOSITORY = Path(__file__).parents[3]


def commands(command: Command = ROOT, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words that name each command."""
    below = [words for child in command.children for words in commands(child, (*path, child.name))]
    return [path, *below] if path else below


def find(words: tuple[str, ...]) -> Command:
    command = ROOT
    for word in words:
        command = next(child for child in command.children if child.name == word)
    return command


def test_the_overview_names_every_command(cli: Cli) -> None:
    result = cli()
    assert result.code == 0
    assert {name for _, names in GROUPS for name in names} == {command.name for command in ROOT.children}
    for command in ROOT.children:
        assert re.search(rf"^  {command.name} +{re.escape(command.summary)}$", result.out, re.MULTILINE)


@pytest.mark.parametrize("words", [words for words in commands() if not find(words).passthrough])
def test_every_command_teaches(cli: Cli, words: tuple[str, ...]) -> None:
    result = cli(*words, "--help")
    assert result.code == 0
    command = find(words)
    assert command.summary.endswith(".")
    assert command.examples
    for line, _ in command.examples:
        assert f"mycelia {line}" in result.out
    assert all(len(line) <= 104 for line in result.lines)


@pytest.mark.parametrize("words", commands())
def test_examples_are_commands_that_exist(words: tuple[str, ...]) -> None:
    for line, _ in find(words).examples:
        # Nothing after a shell operator is ours.
        typed = re.sub(r"\$\(.*\)", "TOKEN", re.split(r" [|<>] ", line)[0])
        parser, _ = parse(ROOT, shlex.split(typed))
        assert parser.command.run is not None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["stauts"], "error: mycelia has no command stauts. try: mycelia status\n"),
        (["frobnicate"], "error: mycelia has no command frobnicate. try: mycelia --help\n"),
        (["trust", "ad"], "error: mycelia trust has no command ad. try: mycelia trust add\n"),
        (["invite", "--hour", "3"], "error: mycelia invite has no option --hour. try: mycelia invite --hours\n"),
        (["--jsn", "ls"], "error: mycelia has no option --jsn. try: mycelia --json\n"),
        (["status", "now"], "error: mycelia status has no argument now. try: mycelia status --help\n"),
        (
            ["revoke"],
            "error: mycelia revoke: the following arguments are required: NODE. try: mycelia revoke --help\n",
        ),
        (
            ["logs", "-n", "many"],
            "error: mycelia logs: argument -n/--lines: invalid int value: 'many'. try: mycelia logs --help\n",
        ),
        (["help", "me"], "error: mycelia has no command me. try: mycelia models\n"),
    ],
)
def test_what_cannot_be_typed_is_one_sentence(cli: Cli, words: list[str], sentence: str) -> None:
    result = cli(*words)
    assert (result.code, result.out, result.err) == (2, "", sentence)


def test_common_options_stand_anywhere(cli: Cli, tmp_path: Path) -> None:
    for words in (["--json", "config", "show"], ["config", "--json", "show"], ["config", "show", "--json"]):
        assert cli(*words).json["state_dir"] == str(tmp_path / "s")
    assert main(["config", "show", "-C", str(tmp_path / "other"), "--json"]) == 0


def test_an_error_in_json(cli: Cli) -> None:
    result = cli("status", "--json")
    assert result.code == NotRunningError.exit_code == 8
    failure = json.loads(result.err)
    assert failure["exit_code"] == 8
    assert failure["remedy"] == "start it with `mycelia up`"


def test_help_alone_lists_all_commands_and_help_on_one_is_its_own(cli: Cli) -> None:
    assert cli("help").out == cli().out
    assert cli("help", "models", "pull").out == cli("models", "pull", "--help").out


def test_exit_codes_are_documented_without_clashes(cli: Cli) -> None:
    result = cli("help", "exit-codes")
    tree = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, MyceliaError)]
    classes: list[type[MyceliaError]] = [*tree, NotRunningError, exits.RunFailedError]
    for cls in classes:
        assert re.search(rf"^ +{cls.exit_code}  ", result.out, re.MULTILINE)
    own = [cls.exit_code for cls in classes if "exit_code" in vars(cls)]
    assert len(own) == len(set(own))
    assert cli("help", "exit-codes", "--json").json == {str(code): text for code, text in exits.EXIT_CODES.items()}


def test_an_exit_code_tells_the_error() -> None:
    assert exits.by_code(3) is errors.ConfigError
    assert exits.by_code(5) is errors.PeerError
    assert exits.by_code(77) is MyceliaError


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"mycelia (\d+\.\d+\.\d+|source)\n", capsys.readouterr().out)


def test_ctrl_c_is_quiet(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "ask", interrupted)
    result = cli("status")
    assert (result.code, result.out, result.err) == (130, "", "interrupted\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    shell = f"{sys.executable} -m node config reference | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], cwd=REPOSITORY, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"# Configuration\n", b"")


def test_a_command_that_is_looked_up_only_when_used(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setitem(sys.modules, "node.demo", type("Demo", (), {"main": staticmethod(seen.append)}))
    assert cli("demo", "--nodes", "8", "--json", "F").code == 0
    assert seen == [["--nodes", "8", "--json", "F"]]


def test_commands_that_ask_start_fast() -> None:
    """Numpy, gRPC and torch stay out of a command that needs none of them."""
    check = (
        "import sys; from node.cli import main; main(['-C', '/nowhere/at/all', 'status']);"
        "print([name for name in ('numpy', 'grpc', 'torch', 'cryptography') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_colour_is_for_terminals_and_not_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Output(Terminal(), Terminal()).style("x", "bold") == "\x1b[1mx\x1b[0m"
    assert Output(io.StringIO(), Terminal()).style("x", "bold") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Output(Terminal(), Terminal()).style("x", "bold") == "x"


def test_help_says_what_every_command_has_in_common() -> None:
    parser, _ = parse(ROOT, ["status"])
    assert "-C, --state DIR" in command_help(parser)


def test_text_from_elsewhere_cannot_drive_the_terminal() -> None:
    out, err = io.StringIO(), io.StringIO()
    Output(out, err, colour=False).error(UsageError("no \x1b[2Jway\n", "go \x07home"))
    assert err.getvalue() == "error: no \\x1b[2Jway\\n. try: go \\x07home\n"
