"""A node keeps the port that was picked for it."""

from __future__ import annotations

import socket

import pytest

from node.ports import Ports
from protocol.errors import ConfigError


def free_port(family: socket.AddressFamily = socket.AF_INET, host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0), family=family) as taken:
        return int(taken.getsockname()[1])


def kept(port: int) -> Ports:
    batch = Ports({}).took("listen", port)
    return Ports({key: value for key, value in batch.items() if value is not None})


def test_the_port_of_last_time_is_taken_again() -> None:
    port = free_port()
    assert kept(port).choose("listen", "127.0.0.1:0") == f"127.0.0.1:{port}"
    assert kept(port).took("listen", port) == {}


def test_what_the_operator_sets_counts() -> None:
    assert kept(free_port()).choose("listen", "127.0.0.1:7447") == "127.0.0.1:7447"


def test_another_purpose_has_another_port() -> None:
    assert kept(free_port()).choose("join", "127.0.0.1:0") == "127.0.0.1:0"


def test_a_port_that_somebody_else_has_by_now_is_left_to_him() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert kept(taken.getsockname()[1]).choose("listen", "127.0.0.1:0") == "127.0.0.1:0"


def test_brackets_stay() -> None:
    assert kept(1).choose("listen", "[::1]:7") == "[::1]:7"
    port = free_port()
    assert kept(port).choose("listen", "[::]:0") in (f"[::]:{port}", "[::]:0")


def test_what_is_torn_or_wrong() -> None:
    assert Ports({"port/listen": b"x", "round/1": b"2"}).choose("listen", "127.0.0.1:0") == "127.0.0.1:0"
    with pytest.raises(ConfigError, match="is not an address"):
        Ports({}).choose("listen", "7447")
