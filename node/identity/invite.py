"""Invitations: one line of text that lets one machine join one fabric once.

    mycelia1.<base64url of MessagePack ‖ first 4 bytes of its SHA-256>

It names the fabric by its owner's fingerprint, so whoever answers at the issuer's address has to show a document that
the owner signed; it carries the least serial of that document, so that an old one with a withdrawn authority does not
do; and it holds a secret that its issuer takes once (``ledger``).  One issuer, because only one ledger can know that a
secret was used: two would need consensus to refuse the second use.  When that issuer is gone for good, another issuer
writes another invitation.  The checksum is for what chat programs and terminals do to a pasted line.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated

import msgspec

from protocol.errors import UsageError
from protocol.messages import Contact, Digest
from protocol.wire import UNREADABLE

SECRET_BYTES = 16
MAX_SEEDS = 8
MAX_TOKEN = 8192
"""Characters."""

_HEAD = "mycelia1."
_CHECK_BYTES = 4
_ASK = "ask for a new one: `mycelia invite` on an issuer prints it"


class Invitation(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a joiner is told before it talks to anybody."""

    fingerprint: Digest
    """Of the fabric's owner (``fabric.fingerprint``)."""
    serial: Annotated[int, msgspec.Meta(ge=1)]
    """Of the fabric's document when the invitation was written; an older document is refused."""
    issuer: Contact
    """Its id, and the addresses of its *join listener*."""
    seeds: Annotated[tuple[Contact, ...], msgspec.Meta(max_length=MAX_SEEDS)]
    """Members to dial first; the answer to the join brings fresher ones."""
    secret: Annotated[bytes, msgspec.Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    expires: Annotated[int, msgspec.Meta(ge=0)]
    """Unix time in seconds."""


def encode_invitation(invitation: Invitation) -> str:
    """The line that is handed to the joiner."""
    body = msgspec.msgpack.encode(invitation)
    token = _HEAD + base64.urlsafe_b64encode(body + _checksum(body)).decode("ascii").rstrip("=")
    assert len(token) <= MAX_TOKEN
    return token


def decode_invitation(text: str) -> Invitation:
    """Read an invitation; white space anywhere in it is forgiven.  Raises UsageError saying what is wrong with it."""
    if len(text) > 2 * MAX_TOKEN:
        raise UsageError("this is not an invitation: it is too long", _ASK)
    token = "".join(text.split())
    if not token.startswith(_HEAD):
        if token.startswith("mycelia"):
            raise UsageError("this invitation has a format that this version does not read", "update mycelia")
        raise UsageError(f"this is not an invitation: it does not begin with {_HEAD!r}", _ASK)
    if len(token) > MAX_TOKEN:
        raise UsageError("this is not an invitation: it is too long", _ASK)
    encoded = token.removeprefix(_HEAD)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _damaged() from None
    body, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if check != _checksum(body):
        raise _damaged()
    try:
        invitation = msgspec.msgpack.decode(body, type=Invitation)
    except UNREADABLE:
        raise _damaged() from None
    if not invitation.issuer.dialable:
        raise UsageError("this invitation names no address to join at", _ASK)
    return invitation


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]


def _damaged() -> UsageError:
    return UsageError("this invitation is damaged", "copy the whole line again, from `mycelia1.` to its end")
