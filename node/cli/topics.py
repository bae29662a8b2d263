"""Help that belongs to no command, and the commands that live elsewhere."""

from __future__ import annotations

import importlib

from protocol.errors import UsageError

from . import exits, reference
from .command import Command, Session


def _help(session: Session) -> None:
    topic = session.args.topic
    if topic == "exit-codes":
        codes = {str(code): meaning for code, meaning in exits.EXIT_CODES.items()}
        session.out.answer(codes, [f"{code:>5}  {meaning}" for code, meaning in codes.items()])
    elif topic == "reference":
        # The catalogue holds this command too.
        root = importlib.import_module(".catalogue", __package__).ROOT
        text = reference.markdown(root)
        session.out.answer({"markdown": text}, [text.rstrip("\n")])
    else:
        raise UsageError(f"there is no help on {topic}", f"mycelia {topic} --help, or mycelia help exit-codes")


HELP = Command(
    name="help",
    summary="Explain the exit codes, or print the whole reference.",
    text="Every command explains itself with --help; this explains what they have in common.",
    examples=(
        ("help exit-codes", "what the exit codes mean"),
        ("help reference | less", "every command on one page"),
    ),
    then="mycelia COMMAND --help",
    configure=lambda parser: parser.add_argument("topic", metavar="TOPIC", help="exit-codes or reference"),
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
