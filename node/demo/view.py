"""What a person sees: the tree, who is up, the rounds as they are committed."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from .processes import Fleet
from .watch import Story

_MARKS = {"killed": "✗ killed", "frozen": "❄ frozen", "starting": "… starting"}


class View:
    """Redraws the tree on a terminal, writes one line per round elsewhere."""

    def __init__(self, fleet: Fleet, story: Story, rounds: int, out: TextIO = sys.stderr) -> None:
        self._fleet, self._story, self._rounds, self._out = fleet, story, rounds, out
        self._live = out.isatty()
        self._drawn = 0
        self._round = 0
        self._told = 0
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        self._out.write(text + "\n")
        self._out.flush()

    def update(self) -> None:
        """Show what is new."""
        for number in range(self._round + 1, self._story.last_round + 1):
            self._round = number
            if number in self._story.rounds:
                self.say(self._line(number))
        for incident in self._story.incidents[self._told :]:
            self._told += 1
            self.say(f"          {incident.action} the {incident.role} {self._name(incident.node)}")
        if self._live:
            self._draw()

    def _line(self, number: int) -> str:
        event = self._story.rounds[number]
        seconds = self._story.first_seen[number] - self._started
        metrics = "  ".join(f"{key} {event.metrics[key]:.3f}" for key in ("loss", "accuracy") if key in event.metrics)
        label = f"round {number:>3}" if number <= self._rounds else "final    "
        return f"{seconds:6.1f} s  {label}  {len(event.contributors):>2} nodes  {metrics}"

    def _name(self, node: str) -> str:
        return f"n{self._fleet.node(node).index:02d}"

    def _draw(self) -> None:
        self._clear()
        lines = self._branch(self._story.root, "", seen=[]) if self._story.root else ["  (no root)"]
        down = [node for node in self._fleet.nodes if node.condition in _MARKS]
        lines += [f"  {self._name(node.id)} {_MARKS[node.condition]}" for node in down if node.id]
        self._out.write("\n".join(lines) + "\n")
        self._out.flush()
        self._drawn = len(lines)

    def _branch(self, node: str, indent: str, seen: list[str]) -> list[str]:
        """The subtree of ``node``, one line each."""
        seen.append(node)
        place = self._story.places.get(node)
        lines = [f"  {indent}{self._name(node)} {place.role if place else ''}"]
        for child, known in sorted(self._story.places.items()):
            if known.parent == node and child not in seen:
                lines += self._branch(child, indent + "  ", seen)
        return lines

    def _clear(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}F\x1b[J")
            self._drawn = 0
