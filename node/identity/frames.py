"""What joiner and issuer say to one another: length-prefixed MessagePack over TLS, one question per connection.

    frame = 4 bytes big-endian length ‖ body

Each side bounds what it will read before it allocates anything; the issuer by far the more tightly, since anybody can
connect to it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, TypeVar

import msgspec

from protocol.errors import CodecError, LimitError
from protocol.messages import Contacts
from protocol.wire import UNREADABLE

from .fabric import MAX_DOCUMENT, Certificate, PublicKey, SignedDocument
from .invite import SECRET_BYTES

MAX_QUESTION = 512
"""Bytes of what a joiner sends."""
MAX_ANSWER = MAX_DOCUMENT + 96 * 1024
"""Bytes of what an issuer answers: its document and contacts."""

_LENGTH_BYTES = 4


class Frame(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Base of all frames."""


class AskFabric(Frame, frozen=True, tag=1):
    """Show me the fabric's document.  All that is asked on an unverified connection."""


class AskEndorsement(Frame, frozen=True, tag=2):
    """Endorse me.  ``proof`` is the key's signature over the fabric, the secret and the key itself.

    No challenge is needed: a repeated request buys nothing but the same certificate for the same key.
    """

    secret: Annotated[bytes, msgspec.Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    public_key: PublicKey
    proof: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class ShowFabric(Frame, frozen=True, tag=3):
    document: SignedDocument


class Endorsed(Frame, frozen=True, tag=4):
    endorsement: Certificate
    document: SignedDocument
    seeds: Contacts


class Refused(Frame, frozen=True, tag=5):
    reason: int
    """See ``ledger.Reason``."""


Question = AskFabric | AskEndorsement
Answer = ShowFabric | Endorsed | Refused

_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)

PROOF_DOMAIN = "join"
T = TypeVar("T")


def proof_bytes(fingerprint: bytes, secret: bytes, public_key: bytes) -> bytes:
    """What a joiner signs.  The parts have fixed lengths, so the whole is unambiguous."""
    return fingerprint + secret + public_key


def pack(frame: Frame) -> bytes:
    body = msgspec.msgpack.encode(frame)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


async def read_question(reader: asyncio.StreamReader) -> Question:
    """Raises LimitError, CodecError, and asyncio.IncompleteReadError when the joiner goes away."""
    return _decoded(_questions, await _read(reader, MAX_QUESTION), "a question")


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Raises LimitError, CodecError, and asyncio.IncompleteReadError when the issuer goes away."""
    return _decoded(_answers, await _read(reader, MAX_ANSWER), "an answer")


def _decoded(decoder: msgspec.msgpack.Decoder[T], body: bytes, what: str) -> T:
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise CodecError(f"not {what}: {error}") from None


async def _read(reader: asyncio.StreamReader, limit: int) -> bytes:
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    if length > limit:
        raise LimitError(f"a frame of {length} bytes, the limit is {limit}")
    return await reader.readexactly(length)
