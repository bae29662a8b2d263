"""Tables and numbers for people."""

from __future__ import annotations

import io
import json

import pytest

from node.cli.output import Output, cell, duration, moment, short, size, width
from node.service import PeerInfo


def output(*, as_json: bool = False, colour: bool = False) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Output(out, err, as_json=as_json, colour=colour), out, err


def test_columns_are_aligned() -> None:
    shown, _, _ = output()
    assert shown.table(("name", "round"), [("digits", 7), ("東京", 120), ("", None)], right=(1,)) == [
        "name    round",
        "digits      7",
        "東京      120",
        "-           -",
    ]


def test_a_status_is_coloured_after_it_is_aligned() -> None:
    shown, _, _ = output(colour=True)
    _, line = shown.table(("status", "name"), [("ready", "a")])
    assert line == "\x1b[32mready\x1b[0m   a"


def test_fields_are_aligned() -> None:
    shown, _, _ = output()
    assert shown.fields([("node", "a"), ("applications", 3)]) == ["node          a", "applications  3"]


def test_the_answer_is_text_or_json() -> None:
    peer = PeerInfo(id="aa", addresses=[], linked=True)
    shown, out, _ = output()
    shown.answer(peer, ["text"])
    assert out.getvalue() == "text\n"
    shown, out, err = output(as_json=True)
    shown.answer(peer, ["text"])
    shown.hint("advice")
    assert json.loads(out.getvalue())["id"] == "aa"
    assert err.getvalue() == ""


def test_progress_is_for_people_who_watch() -> None:
    shown, _, err = output()
    shown.progress("half")
    assert err.getvalue() == ""


def test_progress_is_cleared_before_an_answer() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out, err = io.StringIO(), Terminal()
    shown = Output(out, err)
    shown.progress("half")
    shown.line("done")
    assert err.getvalue() == "\r\x1b[2Khalf\r\x1b[2K"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), ("", "-"), (True, "yes"), (False, "no"), (0.123456, "0.1235"), ("a\tb", "a\\tb")]
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_units() -> None:
    assert [size(n) for n in (0, 1023, 1536, 5 << 20, 3 << 40)] == ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3072.0 GiB"]
    assert [duration(s) for s in (-1, 5, 180, 7200, 200_000)] == ["0 s", "5 s", "3 min", "2 h", "2 d"]
    assert (moment(100, 160), moment(160, 100)) == ("60 s ago", "in 60 s")
    assert short("0000" + "12345678" + "9" * 20) == "12345678"
    assert width("東京a") == 5
