"""trust ls, add, rm."""

from __future__ import annotations

import time

import pytest

from dht.records import verify
from node.identity.fabric import decode_document, open_document
from node.identity.keys import Ed25519Verifier, Key
from node.identity.membership import found
from node.statedir import StateDir

from ..fake_service import FakeService
from .conftest import Cli

KEY = "5b" * 32


def test_who_is_trusted(cli: Cli, service: FakeService) -> None:
    assert cli("trust", "ls").lines[1].split(maxsplit=1) == ["ab" * 32, "fabric's owner"]
    assert cli("trust", "ls", "--json").json == {
        "keys": [{"key": "ab" * 32, "why": "fabric"}],
        "approve": "owner",
        "named": [],
    }


def test_trust_is_given_and_taken(cli: Cli, service: FakeService) -> None:
    assert cli("trust", "add", KEY.upper()).lines[2].split(maxsplit=1) == [KEY, "added here"]
    assert len(cli("trust", "rm", KEY).lines) == 2
    assert service.calls == [("trust", KEY), ("distrust", KEY)]


def test_trusting_nobody_is_said_so(cli: Cli, service: FakeService) -> None:
    service.owners = []
    assert cli("trust", "ls").out == "nobody: no application can run code here\n"


@pytest.mark.parametrize("key", ["5b", "zz" * 32, KEY + "5b"])
def test_what_is_no_key(cli: Cli, key: str) -> None:
    result = cli("trust", "add", key)
    assert result.code == 2
    assert result.err == f"error: {key} is neither a key nor a hash. try: both are 64 hex digits; see `mycelia ls`\n"


def test_an_owner_is_named_for_the_whole_fabric(cli: Cli, service: FakeService) -> None:
    found(StateDir.create(cli.state), "clinic", 0, int(time.time()))
    result = cli("trust", "add", KEY, "--fabric")
    assert KEY in result.out + result.err
    ((name, record),) = service.calls
    assert name == "change_document"
    document = open_document(decode_document(record.body), Ed25519Verifier())
    assert (document.serial, document.app_owners) == (2, (bytes.fromhex(KEY),))
    assert verify(record, Ed25519Verifier())
    assert cli("trust", "rm", KEY, "--fabric").code == 2, "it is not in the document of this state directory yet"


def test_only_the_fabrics_owner_names_owners(cli: Cli, service: FakeService) -> None:
    found(StateDir.create(cli.state), "clinic", 0, int(time.time()))
    other = cli.state / "other.key"
    Key.generate().save(other)
    result = cli("trust", "add", KEY, "--fabric", "--owner-key", str(other))
    assert result.code == 2
    assert "not the key of the owner of fabric clinic" in result.err
    assert not service.calls
