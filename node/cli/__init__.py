"""The ``mycelia`` command: the first thing a newcomer meets, and the operator's only tool.

A command is a value (:class:`node.cli.command.Command`): name, help text, arguments, function.  Parser, help and
``docs/reference-cli.md`` are all built from those values, so none can drift from another.  A command's function
returns what it found out as a value; how that is shown, as text for people or as ``--json`` for programs, is decided
in one place (:mod:`node.cli.output`).  Whatever goes wrong is a :class:`MyceliaError`: one sentence, a remedy, and an
exit code (:mod:`node.cli.exits`).

Standard output carries the answer and nothing else, so that it can be piped; hints and progress go to standard error.
"""

from .main import main

__all__ = ["main"]
