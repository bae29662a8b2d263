"""Whose applications may run code on this node, and whose may be in the fabric at all."""

from __future__ import annotations

import argparse
import string
from pathlib import Path

from protocol.errors import UsageError

from ..service import TrustInfo
from .command import Command, Session

_WHY = {"fabric": "fabric's owner", "config": "configured", "added": "added here"}


def _key(session: Session) -> str:
    key: str = session.args.key.lower()
    if len(key) != 64 or not set(key) <= set(string.hexdigits):
        raise UsageError(f"{session.args.key} is neither a key nor a hash", "both are 64 hex digits; see `mycelia ls`")
    return key


def _show(session: Session, info: TrustInfo) -> None:
    rows = [(entry.key, _WHY[entry.why]) for entry in info.keys]
    lines = session.out.table(("key or hash", "because"), rows)
    session.out.answer(info, lines if rows else ["nobody: no application can run code here"])
    known = {entry.key for entry in info.keys}
    if strangers := [key for key in info.named if key not in known]:
        session.out.hint(f"The fabric's document also names {', '.join(strangers)}: no code of theirs runs here.")
    if info.approve == "hash":
        session.out.hint('[trust] approve = "hash": no signature is enough, each version of the code must be listed.')


def _list(session: Session) -> None:
    _show(session, session.ask(lambda daemon: daemon.trusted()))


def _add(session: Session) -> None:
    _change(session, wanted=True)


def _remove(session: Session) -> None:
    _change(session, wanted=False)


def _change(session: Session, *, wanted: bool) -> None:
    key = _key(session)
    if session.args.fabric:
        _name(session, bytes.fromhex(key), wanted=wanted)
    else:
        _show(session, session.ask(lambda daemon: daemon.trust(key) if wanted else daemon.distrust(key)))


def _name(session: Session, key: bytes, *, wanted: bool) -> None:
    from . import naming  # noqa: PLC0415 - signing takes 0.1 s to import

    record = naming.renamed(session, key, wanted=wanted)
    _show(session, session.ask(lambda daemon: daemon.change_document(record)))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help=_KEY)
    parser.add_argument("--fabric", action="store_true", help=_FABRIC)
    parser.add_argument("--owner-key", metavar="FILE", type=Path, help="that key, if it is not here")


_KEY = "public key of an owner, or hash of an application's code: 64 hex digits"
_FABRIC = "change who may have applications in the fabric, on all nodes; runs no code, and needs the fabric owner's key"

TRUST = Command(
    name="trust",
    summary="Decide whose applications may run code on this node.",
    text=(
        "An application brings code, which runs in a separate process without network access, but sees the data that "
        "it trains on. It runs only when its owner is on this list; at first, that is the owner of the fabric. With "
        '`approve = "hash"` in the section [trust] of the configuration no signature is enough: each version of the '
        "code must be approved."
    ),
    examples=(("trust ls", "who is trusted"), ("trust add 5b1e...", "trust an owner, or approve a version of code")),
    then="mycelia ls: an application that was `refused` starts here at its next round",
    children=(
        Command(name="ls", summary="List whom this node trusts.", run=_list, examples=(("trust ls", "as a table"),)),
        Command(
            name="add",
            summary="Trust an owner, or approve a version of code.",
            text=(
                "Nodes take descriptors of applications only from owners whom they know: the fabric's owner, those "
                "whom its document names (`--fabric`), and those whom this node trusts."
            ),
            configure=_arguments,
            run=_add,
            examples=(
                ("trust add 5b1e...", "the whole key, as `mycelia ls --json` shows it"),
                ("trust add 5b1e... --fabric", "let that owner have applications in the fabric"),
            ),
        ),
        Command(
            name="rm",
            summary="Take trust back.",
            text=(
                "What runs at the moment is not interrupted; the next task is refused. Keys from the configuration are "
                "taken out there."
            ),
            configure=_arguments,
            run=_remove,
            examples=(("trust rm 5b1e...", "an owner or a version"),),
        ),
    ),
)
