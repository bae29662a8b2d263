"""The trust list: configuration and what was added, and what takes effect."""

from __future__ import annotations

import pytest

from node import trust
from node.config import TrustSection
from node.trust import TrustList, parse_key
from protocol.errors import ConfigError, UsageError

FABRIC, LISTED, ADDED = b"f" * 32, b"l" * 32, b"a" * 32
CONFIG = TrustSection(owners=(LISTED.hex(),))


def test_the_fabric_owner_is_trusted_unless_the_operator_says_otherwise() -> None:
    assert TrustList(TrustSection(), FABRIC, {}).effective() == (frozenset({FABRIC}), frozenset())
    assert TrustList(TrustSection(fabric_owner=False), FABRIC, {}).effective() == (frozenset(), frozenset())


def test_what_is_added_counts_as_owner_and_as_code_and_survives() -> None:
    keys = TrustList(CONFIG, FABRIC, {})
    disk = keys.add(ADDED)
    assert keys.effective() == (frozenset({FABRIC, LISTED, ADDED}), frozenset({ADDED}))
    again = TrustList(CONFIG, FABRIC, {key: value for key, value in disk.items() if value is not None})
    assert again.effective() == keys.effective()
    assert [(entry.key, entry.why) for entry in again.info().keys] == [
        (FABRIC.hex(), "fabric"),
        (LISTED.hex(), "config"),
        (ADDED.hex(), "added"),
    ]
    assert again.remove(ADDED) == dict.fromkeys(disk)
    assert again.effective() == (frozenset({FABRIC, LISTED}), frozenset())


def test_by_hash_no_signature_is_enough() -> None:
    keys = TrustList(TrustSection(approve="hash"), FABRIC, {})
    keys.add(ADDED)
    assert keys.effective() == (frozenset(), frozenset({ADDED}))


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (FABRIC, "that is the owner of the fabric"),
        (LISTED, "that key is in the configuration"),
        (ADDED, "that key is not trusted anyway"),
    ],
)
def test_what_cannot_be_removed_says_where_it_comes_from(key: bytes, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        TrustList(CONFIG, FABRIC, {}).remove(key)
    assert caught.value.remedy


def test_the_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MAX_ADDED", 1)
    keys = TrustList(CONFIG, FABRIC, {})
    keys.add(ADDED)
    keys.add(ADDED)
    with pytest.raises(UsageError, match="1 keys were added already"):
        keys.add(b"b" * 32)


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "ab" * 33])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(ConfigError, match="is neither a key nor a hash"):
        parse_key(text, "[trust] owners")
    assert parse_key("AB" * 32, "") == b"\xab" * 32
