"""The configuration file that ``init`` and ``join`` leave behind, so that a newcomer edits instead of writing.

Options of the command become keys of the file.  A file that is there already is the operator's and stays as it is; then
the options are refused rather than dropped.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from fl.data.binding import Binding
from protocol.errors import UsageError

from ..config import FILE_NAME, parse
from ..config_reference import toml_value
from ..statedir import write_file
from .command import Session

_HEAD = """\
# Configuration of one Mycelia node. Every key, with its default: mycelia config reference
# It is read when the daemon starts.
"""
_DATA_HINT = """
# Offer local data to applications by name; it never leaves this machine:
#
# [data.ward]
# kind = "csv"
# path = "ward.csv"
# target = "outcome"
"""
_OPTIONS = {"node_name": "name", "listen": "listen", "advertise": "advertise", "join_listen": "join_listen"}
"""Option → key of [node]."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that end up in the file."""
    parser.add_argument("--node-name", metavar="NAME", help="label of this node in tables and logs (the host name)")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where peers dial this node ([::]:7447)")
    parser.add_argument(
        "--advertise", metavar="HOST:PORT", action="append", help="where peers are told to dial; may be repeated"
    )
    parser.add_argument("--join-listen", metavar="HOST:PORT", help="where an issuer answers joiners ([::]:7448)")
    parser.add_argument(
        "--bind", metavar="NAME=DATA", action="append", default=[],
        help="offer data: FILE.csv[:TARGET], FILE.npz, or digits[:PART/PARTS]; may be repeated",
    )  # fmt: skip


def write(session: Session) -> Path:
    """Write the file for ``session``'s options and return its path.  Raises UsageError, ConfigError, StorageError."""
    file = session.args.config or session.state_dir / FILE_NAME
    node = {key: getattr(session.args, option) for option, key in _OPTIONS.items()}
    chosen = {key: value for key, value in node.items() if value is not None}
    bindings = dict(_binding(text) for text in session.args.bind)
    lines = [_HEAD, "[node]", *(f"{key} = {toml_value(value)}" for key, value in chosen.items())]
    for name, binding in bindings.items():
        lines += ["", f"[data.{name}]", *_keys(binding)]
    text = "\n".join(lines) + "\n" + ("" if bindings else _DATA_HINT)
    parse(text, file)
    if file.exists():
        # The same as before is a command that is repeated after it failed.
        if (chosen or bindings) and file.read_text(errors="replace") != text:
            option = next((name for name, key in _OPTIONS.items() if key in chosen), "bind")
            raise UsageError(f"{file} exists, so --{option.replace('_', '-')} would not count", f"set it in {file}")
        return Path(file)
    write_file(file, text.encode())
    return Path(file)


def _keys(binding: Binding) -> list[str]:
    default = asdict(Binding(kind=binding.kind))
    values = asdict(binding)
    return [f"{key} = {toml_value(values[key])}" for key in values if key == "kind" or values[key] != default[key]]


def _binding(text: str) -> tuple[str, Binding]:
    """``ward=ward.csv:outcome`` → (``ward``, its binding).  Raises UsageError."""
    name, equals, source = text.partition("=")
    remedy = "for example --bind ward=ward.csv:outcome, --bind x=x.npz, --bind digits=digits:0/3"
    if not equals or not name.replace("-", "_").isidentifier() or not name.isascii():
        raise UsageError(f"--bind {text} is not NAME=DATA", remedy)
    path, _, detail = source.partition(":")
    if path == "digits":
        part, slash, parts = detail.partition("/")
        if not detail:
            return name, Binding(kind="digits")
        if slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts):
            return name, Binding(kind="digits", partition="iid", part=int(part), parts=int(parts))
        raise UsageError(f"--bind {text}: {detail} is not a share of the digits", remedy)
    place = str(Path(path).expanduser().absolute())
    if path.endswith((".csv", ".npz")) and not Path(place).is_file():
        raise UsageError(f"--bind {text}: there is no file {place}", "give the path of a file that is there")
    if path.endswith(".csv"):
        return name, Binding(kind="csv", path=place, target=detail)
    if path.endswith(".npz") and not detail:
        return name, Binding(kind="npz", path=place)
    raise UsageError(f"--bind {text}: {source} is neither a .csv nor an .npz file nor digits", remedy)
