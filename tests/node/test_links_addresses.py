"""What a node advertises."""

from __future__ import annotations

import ipaddress

from node.links.addresses import MAX_ADDRESSES, advertised
from node.links.channels import split_address


def test_plain_addresses_are_advertised_as_they_are() -> None:
    assert advertised(["127.0.0.1:5", "[::1]:6", "node.example:7"]) == ("127.0.0.1:5", "[::1]:6", "node.example:7")
    assert len(advertised([f"127.0.0.1:{port}" for port in range(20)])) == MAX_ADDRESSES


def test_wildcards_become_addresses_that_others_can_dial() -> None:
    for wildcard in ("0.0.0.0:9", "[::]:9"):
        found = advertised([wildcard])
        assert found
        for address in found:
            host, port = split_address(address)
            assert port == 9
            assert not ipaddress.ip_address(host).is_unspecified
