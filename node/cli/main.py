"""Entry point: find the command, run it, turn what goes wrong into a sentence and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from protocol.errors import MyceliaError

from ..provenance import version
from .catalogue import ROOT
from .command import Session
from .exits import INTERRUPTED
from .output import Output
from .parser import command_help, overview, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mycelia`` with ``argv`` (default: of this process) and return the exit code.

    Only a bug of ours raises: its traceback is what we need to see.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    out = Output(sys.stdout, sys.stderr, as_json="--json" in words)
    try:
        return _run(words, out)
    except MyceliaError as error:
        out.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        out.hint("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`mycelia logs | head`): end quietly, as other tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str], out: Output) -> int:
    if words == ["--version"]:
        out.line(f"mycelia {version()}")
        return 0
    parser, args = parse(ROOT, words)
    out.speak_json(args.json)
    if args.help or parser.command.run is None:
        out.line(overview(parser) if parser.command is ROOT else command_help(parser))
        return 0
    session = Session(args, out)
    try:
        parser.command.run(session)
    finally:
        if session.flaw is not None:
            out.hint(f"note: {session.flaw} ({session.flaw.remedy}); a daemon that runs goes on with what it has read")
    return 0
