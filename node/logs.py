"""Logs: one JSON object per line in the state directory, text for people on the terminal.

Library code logs to ``mycelia.<package>`` and installs no handlers; the daemon calls :func:`install` once.  What a
record is about travels beside the message, as in ``log.info("committed", extra={"app": name, "round": 7})``, so that
a query never has to parse a sentence.  Every line has the same keys::

    ts  level  logger  node  app  round  msg  [exc]

``exc`` is a traceback: of ours, or, in a line about an application, of its code (``extra={"trace": text}``).

A message may hold text that a peer or an application chose.  It is therefore cut at :data:`MAX_MESSAGE`, and control
characters are escaped in both formats: nobody else writes lines, or colours, into this node's log.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from .config import LogSection

ROOT = "mycelia"
MAX_MESSAGE = 8192
"""Characters of a message, and of a traceback, that are kept."""
MAX_TAIL = 10_000
"""Lines that :func:`tail` returns at most."""
KEYS = ("ts", "level", "logger", "node", "app", "round", "msg")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self.node = node

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "node": self.node,
            "app": getattr(record, "app", None),
            "round": getattr(record, "round", None),
            "msg": record.getMessage()[:MAX_MESSAGE],
        }
        trace = self.formatException(record.exc_info) if record.exc_info else str(getattr(record, "trace", "") or "")
        if trace:
            line["exc"] = trace[-MAX_MESSAGE:]
        return json.dumps(line, ensure_ascii=False, default=str)


class HumanFormatter(logging.Formatter):
    """A record as text, through the same fields, so that ``mycelia logs`` and the foreground daemon look alike."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._json = JsonFormatter(node)

    def format(self, record: logging.LogRecord) -> str:
        return human(json.loads(self._json.format(record)))


def timestamp(seconds: float) -> str:
    """Unix ``seconds`` as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def human(line: dict[str, Any]) -> str:
    """A JSON line for people: local time of day, level, part, what it is about, message."""
    try:
        at = datetime.fromisoformat(str(line["ts"])).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (KeyError, ValueError):
        at = "--:--:--.---"
    about = "".join(f" {key}={printable(line[key])}" for key in ("app", "round") if line.get(key) is not None)
    part = printable(line.get("logger", "")).removeprefix(f"{ROOT}.")
    level = printable(line.get("level", "")).upper()
    text = f"{at} {level:<7} {part}:{about} {printable(line.get('msg', ''))}"
    if line.get("exc"):
        text += "".join(f"\n    {printable(row)}" for row in str(line["exc"]).splitlines())
    return text


def printable(value: object) -> str:
    """``value`` as text in which nothing moves the cursor, changes colours or starts a line."""
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Installed:
    """The handlers of one daemon; ``close`` takes them away again."""

    handlers: tuple[logging.Handler, ...]

    def close(self) -> None:
        root = logging.getLogger(ROOT)
        for handler in self.handlers:
            root.removeHandler(handler)
            handler.close()


def install(config: LogSection, file: Path, node: str, stream: TextIO | None = sys.stderr) -> Installed:
    """Send what ``mycelia.*`` logs to ``file`` as JSON, and to ``stream`` in the configured format.

    ``file`` is rotated, and its directory is made.  Raises OSError when it cannot be written.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(
            file, maxBytes=config.max_mib << 20, backupCount=config.keep, encoding="utf-8", errors="backslashreplace"
        )
    ]
    handlers[0].setFormatter(JsonFormatter(node))
    if stream is not None:
        handlers.append(logging.StreamHandler(stream))
        handlers[1].setFormatter(JsonFormatter(node) if config.format == "json" else HumanFormatter(node))
    root = logging.getLogger(ROOT)
    root.setLevel(config.level.upper())
    root.propagate = False
    for handler in handlers:
        root.addHandler(handler)
    return Installed(tuple(handlers))


def _any(line: str) -> bool:
    return True


def tail(file: Path, count: int, wanted: Callable[[str], bool] = _any) -> list[str]:
    """The last ``count`` lines of ``file`` that are ``wanted``, reaching into rotated files while there are any;
    oldest first."""
    count = min(count, MAX_TAIL)
    lines: deque[str] = deque()
    for index in range(100):
        part = file if index == 0 else file.with_name(f"{file.name}.{index}")
        if len(lines) >= count or not part.exists():
            break
        with part.open(encoding="utf-8", errors="replace") as stream:
            lines.extendleft(reversed(deque(filter(wanted, stream), maxlen=count - len(lines))))
    return [line.rstrip("\n") for line in lines]


def _pause() -> None:
    time.sleep(0.2)


def follow(file: Path, idle: Callable[[], None] = _pause) -> Iterator[str]:
    """Lines appended to ``file`` from now on, for ever, across rotations; ``idle`` waits when there is none."""
    stream = file.open(encoding="utf-8", errors="replace")
    try:
        stream.seek(0, os.SEEK_END)
        partial = ""
        while True:
            partial += stream.readline()
            if partial.endswith("\n"):
                yield partial.rstrip("\n")
                partial = ""
            elif not partial and _rotated(stream, file):
                stream.close()
                stream = file.open(encoding="utf-8", errors="replace")
            else:
                idle()
    finally:
        stream.close()


def _rotated(stream: TextIO, file: Path) -> bool:
    try:
        return os.fstat(stream.fileno()).st_ino != file.stat().st_ino
    except FileNotFoundError:
        return False
