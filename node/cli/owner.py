"""The key of whoever owns applications.

An owner is a person, not a node: the key that founded a fabric signs its applications from any of that person's nodes.
It is looked for where ``--owner-key`` or ``MYCELIA_OWNER_KEY`` points, in the state directory, and in the *keyring*:
``~/.config/mycelia/owners/FABRIC.key``, a link that ``init`` leaves for other nodes of the same user.  A link and not a
copy, so that a key which is moved offline is gone from here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

from protocol.errors import UsageError

from ..identity.keys import Key
from ..identity.membership import load_document
from ..statedir import StateDir
from .command import Session

KEY_ENV = "MYCELIA_OWNER_KEY"


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--owner-key", metavar="FILE", type=Path, help=f"key that signs ({KEY_ENV}; the fabric owner's, if it is here)"
    )


def find(session: Session) -> Key:
    """The key to sign with.  Raises UsageError when there is none, ConfigError when it cannot be read."""
    named = session.args.owner_key or os.environ.get(KEY_ENV)
    if named:
        return Key.load(Path(named).expanduser())
    state = StateDir.open(session.state_dir)
    _, document = load_document(state)
    for place in (state.owner_key, _keyring(document.fingerprint)):
        if place.exists():
            return Key.load(place)
    raise UsageError(
        f"the owner key of fabric {document.name}, which `mycelia init` made, is not here",
        f"--owner-key FILE, or set {KEY_ENV}; nodes run code only for owners whom they trust",
    )


def remember(fingerprint: bytes, key: Path) -> None:
    """Leave a link to ``key`` for this user's other nodes.  A convenience: when it cannot be, nothing is lost."""
    link = _keyring(fingerprint)
    with contextlib.suppress(OSError):
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(key)


def _keyring(fingerprint: bytes) -> Path:
    base = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return base / "mycelia" / "owners" / f"{fingerprint.hex()}.key"
