"""Contacts remembered across restarts, so that a node finds its fabric again when whoever it joined through is gone.

A join brings the first ones; the daemon replaces them from time to time by peers that it has lately spoken with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from protocol.errors import ConfigError
from protocol.messages import Contact
from protocol.wire import UNREADABLE

from .statedir import StateDir, read_file, write_file

MAX_REMEMBERED = 64

_Remembered = Annotated[tuple[Contact, ...], msgspec.Meta(max_length=MAX_REMEMBERED)]
_decoder: msgspec.msgpack.Decoder[tuple[Contact, ...]] = msgspec.msgpack.Decoder(_Remembered)


def save_contacts(state: StateDir, contacts: Sequence[Contact]) -> None:
    """Remember the dialable ones among ``contacts``, best first, up to 64.  Raises StorageError."""
    kept = [contact for contact in contacts if contact.dialable][:MAX_REMEMBERED]
    write_file(state.contacts, msgspec.msgpack.encode(kept))


def load_contacts(state: StateDir) -> tuple[Contact, ...]:
    """What was remembered; nothing when nothing was.  Raises ConfigError when the file is corrupt."""
    if not state.contacts.exists():
        return ()
    try:
        return _decoder.decode(read_file(state.contacts))
    except UNREADABLE:
        raise ConfigError(
            f"{state.contacts} is corrupt",
            "delete it and start again; a node that nobody dials then needs a new invitation to find the fabric",
        ) from None
