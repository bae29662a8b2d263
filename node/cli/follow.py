"""Watching an application: a line per round for people, a JSON object per event for programs, a CSV file for both."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from pathlib import Path

from fl import validation
from fl.spec import Stop

from ..logs import printable
from ..service import AppEvent, LaggedEvent, RoundEvent, StatusEvent, TroubleEvent
from ..statedir import writing
from .exits import NobodyLeftError, RunFailedError
from .output import Output, cell, short

FIXED = ("round", "epoch", "contributors", "weight", "seconds")
"""Columns of the CSV file before the metrics."""
SHOWN_METRICS = 3
_WHAT = {"failed": "fails", "refused": "refuses", "step": "cannot take the step", "crowded": "is crowded"}


class CsvLog:
    """A CSV file with one row per round, usable at any moment while it grows.

    Metrics become columns when they first appear, which may be late (an evaluation every tenth round, say); then the
    file is written anew under the wider header.
    """

    def __init__(self, path: Path) -> None:
        """Raises StorageError when ``path`` cannot be written."""
        self._path = path
        self._columns: list[str] = list(FIXED)
        self._write_header([])

    def add(self, event: RoundEvent, seconds: float) -> None:
        new = [name for name in sorted(event.metrics) if name not in self._columns]
        if new:
            with self._path.open(newline="") as stream:
                rows = list(csv.DictReader(stream))
            self._columns += new
            self._write_header(rows)
        row = {
            "round": event.round,
            "epoch": event.epoch,
            "contributors": len(event.contributors),
            "weight": event.weight,
            "seconds": round(seconds, 3),
            **event.metrics,
        }
        with writing(self._path), self._path.open("a", newline="") as stream:
            csv.DictWriter(stream, self._columns).writerow(row)

    def _write_header(self, rows: list[dict[str, str]]) -> None:
        with writing(self._path), self._path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, self._columns)
            writer.writeheader()
            writer.writerows(rows)


class RoundTable:
    """Rounds as they are committed, under columns that are chosen when the first one comes."""

    def __init__(
        self, out: Output, rounds: int, started: float, log: CsvLog | None = None, stop: Stop | None = None
    ) -> None:
        """``started``: Unix seconds, for the duration of the first round.  ``stop``: the rule of early stopping."""
        self._stop = stop
        self._out = out
        self._rounds = rounds
        self._last = started
        self._log = log
        self._status = ""
        self._traces: list[str] = []
        self._metrics: list[str] | None = None

    def show(self, event: AppEvent) -> None:
        if isinstance(event, RoundEvent):
            seconds, self._last = event.at - self._last, event.at
            if self._log is not None:
                self._log.add(event, seconds)
            if not self._out.as_json:
                self._row(event, seconds)
        if self._out.as_json:
            self._out.json(event)
        elif isinstance(event, StatusEvent):
            self._news(event)
        elif isinstance(event, TroubleEvent):
            self._trouble(event)
        elif isinstance(event, LaggedEvent):
            self._out.hint(f"{event.missed} events were missed; `mycelia ls {event.app}` shows where it is")

    def _trouble(self, event: TroubleEvent) -> None:
        """Which node, and why; the traceback once, since nodes that run the same code fail alike."""
        one = event.trouble
        what = _WHAT[one.kind]
        where = f" in round {one.round}" if one.round else ""
        self._out.hint(printable(f"node {one.name or short(one.node)} {what}{where}: {one.sentence}"))
        if one.trace and one.trace not in self._traces:
            self._traces.append(one.trace)
            self._out.hint("\n".join(f"    {printable(row)}" for row in one.trace.splitlines()))

    def _news(self, event: StatusEvent) -> None:
        """Say what a person would want to know: trouble, its end, and the end of all."""
        quiet = ("", "known", "running")
        if event.status not in quiet or self._status not in quiet:
            self._out.hint(f"{event.status}{f': {event.detail}' if event.detail else ''}")
        self._status = event.status

    def _row(self, event: RoundEvent, seconds: float) -> None:
        if self._metrics is None:
            known: list[str] = [name for name in ("loss", "accuracy") if name in event.metrics]
            rest = (name for name in sorted(event.metrics) if name not in known)
            self._metrics = [*known] or [*rest][:SHOWN_METRICS]
            if why := validation.reported(self._stop, list(event.metrics)):
                self._out.hint(f"{why}; so the run will not stop early")
            titles = ("round", "nodes", *self._metrics, "time")
            self._out.line(self._out.style("  ".join(f"{title:>10}" for title in titles), "bold"))
        metrics = (cell(event.metrics.get(name)) for name in self._metrics)
        number = "final" if event.closing else f"{event.round}/{self._rounds}"
        cells = (number, str(len(event.contributors)), *metrics, f"{seconds:.1f} s")
        self._out.line("  ".join(f"{text:>10}" for text in cells))


async def watch(events: AsyncIterator[AppEvent], table: RoundTable, *, wait: bool = True) -> None:
    """Show ``events`` until the application is over, or, unless ``wait``, nobody is left who could train it.

    Raises RunFailedError when it ended otherwise than by finishing, NobodyLeftError, and what ``events`` raises.
    """
    last = StatusEvent(app="", status="unknown")
    async for event in events:
        table.show(event)
        if isinstance(event, StatusEvent):
            last = event
            if last.status == "failing" and not wait:
                raise NobodyLeftError(
                    f"nobody is left who could train {last.app}: {last.detail}",
                    f"correct what is said above and run it again; `mycelia logs --app {last.app}` has all of it",
                )
    if last.status != "finished":
        raise RunFailedError(
            f"the application did not finish, it is {last.status}{f': {last.detail}' if last.detail else ''}",
            "see `mycelia ls` and `mycelia logs`",
        )
