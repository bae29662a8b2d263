"""Logs: the fields of a line, what a hostile message cannot do, rotation, tail and follow."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import logs
from node.config import LogSection

log = logging.getLogger("mycelia.tests")


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def file(tmp_path: Path, stream: io.StringIO) -> Iterator[Path]:
    path = tmp_path / "log" / "mycelia.log"
    installed = logs.install(LogSection(), path, "ab12", stream)
    yield path
    installed.close()


def test_a_line_has_every_field(file: Path) -> None:
    log.info("round %d committed", 7, extra={"app": "digits", "round": 7})
    line = json.loads(file.read_text())
    assert tuple(line) == logs.KEYS
    assert line["msg"] == "round 7 committed"
    assert (line["level"], line["logger"], line["node"]) == ("info", "mycelia.tests", "ab12")
    assert (line["app"], line["round"]) == ("digits", 7)


def test_the_terminal_shows_the_same_as_text(file: Path, stream: io.StringIO) -> None:
    log.warning("late", extra={"app": "digits", "round": 7})
    assert stream.getvalue()[13:] == "WARNING tests: app=digits round=7 late\n"
    assert stream.getvalue().split(" ", 1)[1] == logs.human(json.loads(file.read_text())).split(" ", 1)[1] + "\n"


def test_below_the_level_nothing_is_written(file: Path) -> None:
    log.debug("noise")
    assert file.read_text() == ""


def test_a_traceback_stays_on_the_line(file: Path, stream: io.StringIO) -> None:
    try:
        raise ValueError("boom\x1b[31m")
    except ValueError:
        log.exception("failed")
    assert "ValueError: boom" in json.loads(file.read_text())["exc"]
    assert "\x1b" not in stream.getvalue()


def test_a_message_is_cut(file: Path) -> None:
    log.info("x" * 100_000)
    assert len(json.loads(file.read_text())["msg"]) == logs.MAX_MESSAGE


@given(st.text(max_size=50), st.text(max_size=50))
def test_no_message_breaks_out_of_its_line(message: str, app: str) -> None:
    record = logging.LogRecord("mycelia.x", logging.INFO, "f", 1, "%s", (message,), None)
    record.app = app
    written = logs.JsonFormatter("n").format(record)
    assert "\n" not in written
    assert json.loads(written)["msg"] == message
    assert logs.HumanFormatter("n").format(record).isprintable()


def test_an_odd_line_is_still_shown() -> None:
    assert logs.human({"ts": "yesterday"}).startswith("--:--:--.---")
    assert logs.human({}).startswith("--:--:--.---")


def test_rotation_bounds_the_disk_and_tail_reads_across_it(tmp_path: Path) -> None:
    file = tmp_path / "mycelia.log"
    installed = logs.install(LogSection(max_mib=1, keep=1), file, "n", None)
    for number in range(500):
        log.info("%d %s", number, "x" * 8000)
    installed.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mycelia.log", "mycelia.log.1"]
    assert file.stat().st_size <= 1 << 20
    assert [json.loads(line)["msg"].split()[0] for line in logs.tail(file, 200)] == [str(n) for n in range(300, 500)]


def test_tail_of_nothing(tmp_path: Path) -> None:
    assert logs.tail(tmp_path / "absent.log", 5) == []


def test_follow_sees_new_lines_across_a_rotation(tmp_path: Path) -> None:
    file = tmp_path / "mycelia.log"
    file.write_text("old\n")

    def append(text: str) -> None:
        with file.open("a") as stream:
            stream.write(text)

    def rotate() -> None:
        file.rename(tmp_path / "mycelia.log.1")
        file.write_text("rotated\n")

    steps = iter([lambda: append("ne"), lambda: append("w\n"), rotate])

    def idle() -> None:
        next(steps)()

    lines = logs.follow(file, idle)
    assert [next(lines), next(lines)] == ["new", "rotated"]


def test_records_of_other_libraries_stay_out(file: Path) -> None:
    logging.getLogger("other").error("not ours")
    assert file.read_text() == ""
