"""The bare loop against the fabric's own arithmetic, and central training beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

import fl
from fl import aggregate, metrics, replay
from fl.data import loaders
from fl.data.binding import shares
from fl.learn.inline import InlineRunner, Job

APP = fl.load(Path(fl.__file__).parents[1] / "examples" / "digits.py")
BINDINGS = shares("digits", 4, alpha=0.5, seed=1)
DATA = {str(index): loaders.load(binding, APP.schema) for index, binding in enumerate(BINDINGS)}
OPTIONS = dict(APP.options)
LOG = [
    replay.Round(number, [(node, 100 * number + int(node)) for node in DATA if number != 2 or node != "3"])
    for number in (1, 2, 3)
]


def test_the_tree_gives_what_the_bare_loop_gives() -> None:
    runners = {node: InlineRunner(APP, split) for node, split in DATA.items()}
    model = initial = runners["0"].initial(OPTIONS, APP.seed)
    replayed = replay.replay(APP, initial, LOG, DATA, OPTIONS)
    for (number, contributors), expected in zip(LOG, replayed, strict=True):
        done = [runners[node].train(model, Job(seed, number, APP.rounds, OPTIONS)) for node, seed in contributors]
        # Half of the updates go through another node first.
        inner = aggregate.merge([update for update, _, _ in done[:2]])
        total = aggregate.merge([inner, *(update for update, _, _ in done[2:])])
        model, _ = aggregate.finish("fedavg", OPTIONS, model, b"", total, sum(weight for _, weight, _ in done))
        assert replay.max_abs_diff(model, expected) < 1e-5
    assert replay.max_abs_diff(model, initial) > 0.01


def test_another_contributor_or_seed_gives_another_model() -> None:
    initial = InlineRunner(APP).initial(OPTIONS, APP.seed)

    def last(contributors: list[tuple[str, int]]) -> bytes:
        return next(replay.replay(APP, initial, [replay.Round(1, contributors)], DATA, OPTIONS))

    reference = last([("0", 1), ("1", 2)])
    assert last([("0", 1), ("1", 2)]) == reference
    assert replay.max_abs_diff(last([("0", 1), ("1", 3)]), reference) > 1e-5
    assert replay.max_abs_diff(last([("0", 1)]), reference) > 1e-5
    with pytest.raises(KeyError):
        last([("9", 1)])


def test_central_training_learns_the_digits() -> None:
    runner = InlineRunner(APP)
    initial = runner.initial(OPTIONS, APP.seed)
    outside = loaders.outside(BINDINGS[0], APP.schema)
    model = replay.central(APP, initial, list(DATA.values()), OPTIONS, 3, APP.seed)
    assert metrics.means(runner.measure(model, Job(0), outside))["accuracy"] > 0.9
