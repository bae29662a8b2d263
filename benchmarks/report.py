"""What a benchmark found, against what it aimed at."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Aim:
    """One budget: ``value`` must be at most (or at least) ``bound``."""

    name: str
    value: float
    bound: float
    at_least: bool = False
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def line(self) -> str:
        sign = "≥" if self.at_least else "≤"
        verdict = "ok" if self.met else f"MISSED by {abs(self.value - self.bound):.4g}"
        return f"{self.name:<44} {self.value:>10.4g} {self.unit:<6} {sign} {self.bound:<8.4g} {verdict}"


@dataclass
class Report:
    """Aims and whatever else is worth keeping."""

    benchmark: str
    aims: list[Aim] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def finish(self, target: Path | None) -> int:
        """Print, write, and answer the exit code."""
        for key, value in self.facts.items():
            print(f"{key:<44} {value}")
        for aim in self.aims:
            print(aim.line())
        if target is not None:
            target.write_text(json.dumps(self.to_dict(), indent=2) + "\n")
        return 0 if all(aim.met for aim in self.aims) else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the machine that they were measured on."""
        return {
            "benchmark": self.benchmark,
            "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()},
            "facts": self.facts,
            "aims": [
                {
                    "name": aim.name,
                    "value": aim.value,
                    "bound": aim.bound,
                    "at_least": aim.at_least,
                    "unit": aim.unit,
                    "met": aim.met,
                }
                for aim in self.aims
            ],
        }  # fmt: skip


def parser(name: str, summary: str) -> argparse.ArgumentParser:
    """With the options that all benchmarks have."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=summary)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE")
    return made


def leave(report: Report, target: Path | None) -> None:
    """End the process as the benchmark went."""
    sys.exit(report.finish(target))
