"""Is the result right?  Replay, accuracy, and what a round costs beyond its trainings."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocol.errors import MyceliaError

from .processes import Fleet
from .watch import Story


async def verified(
    fleet: Fleet, story: Story, app_file: Path, settings: Sequence[str], model: bytes, rounds: int
) -> dict[str, Any]:
    """What :mod:`fl.learn.verify` finds, run as a process of its own.  Raises MyceliaError when it fails."""
    target = fleet.directory / "final.safetensors"
    target.write_bytes(model)
    request = {
        "app": str(app_file),
        "settings": list(settings),
        "bindings": {node.id: fleet.binding(node.index) for node in fleet.nodes},
        "rounds": [
            {"round": number, "contributors": event.contributors}
            for number, event in sorted(story.rounds.items())
            if number <= rounds
        ],
        "model": str(target),
    }
    file = fleet.directory / "verify.json"
    file.write_text(json.dumps(request))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "fl.learn.verify",
        str(file),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise MyceliaError("the replay failed", errors.decode(errors="replace").strip()[-500:])
    answer: dict[str, Any] = json.loads(output)
    return answer


def double_counted(story: Story, samples: dict[str, int]) -> int:
    """Contributions that were counted more than once: named twice, or weighing more than their samples."""
    count = 0
    for event in story.rounds.values():
        count += len(event.contributors) - len(set(event.contributors))
        expected = sum(samples[node] for node in event.contributors)
        count += bool(event.weight) and event.weight > expected + 0.5
    return count


def lost_rounds(story: Story, rounds: int) -> list[int]:
    """Rounds that no node ever saw committed."""
    return [number for number in range(1, rounds + 1) if number not in story.rounds]


def round_walls(story: Story, rounds: int) -> list[float]:
    """Seconds from each commit to the next, for rounds that nothing struck: the demo's own blows are left out."""
    struck = {incident.round + step for incident in story.incidents for step in (0, 1, 2)}
    return [
        story.first_seen[number] - story.first_seen[number - 1]
        for number in range(2, rounds + 1)
        if number in story.first_seen and number - 1 in story.first_seen and number not in struck
    ]


def overhead_ms(walls: Sequence[float], bare: Sequence[float]) -> float | None:
    """Median round minus median bare round, ms; None when either was not measured."""
    if not walls or not bare:
        return None
    return 1000 * (statistics.median(walls) - statistics.median(bare))
