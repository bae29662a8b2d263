"""trust ls, add, rm."""

from __future__ import annotations

import pytest

from ..fake_service import FakeService
from .conftest import Cli

KEY = "5b" * 32


def test_who_is_trusted(cli: Cli, service: FakeService) -> None:
    assert cli("trust", "ls").lines[1].split(maxsplit=1) == ["ab" * 32, "owner of the fabric"]
    assert cli("trust", "ls", "--json").json == {
        "keys": [{"key": "ab" * 32, "why": "fabric"}],
        "approve": "owner",
    }


def test_trust_is_given_and_taken(cli: Cli, service: FakeService) -> None:
    assert cli("trust", "add", KEY.upper()).lines[2].split(maxsplit=1) == [KEY, "added by `mycelia trust`"]
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
