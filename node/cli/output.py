"""How answers are shown: aligned text for people, JSON for programs, errors as a sentence and a remedy.

Text that came from elsewhere (names of nodes and applications, a peer's reason) never reaches the terminal raw:
everything goes through ``logs.printable``.  Colour only on a terminal, and not when ``NO_COLOR`` is set (no-color.org).
"""

from __future__ import annotations

import json
import os
import shutil
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import msgspec

from protocol.errors import MyceliaError

from ..logs import printable

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
STATUS_STYLE = {
    "ready": "green",
    "running": "green",
    "finished": "green",
    "joining": "yellow",
    "waiting": "yellow",
    "stalled": "red",
    "failing": "red",
    "refused": "red",
    "revoked": "red",
    "stopped": "yellow",
}


COLUMNS = 80
MIN_COLUMN = 8


class Output:
    """Where one command's answer goes."""

    def __init__(self, out: TextIO, err: TextIO, *, as_json: bool = False, colour: bool | None = None) -> None:
        self._out = out
        self._err = err
        self.as_json = as_json
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self._colour = (out.isatty() and not plain) if colour is None else colour
        self._progress_open = False

    def speak_json(self, as_json: bool) -> None:
        """Answer in JSON from now on, or for people."""
        self.as_json = as_json

    @property
    def live(self) -> bool:
        """Whether a person is watching standard error."""
        return self._err.isatty()

    def line(self, text: str = "") -> None:
        """One line of the answer."""
        self._clear()
        self._out.write(text + "\n")
        self._out.flush()

    def answer(self, value: Any, lines: Iterable[str]) -> None:
        """The whole answer: ``value`` as JSON if that was asked for, else ``lines``."""
        if self.as_json:
            self.json(value)
            return
        for text in lines:
            self.line(text)

    def json(self, value: Any) -> None:
        """``value`` (a struct, or made of lists, maps and scalars) as one line of JSON."""
        self.line(json.dumps(msgspec.to_builtins(value), ensure_ascii=False))

    def hint(self, text: str) -> None:
        """Advice for a person: what happened, or what to do next.  Never part of the answer."""
        if not self.as_json:
            self._clear()
            self._err.write(text + "\n")
            self._err.flush()

    def progress(self, text: str) -> None:
        """Replace the progress line.  Nothing at all when nobody is watching."""
        if self.live and not self.as_json:
            self._err.write("\r\x1b[2K" + text)
            self._err.flush()
            self._progress_open = bool(text)

    def error(self, error: MyceliaError) -> None:
        """``error: SENTENCE. try: REMEDY``, or a JSON object with ``--json``; on standard error."""
        self._clear()
        if self.as_json:
            body = {"error": str(error), "remedy": error.remedy, "exit_code": error.exit_code}
            self._err.write(json.dumps(body, ensure_ascii=False) + "\n")
            return
        sentence = printable(error).rstrip(".")
        remedy = f" try: {printable(error.remedy).rstrip('.')}" if error.remedy else ""
        self._err.write(f"{self._paint('error:', 'red', self._err)} {sentence}.{remedy}\n")

    def style(self, text: str, style: str) -> str:
        """``text`` in bold or a colour of :data:`STYLES`, where the terminal takes it."""
        return self._paint(text, style, self._out)

    def table(
        self, header: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = (), give: int = -1
    ) -> list[str]:
        """Aligned columns under a bold header, within the width of the terminal, or 80 columns where there is none.

        Those numbered in ``right`` are right-aligned.  When there is too little room column ``give`` is cut (the last
        one, if not told otherwise), then the widest; JSON has all of it.
        """
        cells = [list(header), *([cell(value) for value in row] for row in rows)]
        widths = [max(width(row[i]) for row in cells) for i in range(len(header))]
        for i, room in enumerate(fitted(widths, self.columns - 2 * (len(widths) - 1), give % len(header))):
            widths[i] = room
            for row in cells:
                row[i] = cut(row[i], room)

        def padded(row: list[str], i: int) -> str:
            space = " " * (widths[i] - width(row[i]))
            text = self._status(row[i]) if header[i] == "status" else row[i]
            return space + text if i in right else text + space

        lines = ["  ".join(padded(row, i) for i in range(len(header))).rstrip() for row in cells]
        return [self.style(lines[0], "bold"), *lines[1:]]

    @property
    def columns(self) -> int:
        """Of the terminal; 80 on a pipe."""
        return shutil.get_terminal_size((COLUMNS, 24)).columns if self._out.isatty() else COLUMNS

    def fields(self, pairs: Iterable[tuple[str, object]]) -> list[str]:
        """``name  value`` lines."""
        shown = [(name, cell(value)) for name, value in pairs]
        margin = max(len(name) for name, _ in shown) + 2
        return [
            self.style(f"{name:<{margin}}", "dim") + (self._status(value) if name == "status" else value)
            for name, value in shown
        ]

    def _status(self, text: str) -> str:
        return self.style(text, STATUS_STYLE[text]) if text in STATUS_STYLE else text

    def _paint(self, text: str, style: str, stream: TextIO) -> str:
        painted = self._colour and (stream is self._out or stream.isatty())
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if painted else text

    def _clear(self) -> None:
        if self._progress_open:
            self.progress("")


def cell(value: object) -> str:
    """``value`` in a table: a dash for nothing, ``yes`` or ``no``, numbers short."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(value)


def width(text: str) -> int:
    """Columns that ``text`` takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fitted(widths: Sequence[int], room: int, give: int) -> list[int]:
    """``widths`` that together take at most ``room`` columns: column ``give`` is made narrower, then the widest."""
    result = list(widths)
    result[give] = max(result[give] - max(sum(result) - room, 0), min(result[give], MIN_COLUMN))
    while sum(result) > room and max(result) > MIN_COLUMN:
        widest = result.index(max(result))
        result[widest] -= 1
    return result


def cut(text: str, columns: int) -> str:
    """``text`` in at most ``columns`` columns; an ellipsis says that there is more."""
    if width(text) <= columns:
        return text
    kept = ""
    for character in text:
        if width(kept + character) > columns - 1:
            break
        kept += character
    return kept + "…"


def size(count: int) -> str:
    """Bytes for people: ``1.5 MiB``."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def duration(seconds: float) -> str:
    """A span of time for people: ``5 s``, ``3 min``, ``2 h``, ``4 d``."""
    seconds = max(0.0, seconds)
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def moment(unix: float, now: float | None = None) -> str:
    """A point in time relative to now: ``3 min ago``, ``in 2 h``."""
    now = time.time() if now is None else now
    return f"in {duration(unix - now)}" if unix > now else f"{duration(now - unix)} ago"


def short(identifier: str) -> str:
    """The eight hex digits by which people know a node or an application: the first of the suffix."""
    return identifier[4:12]
