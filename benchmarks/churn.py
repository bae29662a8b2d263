"""Sixteen real daemons under blows: ``python -m benchmarks.churn [--nodes 16] [--json FILE]``.

One application trains while, one after the other, an interior node and the root are killed, the root is stopped for ten
seconds and goes on, and the link of a parent falls silent; those killed come back.  A second application is at
round 7 when all daemons are killed at once and started again.  Detection and re-join are timed against the budgets,
and at the end both models are computed again from the logged contributors by a bare loop.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

from node.demo import proof
from node.demo.main import app_file, submit
from node.demo.processes import DemoNode, Fleet, free_ports, temporary_fleet
from node.demo.watch import Incident, Story, Watch

from .proxy import Wires
from .report import Aim, Report, leave, parser

LIMIT_S = 120.0
FROZEN_S = 10.0


async def until(condition: Callable[[], object], what: str, story: Story) -> None:
    """Wait, bounded, for something that the story tells."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come; round {story.last_round}, root {story.root[4:12]}")
        await asyncio.sleep(0.02)


class Blows:
    """What is done to the first application."""

    def __init__(self, fleet: Fleet, story: Story, wires: Wires, report: Report) -> None:
        self._fleet, self._story, self._wires, self._report = fleet, story, wires, report

    async def all(self) -> None:
        await self._rounds(3)
        await self._kill("aggregator")
        await self._rounds(3)
        await self._kill("root")
        await self._rounds(3)
        await self._freeze_root()
        await self._rounds(3)
        await self._silence_a_parent()
        await self._rounds(3)

    async def _rounds(self, count: int) -> None:
        """Let the application get on, and everyone be up."""
        target = self._story.last_round + count
        await until(lambda: self._story.last_round >= target, f"round {target}", self._story)

    def _victim(self, role: str) -> DemoNode:
        return next(
            self._fleet.node(node) for node, place in sorted(self._story.places.items())
            if place.role == role and self._fleet.node(node).condition == "up" and (role == "root" or place.children)
        )  # fmt: skip

    async def _mended(self, incident: Incident) -> None:
        if incident.role == "root":
            await until(lambda: incident.hand_over is not None, "another root", self._story)
        await until(lambda: None not in incident.orphans.values(), "another parent for every orphan", self._story)

    async def _kill(self, role: str) -> None:
        await until(lambda: any(place.role == role for place in self._story.places.values()), f"a {role}", self._story)
        victim = self._victim(role)
        incident = self._story.struck(victim.id, "killed")
        victim.signal(signal.SIGKILL, "killed")
        await self._mended(incident)
        # In the tree an orphan of the root must wait until there is another; an interior node's need not.
        rejoined = sorted(seconds for seconds in incident.orphans.values() if seconds is not None)
        self._report.facts[f"orphans of the killed {role}, s"] = [round(seconds, 3) for seconds in rejoined]
        if role == "root":
            self._report.facts["hand-over after the root was killed, s"] = round(incident.hand_over or 0, 3)
        elif rejoined:
            median = rejoined[len(rejoined) // 2]
            self._report.aims.append(Aim("closed socket: orphan joined again, median", 1000 * median, 300, unit="ms"))
        assert victim.process is not None
        victim.process.wait(10)
        await self._fleet.restart(victim)
        await self._contributes(victim)

    async def _contributes(self, node: DemoNode) -> None:
        """Until ``node`` is among the contributors of a round that was committed after now."""
        seen = self._story.last_round

        def again() -> bool:
            return any(node.id in event.contributors for number, event in self._story.rounds.items() if number > seen)

        await until(again, f"n{node.index:02d} among the contributors again", self._story)

    async def _freeze_root(self) -> None:
        victim = self._victim("root")
        epoch = max(event.epoch for event in self._story.rounds.values())
        incident = self._story.struck(victim.id, "frozen")
        victim.signal(signal.SIGSTOP, "frozen")
        await until(lambda: incident.hand_over is not None, "another root", self._story)
        await asyncio.sleep(max(0.0, FROZEN_S - (time.monotonic() - incident.at)))
        victim.signal(signal.SIGCONT, "up")
        self._report.facts["hand-over after the root froze, s"] = round(incident.hand_over or 0, 3)
        await self._rounds(3)
        newest = max(event.epoch for event in self._story.rounds.values())
        late = [
            event.round
            for event in self._story.rounds.values()
            if event.round > incident.round + 1 and event.epoch <= epoch
        ]
        self._report.facts["epochs before and after the freeze"] = [epoch, newest]
        self._report.facts["stale writes refused so far, all daemons"] = await self._refused()
        self._report.aims.append(Aim("rounds committed by the thawed root", len(late), 0))
        self._report.aims.append(
            Aim("thawed root is root no more", float(self._story.root != victim.id), 1, at_least=True)
        )

    async def _refused(self) -> float:
        """Messages of dead epochs that voters and members turned away."""
        counters = [(await node.service.status()).counters for node in self._fleet.nodes if node.condition == "up"]
        return sum(counter.get("tree_stale_refused", 0) for counter in counters)

    async def _silence_a_parent(self) -> None:
        """Nobody's socket closes: only liveness can tell."""
        victim = self._victim("aggregator")
        incident = self._story.struck(victim.id, "deaf")
        self._wires.deafen(victim.index)
        await asyncio.sleep(FROZEN_S)
        self._wires.deafen(-1)
        noticed = sorted(seconds for seconds in incident.orphans.values() if seconds is not None)
        self._report.facts["children of the silent parent: joined again, s"] = [round(each, 3) for each in noticed]
        if noticed:
            self._report.aims.append(Aim("silent link: child joined elsewhere, slowest", noticed[-1], 3.5, unit="s"))


async def resurrect(fleet: Fleet, story: Story, report: Report) -> None:
    """All daemons killed in round 7 and started again."""
    await until(lambda: story.last_round >= 6, "round 6", story)
    for node in fleet.nodes:
        node.signal(signal.SIGKILL, "killed")
    before = story.last_round
    for node in fleet.nodes:
        assert node.process is not None
        node.process.wait(10)
    started = time.monotonic()
    await asyncio.gather(*(fleet.restart(node) for node in fleet.nodes))
    report.facts["all killed: restarted, s"] = round(time.monotonic() - started, 1)
    report.facts["last round before, first after"] = [before, before + 1]
    await until(lambda: before + 1 in story.rounds, f"round {before + 1}", story)
    report.facts["all killed: next round committed, s"] = round(time.monotonic() - started, 1)


async def prove(fleet: Fleet, story: Story, rounds: int, settings: list[str], name: str, report: Report) -> None:
    """The model is what a bare loop makes of the logged contributors; nothing was lost or counted twice."""
    last = story.rounds[max(number for number in story.rounds if number <= rounds)]
    pieces = [piece async for piece in fleet.nodes[1].service.download(bytes.fromhex(last.model))]
    settings = [*settings, f"rounds={rounds}"]
    checked = await proof.verified(fleet, story, app_file(), settings, b"".join(pieces), rounds)
    report.aims += [
        Aim(f"{name}: replay, largest difference", checked["replay_max_abs_diff"], 1e-5),
        Aim(f"{name}: rounds lost", len(proof.lost_rounds(story, rounds)), 0),
        Aim(f"{name}: contributions counted twice", proof.double_counted(story, checked["samples"]), 0),
    ]


async def measure(fleet: Fleet, count: int, rounds: int) -> Report:
    report = Report("churn", facts={"nodes": count})
    fleet.ports = free_ports(2 * count)
    wires = Wires()
    for index in range(count):
        fleet.advertised[index] = fleet.ports[count + index]
        await wires.add(index, fleet.advertised[index], fleet.ports[index])
    fleet.spawned = lambda node: wires.pids.__setitem__(node.index, node.pid)
    await fleet.start(count)
    # A small step: over so many rounds the rounding of float32 sums would otherwise grow beyond what the replay allows.
    quorum = [f"min_workers={count // 2}", "lr=0.05"]
    story = Story()
    async with Watch(fleet, await submit(fleet.nodes[0], rounds, quorum), story):
        await Blows(fleet, story, wires, report).all()
        await until(lambda: story.status == "finished", "the end", story)
        await prove(fleet, story, rounds, quorum, "blows", report)
    second = Story()
    async with Watch(fleet, await submit(fleet.nodes[0], 12, quorum), second):
        await resurrect(fleet, second, report)
        await until(lambda: second.status == "finished", "the end", second)
        await prove(fleet, second, 12, quorum, "all killed", report)
    await wires.close()
    return report


def main() -> None:
    options = parser("churn", "Sixteen daemons are killed, frozen and cut off; nothing may be lost.")
    options.add_argument("--nodes", type=int, default=16)
    options.add_argument("--rounds", type=int, default=120)
    args = options.parse_args()
    with temporary_fleet(alpha=0.5, seed=0) as fleet:
        report = asyncio.run(measure(fleet, args.nodes, args.rounds))
    leave(report, args.json)


if __name__ == "__main__":
    main()
