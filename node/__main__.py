"""``mycelia`` and ``python -m node``: make sure of our own packages, then hand over to the command line."""

from __future__ import annotations

import sys

from .provenance import check


def main() -> int:
    """The exit code of the command."""
    check()
    from .cli import main as command_line  # noqa: PLC0415 - it imports the packages that were just checked

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
