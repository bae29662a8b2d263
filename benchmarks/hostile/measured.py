"""What one group of attacks found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..report import Aim


@dataclass
class Measured:
    """Aims decide; facts explain."""

    aims: list[Aim] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
