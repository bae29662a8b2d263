"""What a fabric says, in bytes: ``python -m benchmarks.load [--nodes 16 64 256] [--applications 1 4 16]``.

Networks in the engine's virtual time, in which nothing goes wrong.  First one application of which every node is a
worker, on more and more nodes; then more and more applications, each with ``--workers`` of them, on the same nodes.
Frames are counted as they are sent, by kind, from a time at which rounds are under way, with keys, nonces and
signatures as long as a daemon's.  TLS, HTTP/2 and TCP come on top (about 100 bytes a frame), models do not appear: they
are 64 bytes here and would be transfers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import msgspec

from fl.notices import RoundCommitted
from protocol import wire
from protocol.messages import KINDS, Routed
from simulations import signing, world
from simulations.clock import SECOND
from simulations.host import Host
from simulations.scenario import Scenario
from simulations.signing import KeyedHashSigner

from .report import Aim, Report, leave, parser

WARM_S = 60
"""Virtual seconds after the last submission: gates are passed, the first rounds are over."""
DAY_S = 86_400
NOTABLE = 0.5
"""Bytes per node and second from which a kind of message is listed."""


class LongSigner(KeyedHashSigner):
    """With a nonce as an issuer gives it."""

    def __init__(self, seed: int, *name: str | int) -> None:
        super().__init__(seed, *name)
        self.nonce = self.public_key[:16]


@dataclass
class Load:
    """What was said in one window."""

    nodes: int
    seconds: int
    frames: Counter[str] = field(default_factory=Counter)
    size: Counter[str] = field(default_factory=Counter)
    """Of all frames of a kind, bytes."""
    rounds: dict[tuple[bytes, int], int] = field(default_factory=dict)
    """(Application, round) → contributors."""

    def say(self, host: Host, effect: Any) -> None:
        message = effect.message
        inner = message.message if isinstance(message, Routed) else message
        self.frames[type(inner).__name__] += 1
        self.size[type(inner).__name__] += wire.size(message)

    def rate(self, total: float) -> float:
        """Per node and second."""
        return total / self.nodes / self.seconds

    def facts(self) -> dict[str, Any]:
        kinds = sorted(self.size, key=lambda kind: -self.size[kind])
        told = [f"{kind} {self.rate(self.size[kind]):.1f}" for kind in kinds if self.rate(self.size[kind]) >= NOTABLE]
        rounds = len(self.rounds)
        return {
            "bytes, frames per node and second": (
                round(self.rate(self.size.total()), 1), round(self.rate(self.frames.total()), 2)
            ),
            "of these bytes": ", ".join(told),
            "rounds, contributors": (rounds, round(sum(self.rounds.values()) / rounds) if rounds else 0),
            "waves and commits, bytes per node and round": round(
                sum(self.size[kind] for kind in ("WaveOpen", "WaveUp", "Committed")) / self.nodes / rounds
            ) if rounds else 0,
        }  # fmt: skip


def measured(nodes: int, applications: int, workers: int, seconds: int) -> Load:
    """One network, alone."""
    scenario = msgspec.convert(
        {
            "nodes": {"count": nodes, "join_s": nodes / 20},
            "applications": {"count": applications, "workers": workers, "rounds": 100_000, "submit_s": 5.0},
        },
        Scenario,
    )
    longer = mock.patch.object(signing, "SIGNATURE_BYTES", 64), mock.patch.object(world, "KeyedHashSigner", LongSigner)
    with longer[0], longer[1]:
        here = world.World(scenario, 1)
        here.populate()
        schedule = here.engine.schedule
        schedule.run(int((nodes / 20 + 5 + WARM_S) * SECOND))
        load = Load(nodes, seconds)
        kinds: list[type] = [*KINDS.values(), Routed]
        for kind in kinds:
            here.engine.tap(kind, lambda _, host, effect: load.say(host, effect))
        here.engine.tap(RoundCommitted, lambda _, __, effect: _note(load, effect.notice))
        schedule.run(schedule.now + seconds * SECOND)
    return load


def _note(load: Load, notice: RoundCommitted) -> None:
    load.rounds[notice.app, notice.head.round] = len(notice.head.contributors)


def main() -> None:
    options = parser("load", "Bytes that a node sends, by what it is for.")
    options.add_argument("--nodes", type=int, nargs="+", default=[16, 64, 256])
    options.add_argument("--applications", type=int, nargs="+", default=[1, 4, 16])
    options.add_argument("--workers", type=int, default=16)
    options.add_argument("--seconds", type=int, default=60)
    args = options.parse_args()
    report = Report("load")
    for nodes in args.nodes:
        idle = measured(nodes, 0, 1, args.seconds)
        daily = idle.rate(idle.size.total()) * DAY_S / 1e6
        report.facts |= {
            f"{nodes} idle nodes: {key}": value for key, value in idle.facts().items() if "round" not in key
        }
        report.aims.append(Aim(f"{nodes} idle nodes: frames", daily, 20.0, unit="MB/day"))
        busy = measured(nodes, 1, nodes, args.seconds)
        report.facts |= {f"{nodes} nodes, all work for one: {key}": value for key, value in busy.facts().items()}
    for applications in args.applications:
        load = measured(max(args.nodes[0], 64), applications, args.workers, args.seconds)
        report.facts |= {f"{applications} applications: {key}": value for key, value in load.facts().items()}
    leave(report, args.json)


if __name__ == "__main__":
    main()
