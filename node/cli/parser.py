"""From commands to parsed arguments, and to help.

argparse reads the options of one command at a time; the walk from command to subcommand is ours, so that the options
which every command has may stand anywhere.  argparse's complaints become UsageError with the nearest command or option
as remedy, and help is laid out here: what a command does, how it is called, examples, the next step.
"""

from __future__ import annotations

import argparse
import difflib
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from protocol.errors import UsageError

from .command import Command

WIDTH = 80
"""Columns of help: what a terminal has at least."""
COMMON = ("state", "config", "json", "help")
"""Options that every command has."""

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("try it", ("demo",)),
    ("found or join a fabric", ("init", "invite", "join")),
    ("run a node", ("up", "status", "peers", "logs", "stop", "config")),
    ("train", ("check", "run", "attach", "ls", "models")),
    ("decide who takes part", ("trust", "revoke", "leave")),
    ("learn more", ("help",)),
)
"""Commands by what one wants to do, for the overview."""


class Parser(argparse.ArgumentParser):
    """The arguments of one command."""

    def __init__(self, command: Command, prog: str) -> None:
        super().__init__(prog=prog, add_help=False, allow_abbrev=False)
        self.command = command
        self.arguments: list[argparse.Action] = []
        command.configure(self)
        self._add_common()
        if command.children:
            self.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        action = super().add_argument(*args, **kwargs)
        self.arguments.append(action)
        return action

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", f"{self.prog} --help")

    def unknown(self, word: str) -> UsageError:
        """The error for a word that is no option, command or argument here."""
        if word.startswith("-"):
            what, known = "option", [text for action in self.arguments for text in action.option_strings]
        else:
            what, known = "command" if self.command.children else "argument", [c.name for c in self.command.children]
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
        return UsageError(f"{self.prog} has no {what} {word}", f"{self.prog} {near[0] if near else '--help'}")

    def _add_common(self) -> None:
        self.add_argument(
            "-C", "--state", metavar="DIR", type=Path, default=argparse.SUPPRESS, help="state directory of the node"
        )
        self.add_argument(
            "--config", metavar="FILE", type=Path, default=argparse.SUPPRESS, help="default: DIR/config.toml"
        )
        self.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="answer in JSON, for programs")
        self.add_argument("-h", "--help", action="store_true", default=argparse.SUPPRESS, help="show this help")


def parse(root: Command, argv: Sequence[str]) -> tuple[Parser, argparse.Namespace]:
    """The innermost command that ``argv`` names, with its arguments.  Raises UsageError."""
    namespace = argparse.Namespace(state=None, config=None, json=False, help=False, rest=[])
    parser, words = Parser(root, root.name), list(argv)
    while True:
        namespace.rest = words
        if parser.command.passthrough:
            return parser, namespace
        # With --help the command need not be complete.
        if not parser.command.children and ("-h" in words or "--help" in words):
            namespace.help = True
            return parser, namespace
        _, extra = parser.parse_known_args(words, namespace)
        if extra:
            raise parser.unknown(extra[0])
        if not parser.command.children or not namespace.rest:
            return parser, namespace
        name, *words = namespace.rest
        child = next((child for child in parser.command.children if child.name == name), None)
        if child is None:
            raise parser.unknown(name)
        parser = Parser(child, f"{parser.prog} {name}")


# ---- help ------------------------------------------------------------------------------------------------------------


def usage(parser: Parser) -> str:
    """``mycelia invite [--hours H]``, without the options that every command has."""
    words = [parser.prog]
    for action in parser.arguments:
        if action.dest in COMMON or action.help == argparse.SUPPRESS:
            continue
        if action.option_strings:
            word = f"{action.option_strings[-1]}{_value(action)}"
            words.append(word if action.required else f"[{word}]")
        else:
            name = _value(action).strip()
            words.append({"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(str(action.nargs), name))
    return " ".join([*words, "COMMAND"] if parser.command.children else words)


def entries(parser: Parser, *, common: bool) -> list[tuple[str, str]]:
    """(how it is written, what it means) of the arguments; of the ``common`` ones or the command's own."""
    return [
        (", ".join(action.option_strings) + _value(action) if action.option_strings else _value(action).strip(),
         str(action.help))
        for action in parser.arguments
        if action.help != argparse.SUPPRESS and (action.dest in COMMON) == common
    ]  # fmt: skip


def _value(action: argparse.Action) -> str:
    return "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"


def command_help(parser: Parser) -> str:
    """The help of one command."""
    command = parser.command
    parts = [
        textwrap.fill(f"usage: {usage(parser)}", WIDTH, subsequent_indent="         "),
        textwrap.fill(command.summary, WIDTH),
    ]
    if command.text:
        parts.append("\n\n".join(textwrap.fill(paragraph, WIDTH) for paragraph in command.text.split("\n\n")))
    if command.children:
        parts.append("commands:\n" + _columns((child.name, child.summary) for child in command.children))
    if own := entries(parser, common=False):
        parts.append("arguments:\n" + _columns(own))
    parts.append("always:\n" + _columns(entries(parser, common=True)))
    if command.examples:
        parts.append("examples:\n" + _columns((f"mycelia {line}", meaning) for line, meaning in command.examples))
    if command.then:
        parts.append(textwrap.fill(f"next: {command.then}", WIDTH, subsequent_indent="      "))
    return "\n\n".join(parts)


def overview(parser: Parser) -> str:
    """What ``mycelia`` alone shows."""
    root = parser.command
    summaries = {child.name: child.summary for child in root.children}
    margin = max(map(len, summaries)) + 2
    parts = [f"usage: {usage(parser)}", textwrap.fill(root.summary, WIDTH), textwrap.fill(root.text, WIDTH)]
    for title, names in GROUPS:
        parts.append(f"{title}:\n" + _columns(((name, summaries[name]) for name in names), margin))
    parts.append("always:\n" + _columns(entries(parser, common=True)))
    parts.append(f"next: {root.then}")
    return "\n\n".join(parts)


def _columns(pairs: Iterable[tuple[str, str]], margin: int = 0) -> str:
    """Two aligned columns, the second wrapped."""
    rows = list(pairs)
    margin = min(max([margin, *(len(left) + 2 for left, _ in rows)]), 30)
    lines = []
    for left, right in rows:
        wrapped = textwrap.wrap(right, WIDTH - margin - 2) or [""]
        if len(left) + 2 > margin:
            lines += [f"  {left}", " " * (margin + 2) + wrapped[0]]
        else:
            lines.append(f"  {left:<{margin}}{wrapped[0]}".rstrip())
        lines += [" " * (margin + 2) + text for text in wrapped[1:]]
    return "\n".join(lines)
