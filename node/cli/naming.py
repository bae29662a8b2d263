"""A new version of the fabric's document, which names other owners than the one before."""

from __future__ import annotations

import time

import msgspec

from dht.messages import Record
from protocol.errors import UsageError

from ..identity.fabric import MAX_APP_OWNERS, spread_document
from ..identity.membership import load_document
from ..statedir import StateDir
from . import owner
from .command import Session


def renamed(session: Session, key: bytes, *, wanted: bool) -> Record:
    """The record by which the fabric's document names ``key``, or no longer does.

    Raises UsageError when the key of the fabric's owner is not here, or nothing would change.
    """
    signer = owner.find(session)
    _, document = load_document(StateDir.open(session.state_dir))
    if signer.public_key != document.owner:
        raise UsageError(f"that is not the key of the owner of fabric {document.name}", "give its own with --owner-key")
    if wanted == (key in (document.owner, *document.app_owners)):
        raise UsageError(f"that owner is {'named already' if wanted else 'not named'}", "see `mycelia trust ls`")
    named = [*document.app_owners, key] if wanted else [other for other in document.app_owners if other != key]
    if len(named) > MAX_APP_OWNERS:
        raise UsageError(f"the document names {MAX_APP_OWNERS} owners already", "remove some with `mycelia trust rm`")
    changed = msgspec.structs.replace(document, app_owners=tuple(named), serial=document.serial + 1)
    return spread_document(changed, signer, int(time.time()))
