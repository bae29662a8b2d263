"""The runner in this process: determinism, the contract with user code, errors in one sentence."""

from __future__ import annotations

import math
import multiprocessing
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fl
from fl import aggregate, codec, metrics
from fl.data.dataset import Dataset, Split
from fl.learn.errors import AppError
from fl.learn.inline import InlineRunner, Job
from protocol.errors import AggregationError, UsageError

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
DATA = Split(Dataset({"x": X[:30], "y": Y[:30]}), Dataset({"x": X[30:], "y": Y[30:]}))
JOB = Job(seed=7, round=3, rounds=9, options={"lr": 0.5, "local_epochs": 3, "batch_size": 8})


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)
    )


def weights() -> dict[str, Any]:
    return {"w": np.zeros(4), "b": np.zeros(1)}


def runner(train: Any = None, evaluate: Any = None, model: Callable[[], Any] = weights) -> InlineRunner:
    return InlineRunner(fl.App(name="a", model=model, train=train, evaluate=evaluate), DATA, node="n1")


def test_training_is_the_same_to_the_bit_whatever_happened_before() -> None:
    first, second = runner(model=network), runner(model=network)
    model = first.initial({}, 1)
    assert model == second.initial({}, 1) != second.initial({}, 2)
    update = first.train(model, JOB)
    torch.rand(3)
    np.random.random()  # noqa: NPY002
    second.train(model, Job(seed=99, options={"local_epochs": 1}))
    assert second.train(model, JOB) == update
    assert second.train(model, Job(seed=8, options=JOB.options))[0] != update[0]


def test_measuring_first_does_not_change_what_is_learned() -> None:
    one = runner(model=network)
    model = one.initial({}, 1)
    plain, measured = one.train(model, JOB), one.train(model, Job(7, 3, 9, JOB.options, evaluate=True))
    assert plain[0] == measured[0]
    assert metrics.means(measured[2]).keys() == {"loss", "accuracy", "train_loss"}
    assert measured[2]["loss.n"] == 10


def test_global_generators_and_switches_are_put_back() -> None:
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(1), random.random()
    torch.manual_seed(3)
    random.seed(3)
    one = runner(model=network)
    one.train(one.initial({}, 1), JOB)
    assert (torch.rand(1), random.random()) == expected
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_default_loop_learns() -> None:
    one = runner(model=lambda: torch.nn.Linear(4, 2))
    model = one.initial({}, 1)
    for _ in range(5):
        update, weight, _ = one.train(model, JOB)
        model, _ = aggregate.finish("fedavg", {}, model, b"", update, weight)
    means = metrics.means(one.evaluate(model, JOB))
    assert means["accuracy"] >= 0.8
    assert means["loss"] < 0.5


def test_a_floating_target_is_a_regression() -> None:
    target = Split(*(Dataset({"x": part["x"], "y": part["x"][:, 1] * 2}) for part in DATA))
    one = InlineRunner(fl.App(name="a", model=lambda: torch.nn.Linear(4, 1)), target)
    model = one.initial({}, 1)
    before = metrics.means(one.evaluate(model, JOB))
    update, weight, _ = one.train(model, Job(1, options={"lr": 0.1, "local_epochs": 20}))
    after = metrics.means(one.evaluate(aggregate.finish("fedavg", {}, model, b"", update, weight)[0], JOB))
    assert set(after) == {"loss"}
    assert after["loss"] < before["loss"] / 10


def test_what_the_sandbox_forbids_has_a_remedy_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    def processes(model: Any, data: Any, ctx: Any) -> None:
        multiprocessing.Lock()

    monkeypatch.setattr("multiprocessing.synchronize.Lock.__init__", denied)
    for train, remedy in ((processes, "num_workers=0"), (denied, "no files but temporary ones")):
        with pytest.raises(AppError) as raised:
            runner(train=train).train(runner().initial({}, 1), JOB)
        assert remedy in raised.value.remedy


def test_user_functions_get_model_data_and_context() -> None:
    seen: list[Any] = []

    def train(model: dict[str, Any], data: Dataset, ctx: fl.Context) -> fl.Update:
        seen.append((len(data), ctx.round, ctx.rounds, ctx.node, ctx.seed, ctx.get("lr", 0.0), ctx.rng.random()))
        model["w"] = model["w"] + 1
        return fl.Update(weight=2, metrics={"steps": 3})

    def evaluate(model: dict[str, Any], data: Dataset, ctx: fl.Context) -> fl.Metrics:
        return {"sum": float(model["w"].sum())}

    one = runner(train, evaluate)
    update, weight, sums = one.train(one.initial({}, 0), JOB)
    assert seen == [(30, 3, 9, "n1", 7, 0.5, np.random.default_rng(7).random())]
    assert codec.decode(update)["w"].tolist() == [2.0] * 4
    assert weight == 2
    assert sums == {"train_steps": 6.0, "train_steps.n": 2.0}
    assert one.evaluate(codec.encode({"w": np.ones(4), "b": np.ones(1)}), JOB) == {"sum": 40.0, "sum.n": 10.0}


def test_train_may_return_weights_metrics_or_nothing() -> None:
    def returning(value: Any) -> tuple[bytes, float, dict[str, float]]:
        one = runner(lambda model, data, ctx: value)
        return one.train(one.initial({}, 0), JOB)

    assert returning(None)[1:] == (30.0, {})
    assert returning({"loss": 1.0})[2] == {"train_loss": 30.0, "train_loss.n": 30.0}
    update = returning(fl.Update(weights={"w": np.full(4, 0.5), "b": np.ones(1)}))[0]
    assert codec.decode(update)["w"].tolist() == [15.0] * 4


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (5, UsageError, r"train\(\) of a returned a int"),
        (fl.Update(weight=0), UsageError, "weight 0"),
        (fl.Update(weight=math.nan), UsageError, "weight nan"),
        (fl.Update(weights={"w": np.zeros(4)}), AggregationError, "lacks tensor 'b'"),
        (fl.Update(weights={"w": np.zeros(3), "b": np.zeros(1)}), AggregationError, r"'w' had shape \(4,\)"),
        (fl.Update(weights={"w": np.full(4, np.nan), "b": np.zeros(1)}), AggregationError, "'w' is not finite"),
        (fl.Update(weights={"w": np.array("much"), "b": np.ones(1)}), AppError, r"train\(\) of a failed"),
        (fl.Update(metrics={"a b": 1.0}), UsageError, "cannot name a metric"),
    ],
)
def test_what_train_may_not_return(value: Any, error: type[Exception], message: str) -> None:
    one = runner(lambda model, data, ctx: value)
    with pytest.raises(error, match=message):
        one.train(one.initial({}, 0), JOB)


def test_exceptions_of_user_code_point_at_its_own_line() -> None:
    def train(model: Any, data: Dataset, ctx: fl.Context) -> None:
        np.stack([data["x"], data["y"]])

    one = runner(train)
    with pytest.raises(
        AppError, match=r"train\(\) of a failed at .*test_inline.py:\d+: ValueError: all input"
    ) as raised:
        one.train(one.initial({}, 0), JOB)
    lines = raised.value.trace.splitlines()
    assert "test_inline.py" in lines[0]
    assert "np.stack" in lines[1]
    assert len(lines) <= 40


def leave() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("model", [leave, lambda: 1 / 0])
def test_model_may_fail_too(model: Callable[[], Any]) -> None:
    with pytest.raises(AppError, match=r"model\(\) of a failed"):
        runner(model=model).initial({}, 0)


def test_models_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(UsageError, match="returned a list, which has no weights"):
        runner(model=list).initial({}, 0)
    with pytest.raises(UsageError, match="not finite in tensor 'w'"):
        runner(model=lambda: {"w": np.full(2, np.inf)}).initial({}, 0)


def test_defaults_say_what_they_need() -> None:
    one = runner()
    with pytest.raises(UsageError, match=r"no default train\(\) for this kind of model"):
        one.train(one.initial({}, 0), JOB)
    assert one.evaluate(one.initial({}, 0), JOB) == {}
    other = InlineRunner(
        fl.App(name="a", model=lambda: torch.nn.Linear(4, 1)), Split(Dataset({"u": X}), Dataset({"u": X[:1]}))
    )
    with pytest.raises(UsageError, match="wants fields 'x' and 'y', the data has u"):
        other.train(other.initial({}, 0), JOB)


def test_a_model_of_another_shape_is_refused() -> None:
    one = runner(model=lambda: torch.nn.Linear(4, 2))
    other = runner(model=lambda: torch.nn.Linear(5, 2))
    with pytest.raises(AggregationError, match="'weight' has shape"):
        one.train(other.initial({}, 0), JOB)
    with pytest.raises(AggregationError, match="only one of"):
        one.evaluate(runner().initial({}, 0), JOB)


def test_without_data_there_is_nothing_to_train() -> None:
    one = InlineRunner(fl.App(name="a", model=weights))
    assert one.initial({}, 0)
    with pytest.raises(UsageError, match="no data on this node"):
        one.describe({})
