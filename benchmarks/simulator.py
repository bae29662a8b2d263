"""Cost of the simulator: ``python -m benchmarks.simulator [--nodes 10000]``.

Nodes enter the ring one after the other, as in any scenario; memory is the growth of the process per node, time is CPU
time per message delivered.  Checkers are off: they are paid for by tests, not by emulations.
"""

from __future__ import annotations

import gc
import resource
import time

import msgspec

from simulations.clock import SECOND
from simulations.scenario import Scenario
from simulations.world import World

from .report import Aim, Report, leave, parser


def main() -> None:
    options = parser("simulator", "Memory per simulated node and time per message.")
    options.add_argument("--nodes", type=int, default=10_000)
    args = options.parse_args()
    scenario = msgspec.convert(
        {"nodes": {"count": args.nodes, "join_s": args.nodes / 50}, "applications": {"count": 0}}, Scenario
    )
    gc.collect()
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    world = World(scenario, 1)
    world.populate()
    started = time.process_time()
    world.engine.schedule.run(int((args.nodes / 50 + 30) * SECOND))
    spent = time.process_time() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / args.nodes
    ready = sum(world.core(host).ring.ready for host in world.members)
    report = Report("simulator", facts={"nodes": args.nodes, "ready": ready, "messages": world.engine.links.sent})
    report.aims += [
        Aim("nodes that entered the ring", ready, args.nodes, at_least=True),
        Aim("memory of a full node", grown, 32.0, unit="KB"),
        Aim("CPU time of a message", 1e6 * spent / world.engine.links.sent, 10.0, unit="µs"),
    ]
    leave(report, args.json)


if __name__ == "__main__":
    main()
