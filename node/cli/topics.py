"""Help on everything, and the commands that live elsewhere."""

from __future__ import annotations

import importlib

from . import exits, reference
from .command import Command, Session
from .parser import Parser, command_help, overview, parse


def _help(session: Session) -> None:
    # The catalogue holds this command too.
    root = importlib.import_module(".catalogue", __package__).ROOT
    match session.args.topic:
        case []:
            session.out.line(overview(Parser(root, root.name)))
        case ["exit-codes"]:
            codes = {str(code): meaning for code, meaning in exits.EXIT_CODES.items()}
            session.out.answer(codes, [f"{code:>5}  {meaning}" for code, meaning in codes.items()])
        case ["reference"]:
            text = reference.markdown(root)
            session.out.answer({"markdown": text}, [text.rstrip("\n")])
        case words:
            _explain(session, root, words)


def _explain(session: Session, root: Command, words: list[str]) -> None:
    """What ``mycelia WORDS --help`` says.  Raises UsageError when there is no such command."""
    parser, args = parse(root, [*words, "--help"])
    if parser.command.passthrough and parser.command.run is not None:
        parser.command.run(Session(args, session.out))
    else:
        session.out.line(command_help(parser))


HELP = Command(
    name="help",
    summary="Explain a command, the exit codes, or everything.",
    text="Without a topic it lists all commands. Every command also explains itself with --help.",
    examples=(
        ("help run", "the same as mycelia run --help"),
        ("help exit-codes", "what the exit codes mean"),
        ("help reference | less", "every command on one page"),
    ),
    then="mycelia COMMAND --help",
    configure=lambda parser: parser.add_argument(
        "topic", metavar="TOPIC", nargs="*", help="a command, exit-codes, or reference"
    ),
    run=_help,
)


def _demo(session: Session) -> None:
    # By name and late: the demo imports much that no other command needs.
    importlib.import_module("node.demo").main(session.args.rest)


DEMO = Command(
    name="demo",
    summary="Watch sixteen nodes train on this machine, while some are killed.",
    text=(
        "Starts a fabric of sixteen processes on this machine, trains a model of handwritten digits on data that never "
        "leaves its node, kills and freezes nodes under it, and proves at the end that the result is exact. "
        "`mycelia demo --help` lists its options."
    ),
    examples=(("demo", "the whole show"), ("demo --nodes 8 --no-kill", "a calmer one")),
    then="mycelia init",
    run=_demo,
    passthrough=True,
)
