"""The outbox keeps the order of causes and never sends a node to itself over the network."""

from __future__ import annotations

from dht.messages import Goodbye, Ping
from protocol.effects import CancelTimer, Emit, Outbox, Penalize, Pin, Send, SetTimer, Store
from protocol.errors import Code
from protocol.signing import tagged

ME, PEER = bytes(16), b"p" * 16


def test_effects_leave_in_the_order_in_which_they_were_asked_for() -> None:
    out = Outbox(ME)
    out.store("head", b"1")
    out.send(PEER, Goodbye())
    out.set_timer(("ring", "ping"), 5)
    out.cancel_timer(("ring", "ping"))
    out.penalize(PEER, Code.FLOOD, "too many joins")
    out.emit("notice")
    assert out.drain() == [
        Store("head", b"1"),
        Send(PEER, Goodbye()),
        SetTimer(("ring", "ping"), 5),
        CancelTimer(("ring", "ping")),
        Penalize(PEER, Code.FLOOD, "too many joins"),
        Emit("notice"),
    ]
    assert out.drain() == []


def test_what_a_node_says_to_itself_stays_inside() -> None:
    out = Outbox(ME)
    out.send(ME, Ping(1))
    out.send(PEER, Ping(2))
    assert out.drain() == [Send(PEER, Ping(2))]
    assert list(out.loopback) == [Ping(1)]


def test_a_signature_for_one_purpose_is_worthless_for_another() -> None:
    made = {
        tagged(domain, data) for domain, data in [("record", b"x"), ("recor", b"dx"), ("record", b"\0x"), ("", b"x")]
    }
    assert len(made) == 4


def test_an_artifact_that_two_parts_want_is_kept_until_both_let_go() -> None:
    out, blob = Outbox(ME), b"B" * 32
    out.unpin(blob)
    for _ in range(2):
        out.pin(blob)
    out.unpin(blob)
    assert out.drain() == [Pin(blob)]
    out.unpin(blob)
    out.unpin(blob)
    assert out.drain() == [Pin(blob, keep=False)]
