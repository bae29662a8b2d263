"""Parts of a command in processes of their own, side by side: what raises there takes down nothing but its part.

A part is asked for in the words of the command line and answers in JSON on its standard output, so nothing but text
crosses between processes, and whoever wants to see one part alone can type the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Part = TypeVar("Part")
Answer = TypeVar("Answer")


def ask(*arguments: str) -> tuple[dict[str, Any] | None, str]:
    """What ``python -m simulations ARGUMENTS`` writes as JSON; else None and the last line of its complaint."""
    command = [sys.executable, "-m", "simulations", *arguments, "--jobs", "1", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return None, (done.stderr.strip().splitlines() or ["no output"])[-1]
    return found, ""


def each(call: Callable[[Part], Answer], parts: Iterable[Part], jobs: int) -> Iterator[Answer]:
    """``call`` of every part, ``jobs`` at a time, answers in the order of the parts."""
    if jobs == 1:
        yield from map(call, parts)
        return
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(call, parts)
