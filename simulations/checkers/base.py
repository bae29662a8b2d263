"""What all checkers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from protocol.ids import short

from ..clock import SECOND
from ..host import Host

MAX_VIOLATIONS = 100


@dataclass(frozen=True, slots=True)
class Violation:
    """A property that did not hold."""

    rule: str
    """Name of the property."""
    at_s: float
    """Virtual time."""
    text: str

    def __str__(self) -> str:
        return f"{self.at_s:9.3f} s  {self.rule}: {self.text}"


PENDING = frozenset({"nobody-left-out", "code-has-holders", "dead-voter-replaced"})
"""Properties that the protocol is known not to have yet, or was never asked for: only strict runs report them."""


class Report:
    """Collects violations: the first hundred, and how many there were."""

    def __init__(self, pending: frozenset[str] = PENDING) -> None:
        """``pending``: rules that are not reported."""
        self._pending = pending
        self.violations: list[Violation] = []
        self.total = 0

    def add(self, rule: str, now: int, text: str) -> None:
        if rule in self._pending:
            return
        self.total += 1
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation(rule, now / SECOND, text))

    def require(self, holds: bool, rule: str, now: int, text: str) -> None:
        """Report ``rule`` unless it holds."""
        if not holds:
            self.add(rule, now, text)


class Checker(Protocol):
    """Watches a run."""

    def sample(self, now: int) -> None:
        """Look at the state of the cores; called every few virtual seconds."""
        ...

    def finish(self, now: int) -> None:
        """The run is over and had time to settle."""
        ...


def who(host: Host) -> str:
    """A host, for people."""
    return f"node {host.index} ({short(host.id)})"
