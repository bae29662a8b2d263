"""What a daemon costs when nothing happens: ``python -m benchmarks.idle [--peers 24] [--seconds 60]``.

A fabric of peers + 1 real daemons on loopback, left alone.  Memory and CPU are read from /proc for every daemon and the
worst is reported.  Traffic is what the loopback device carried, headers and acknowledgements included, shared by the
daemons and extrapolated to a day; each byte counts for its sender and for its receiver.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from pathlib import Path

from node.demo.processes import Fleet, anonymous_bytes, temporary_fleet

from .report import Aim, Report, leave, parser

SETTLE_S = 45.0
"""After the last one is ready: leaf sets are exchanged, records spread."""
DAY_S = 86_400
HEADERS = 52
"""Bytes of IPv4 and TCP headers with time stamps, per segment."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wire_bytes(pids: list[int]) -> int:
    """Bytes that the open TCP connections of ``pids`` have carried, sent and received, headers included."""
    sockets = ["ss", "-tinpH", "state", "established"]
    listing = subprocess.run(sockets, capture_output=True, text=True, check=True).stdout
    total, mine = 0, False
    for line in listing.splitlines():
        if not line.startswith("\t"):
            mine = any(f"pid={pid}," in line for pid in pids)
        elif mine:
            counts = dict(re.findall(r"\b(bytes_sent|bytes_received|segs_out|segs_in):(\d+)", line))
            total += int(counts.get("bytes_sent", 0)) + int(counts.get("bytes_received", 0))
            total += HEADERS * (int(counts.get("segs_out", 0)) + int(counts.get("segs_in", 0)))
    return total


async def measure(fleet: Fleet, count: int, seconds: float) -> Report:
    await fleet.start(count)
    await asyncio.sleep(SETTLE_S)
    pids = [node.pid for node in fleet.nodes]
    started, wire = time.monotonic(), wire_bytes(pids)
    before = [cpu_seconds(pid) for pid in pids]
    await asyncio.sleep(seconds)
    wall, moved = time.monotonic() - started, wire_bytes(pids) - wire
    shares = [100 * (cpu_seconds(pid) - spent) / wall for pid, spent in zip(pids, before, strict=True)]
    memory = [anonymous_bytes(pid) / 1e6 for pid in pids]
    links = [(await node.service.status()).links for node in fleet.nodes]
    report = Report(
        "idle", facts={"daemons": count, "measured_s": round(wall, 1), "links_median": sorted(links)[count // 2]}
    )
    report.facts |= {"cpu_percent_median": sorted(shares)[count // 2], "memory_mb_median": sorted(memory)[count // 2]}
    report.aims += [
        Aim("anonymous memory, worst daemon", max(memory), 40.0, unit="MB"),
        Aim("share of a core, worst daemon", max(shares), 1.0, unit="%"),
        Aim("traffic of a daemon", moved / count / wall * DAY_S / 1e6, 20.0, unit="MB/day"),
    ]
    return report


def main() -> None:
    options = parser("idle", "Memory, CPU and traffic of an idle daemon.")
    options.add_argument("--peers", type=int, default=24)
    options.add_argument("--seconds", type=float, default=60.0)
    args = options.parse_args()
    with temporary_fleet(alpha=0.5, seed=0) as fleet:
        report = asyncio.run(measure(fleet, args.peers + 1, args.seconds))
    leave(report, args.json)


if __name__ == "__main__":
    main()
