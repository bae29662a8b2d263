"""Proof of a run, in a process of its own: replay it without the fabric, measure it, and train centrally.

    python -m fl.learn.verify REQUEST.json      prints one JSON object

The request names the application's file and settings, how the digits were shared, who contributed to each round, and
the file of the final model.  The replay (:mod:`fl.replay`) uses none of the fabric's arithmetic.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from fl import replay, sdk
from fl.data import loaders
from fl.data.binding import Binding
from fl.worker import seed_of

from .inline import InlineRunner, Job


class LoggedRound(msgspec.Struct, frozen=True):
    """Who contributed to a round."""

    round: int
    contributors: list[str]
    """Ring ids, hex."""


class Request(msgspec.Struct, frozen=True):
    """What is to be proved."""

    app: str
    settings: list[str]
    bindings: dict[str, dict[str, Any]]
    """Ring id, hex → its data."""
    rounds: list[LoggedRound]
    model: str
    """File of the final model."""


def verify(request: Request) -> dict[str, Any]:
    """Raises MyceliaError, KeyError for a contributor without data."""
    app = sdk.load(Path(request.app)).override(request.settings)
    options = dict(app.options)
    bindings = {node: Binding(**keys) for node, keys in request.bindings.items()}
    data = {node: loaders.load(binding, app.schema, node) for node, binding in bindings.items()}
    outside = loaders.outside(next(iter(bindings.values())), app.schema)
    runner = InlineRunner(app, emit=lambda line: None)
    initial = runner.initial(options, app.seed)
    log = [
        replay.Round(
            entry.round,
            [(node, seed_of(app.seed, entry.round, bytes.fromhex(node))) for node in entry.contributors],
        )
        for entry in request.rounds
    ]
    model = Path(request.model).read_bytes()
    replayed = initial
    for after_round in replay.replay(app, initial, log, data, options):
        replayed = after_round
    central = replay.central(app, initial, list(data.values()), options, app.rounds, app.seed)

    def accuracy(of: bytes) -> float:
        sums = runner.measure(of, Job(seed=0, options=options), outside)
        return sums["accuracy"] / sums["accuracy.n"]

    return {
        "accuracy": accuracy(model),
        "central_accuracy": accuracy(central),
        "replay_max_abs_diff": replay.max_abs_diff(model, replayed),
        "samples": {node: len(split.train) for node, split in data.items()},
        "tested_on": len(outside),
    }


def main() -> None:
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)
    json.dump(verify(request), sys.stdout)


if __name__ == "__main__":
    main()
