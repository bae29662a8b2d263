"""Everything that reads bytes from outside, fed with what a liar would send: a decoder returns or says what is wrong.

A decoder that lets any other exception through would carry it into a machine or a server's loop.  New ones are added
to the table below; those that read registered messages are fuzzed in ``tests/protocol`` as well.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect as types

from dht.records import Kind, sign_record
from fl import bundle, codec
from fl.messages import Order, Report, decode_order, decode_report
from fl.records import decode_head, decode_spec
from fl.spec import AppSpec
from node.control_wire import METHODS, decode_reply, decode_request
from node.identity.fabric import FabricDocument, SignedDocument, decode_document, open_document
from node.identity.frames import AskEndorsement, Endorsed, read_answer, read_question
from node.identity.invite import Invitation, decode_invitation
from node.identity.revocation import Revocation, read_revocation
from node.links import bulk
from protocol import wire
from protocol.errors import MyceliaError
from pubsub.heads import Head
from simulations.signing import KeyedHashSigner
from tests.protocol.instances import Examples

SIGNER = KeyedHashSigner(1, "liar")


class Believes:
    """Verifies everything: what lies behind a signature has to be decoded with the same care."""

    def verify(self, public_key: bytes, domain: str, data: bytes, signature: bytes) -> bool:
        return True


def invitation(body: bytes) -> object:
    checked = body + hashlib.sha256(body).digest()[:4]
    return decode_invitation("mycelia1." + base64.urlsafe_b64encode(checked[:1024]).decode().rstrip("="))


def document(body: bytes) -> FabricDocument:
    signed: SignedDocument = Examples("document").of(types.type_info(SignedDocument))
    return open_document(msgspec.structs.replace(signed, body=body), Believes())


def framed(read: Callable[[asyncio.StreamReader], Any]) -> Callable[[bytes], object]:
    def decode(body: bytes) -> object:
        async def feed() -> object:
            reader = asyncio.StreamReader()
            reader.feed_data(len(body).to_bytes(4, "big") + body)
            reader.feed_eof()
            return await read(reader)

        return asyncio.run(feed())

    return decode


DECODERS: dict[str, Callable[[bytes], object]] = {
    "envelope": wire.decode,
    "order": decode_order,
    "report": decode_report,
    "head": decode_head,
    "descriptor": decode_spec,
    "bundle": bundle.decode,
    "tensors": codec.decode,
    "canonical tensors": codec.flat,
    "transfer header": bulk.decode,
    "invitation": invitation,
    "fabric document, signed": decode_document,
    "fabric document": document,
    "revocation": lambda body: read_revocation(sign_record(SIGNER, Kind.REVOCATION, bytes(16), 1, 1, body)),
    "joiner's question": framed(read_question),
    "issuer's answer": framed(read_answer),
    "control request": decode_request,
    "control reply": lambda body: decode_reply(METHODS[min(METHODS)], body),
}
each = pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)


def survives(decode: Callable[[bytes], object], body: bytes) -> None:
    """Any exception but ours fails the test."""
    try:
        decode(body)
    except MyceliaError as error:
        assert str(error)  # noqa: PT017 - that it says something is half of what is tested


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@each
@given(st.binary(max_size=120))
def test_random_bytes(decode: Callable[[bytes], object], body: bytes) -> None:
    survives(decode, body)


@each
@given(st.lists(junk, max_size=24))
def test_well_packed_nonsense(decode: Callable[[bytes], object], items: list[Any]) -> None:
    survives(decode, msgpack.packb(items))


BAD = {
    "text that is not UTF-8": b"\xa2\xff\xfe",
    "arrays without end": b"\x91" * 8000,
    "maps without end": b"\x81\xa1a" * 3000,
    "a length beyond all memory": b"\xdd\xff\xff\xff\xff",
    "a byte string beyond its end": b"\xc6\xff\xff\xff\xff",
    "an extension": b"\xc7\x01\xff\x00",
    "a reserved byte": b"\xc1",
}
TYPES: dict[str, type[msgspec.Struct]] = {
    "order": Order,
    "report": Report,
    "head": Head,
    "descriptor": AppSpec,
    "bundle": bundle.Bundle,
    "transfer header": bulk.Want,
    "invitation": Invitation,
    "fabric document, signed": SignedDocument,
    "fabric document": FabricDocument,
    "revocation": Revocation,
    "joiner's question": AskEndorsement,
    "issuer's answer": Endorsed,
}
"""What a decoder's bytes mean, where it is one struct: the way to a place behind fields that are in order."""


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("name", TYPES)
def test_a_bomb_in_any_place(name: str, bad: bytes) -> None:
    """In the place of each field, and behind the last, where a newer peer would have one that we do not know."""
    instance = Examples(name).of(types.type_info(TYPES[name]))
    fields = [msgpack.packb(item) for item in msgpack.unpackb(msgspec.msgpack.encode(instance))]
    for place in range(len(fields) + 1):
        body = b"".join([*fields[:place], bad, *fields[place + 1 :]])
        survives(DECODERS[name], b"\xdc" + max(len(fields), place + 1).to_bytes(2, "big") + body)


@each
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bomb_alone(decode: Callable[[bytes], object], bad: bytes) -> None:
    survives(decode, bad)
    survives(decode, b"\x91" + bad)


@pytest.mark.parametrize("header", [b"[" * 5000, b'{"a":' * 3000, b'{"a":1e999}', b'{"a":NaN}', b'{"a":' + b"9" * 5000])
def test_a_bomb_in_the_header_of_tensors(header: bytes) -> None:
    for decode in (codec.decode, codec.flat):
        survives(decode, len(header).to_bytes(8, "little") + header)
