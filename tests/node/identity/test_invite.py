"""Invitation tokens: one line that survives terminals, and nothing damaged that is taken for one."""

from __future__ import annotations

import base64
import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.identity.invite import MAX_SEEDS, MAX_TOKEN, Invitation, decode_invitation, encode_invitation
from protocol.errors import UsageError
from protocol.messages import Contact

addresses = st.lists(st.from_regex(r"[a-z0-9.:\[\]-]{1,60}", fullmatch=True), min_size=1, max_size=8).map(tuple)
contacts = st.builds(Contact, st.binary(min_size=16, max_size=16), addresses, st.integers(0, 1 << 40))
invitations = st.builds(
    Invitation,
    fingerprint=st.binary(min_size=32, max_size=32),
    serial=st.integers(1, 1 << 40),
    issuer=contacts,
    seeds=st.lists(contacts, max_size=MAX_SEEDS).map(tuple),
    secret=st.binary(min_size=16, max_size=16),
    expires=st.integers(0, 1 << 40),
)
EXAMPLE = Invitation(
    bytes(32), 1, Contact(bytes(16), ("192.0.2.7:7448", "[2001:db8::7]:7448")), (), b"s" * 16, 1_800_000_000
)


@given(invitations)
@settings(max_examples=50)
def test_a_token_is_one_line_and_comes_back(invitation: Invitation) -> None:
    token = encode_invitation(invitation)
    assert token.startswith("mycelia1.")
    assert len(token.split()) == 1
    assert len(token) <= MAX_TOKEN
    assert decode_invitation(token) == invitation


@given(st.data())
@settings(max_examples=50)
def test_white_space_from_a_terminal_does_no_harm(data: st.DataObject) -> None:
    token = encode_invitation(EXAMPLE)
    cut = data.draw(st.integers(0, len(token)))
    gap = data.draw(st.sampled_from(["\n", "\r\n", "  ", "\t"]))
    assert decode_invitation(f" {token[:cut]}{gap}{token[cut:]}\n") == EXAMPLE


@given(st.data())
@settings(max_examples=200)
def test_a_token_that_lost_or_changed_anything_is_refused(data: st.DataObject) -> None:
    token = encode_invitation(EXAMPLE)
    start = data.draw(st.integers(0, len(token) - 1))
    end = data.draw(st.integers(start, min(len(token), start + 5)))
    damaged = token[:start] + data.draw(st.text(max_size=5)) + token[end:]
    if "".join(damaged.split()) == token:
        return
    with pytest.raises(UsageError) as caught:
        decode_invitation(damaged)
    assert caught.value.remedy


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda raw: "mycelia1." + _seal(raw))))
@settings(max_examples=200)
def test_nonsense_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        decode_invitation(text)
    assert caught.value.remedy


def test_a_later_format_says_update() -> None:
    with pytest.raises(UsageError) as caught:
        decode_invitation("mycelia2.AAAA")
    assert "update" in caught.value.remedy


def test_limits() -> None:
    for text in ("mycelia1." + "A" * MAX_TOKEN, " " * 100_000):
        with pytest.raises(UsageError, match="too long"):
            decode_invitation(text)
    crowded = msgspec.structs.replace(EXAMPLE, seeds=tuple([EXAMPLE.issuer] * (MAX_SEEDS + 1)))
    with pytest.raises(UsageError, match="damaged"):
        decode_invitation(encode_invitation(crowded))
    nowhere = msgspec.structs.replace(EXAMPLE, issuer=Contact(bytes(16)))
    with pytest.raises(UsageError, match="no address"):
        decode_invitation(encode_invitation(nowhere))


def _seal(body: bytes) -> str:
    return base64.urlsafe_b64encode(body + hashlib.sha256(body).digest()[:4]).decode().rstrip("=")
