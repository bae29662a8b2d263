"""Weights out and in again, for each kind of model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fl
from fl import codec, metrics
from fl.data.dataset import Dataset, Split
from fl.learn import models
from fl.learn.inline import InlineRunner, Job
from protocol.errors import AggregationError, UsageError

CONTEXT = fl.Context({"hidden": 3}, 0, 0, "", 0)


def build(native: Any) -> models.Model:
    return models.build(fl.App(name="a", model=lambda: native), CONTEXT)


class Own:
    def __init__(self) -> None:
        self.values = np.arange(3.0)

    def get_weights(self) -> dict[str, Any]:
        return {"values": self.values}

    def set_weights(self, weights: dict[str, Any]) -> None:
        self.values = weights["values"]


@pytest.mark.parametrize(
    "native",
    [
        torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)),
        torch.nn.Linear(2, 2).double(),
        {"a": np.arange(4.0), "b": np.array([1], np.float16)},
        Own(),
    ],
)
def test_what_is_written_is_read_back(native: Any) -> None:
    model = build(native)
    before = {name: tensor.copy() for name, tensor in model.read().items()}
    assert all(tensor.dtype == np.float32 for tensor in before.values())
    changed = {name: tensor + 1 for name, tensor in before.items()}
    model.write(changed)
    for name, tensor in model.read().items():
        np.testing.assert_array_equal(tensor, changed[name])
    with pytest.raises(AggregationError, match="only one of"):
        model.write(dict(list(changed.items())[1:]))
    with pytest.raises(AggregationError, match="has shape"):
        model.write({name: tensor[..., None] for name, tensor in changed.items()})


def test_a_model_may_depend_on_options() -> None:
    def sized(ctx: fl.Context) -> dict[str, Any]:
        return {"w": np.zeros(ctx.get("hidden", 1))}

    def unsized(width: int = 2) -> dict[str, Any]:
        return {"w": np.zeros(width)}

    for model, size in ((sized, 3), (unsized, 2)):
        assert models.build(fl.App(name="a", model=model), CONTEXT).read()["w"].shape == (size,)
    one = InlineRunner(fl.App(name="a", model=sized))
    assert codec.decode(one.initial({"hidden": 7}, 0))["w"].shape == (7,)


def test_integer_buffers_travel_exactly_and_are_rounded() -> None:
    module = torch.nn.BatchNorm1d(3)
    model = build(module)
    tensors = model.read()
    model.write(tensors | {"num_batches_tracked": np.array(6.7, np.float32)})
    assert int(module.num_batches_tracked) == 7  # type: ignore[arg-type]
    module.num_batches_tracked = torch.tensor(1 << 25)
    with pytest.raises(UsageError, match="num_batches_tracked"):
        model.read()


def test_types_of_a_dict_of_arrays_are_kept() -> None:
    native = {"a": np.zeros(2, np.float64)}
    build(native).write({"a": np.ones(2, np.float32)})
    assert native["a"].dtype == np.float64


@pytest.mark.parametrize("kind", ["linear", "layers"])
def test_estimators_learn_by_partial_fit(kind: str) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    neural = pytest.importorskip("sklearn.neural_network")
    x = np.random.default_rng(1).normal(size=(60, 4))
    y = (x[:, 0] > 0).astype(np.int64)

    def model() -> Any:
        estimator = (
            linear.SGDClassifier(loss="log_loss", random_state=0)
            if kind == "linear"
            else neural.MLPClassifier((8,), learning_rate_init=0.05, random_state=0)
        )
        return estimator.partial_fit(np.zeros((2, 4)), [0, 1], classes=[0, 1])

    part = Dataset({"x": x, "y": y})
    one = InlineRunner(fl.App(name="a", model=model), Split(part, part))
    initial, job = one.initial({}, 0), Job(3, options={"local_epochs": 30})
    update, weight, _ = one.train(initial, job)
    assert one.train(initial, job)[0] == update
    assert weight == 60
    fit = one.fit(initial, job)
    means = metrics.means(one.evaluate(codec.encode(fit.tensors), job))
    assert means["accuracy"] > 0.8
    assert "loss" in means
