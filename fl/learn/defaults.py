"""The loops an application gets when it brings none: plain minibatch SGD, and loss with accuracy.

Both expect the fields ``x`` and ``y``.  Integer ``y`` is a class (cross-entropy), anything else a quantity (mean
squared error).  SGD is written out rather than taken from ``torch.optim``: the optimiser is made anew each round, and
first use of that package costs seconds.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fl.data.dataset import Dataset
from fl.sdk import Context, Metrics, Update
from protocol.errors import UsageError

from .models import Model


def train(model: Model, data: Dataset, ctx: Context) -> Update | Metrics | None:
    """The default ``train`` for this kind of model.  Raises UsageError when there is none."""
    _check(model, data, "train")
    return _train_torch(model.native, data, ctx) if model.kind == "torch" else _train_estimator(model.native, data, ctx)


def evaluate(model: Model, data: Dataset, ctx: Context) -> Metrics:
    """The default ``evaluate`` for this kind of model.  Raises UsageError when there is none."""
    _check(model, data, "evaluate")
    return _evaluate_torch(model.native, data) if model.kind == "torch" else _evaluate_estimator(model.native, data)


def _check(model: Model, data: Dataset, what: str) -> None:
    if model.kind == "plain":
        raise UsageError(f"there is no default {what}() for this kind of model", f"pass {what}= to fl.App")
    if "x" not in data or "y" not in data:
        raise UsageError(
            f"the default {what}() wants fields 'x' and 'y', the data has {', '.join(data.fields)}",
            f"name the fields so, or pass {what}= to fl.App",
        )


def _tensors(data: Dataset) -> tuple[Any, Any]:
    """``(x, y)`` in torch's own memory: kernels may round differently on other alignments."""
    torch = sys.modules["torch"]
    x, y = torch.tensor(data["x"]), torch.tensor(data["y"])
    return x, y if y.is_floating_point() else y.long()


def _loss(output: Any, y: Any) -> Any:
    functional = sys.modules["torch"].nn.functional
    if y.is_floating_point():
        return functional.mse_loss(output.reshape(y.shape), y)
    return functional.cross_entropy(output, y)


def _train_torch(module: Any, data: Dataset, ctx: Context) -> Update:
    torch = sys.modules["torch"]
    x, y = _tensors(data)
    rate, momentum = ctx.get("lr", 0.1), ctx.get("momentum", 0.0)
    decay, size = ctx.get("weight_decay", 0.0), max(ctx.get("batch_size", 32), 1)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    module.train()
    total, steps = 0.0, 0
    for _ in range(ctx.get("local_epochs", 1)):
        for batch in torch.randperm(len(x)).split(size):
            loss = _loss(module(x[batch]), y[batch])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
                    velocity.mul_(momentum).add_(gradient).add_(parameter, alpha=decay)
                    parameter.sub_(velocity, alpha=rate)
            total, steps = total + loss.item(), steps + 1
    return Update(len(data), {"loss": total / max(steps, 1)})


def _evaluate_torch(module: Any, data: Dataset) -> Metrics:
    torch = sys.modules["torch"]
    x, y = _tensors(data)
    module.eval()
    with torch.no_grad():
        output = module(x)
        loss = float(_loss(output, y))
        if y.is_floating_point():
            return {"loss": loss}
        return {"loss": loss, "accuracy": float((output.argmax(1) == y).float().mean())}


def _train_estimator(estimator: Any, data: Dataset, ctx: Context) -> Update:
    # An estimator draws from its own generator; seeded per task, it shuffles alike in a replay.
    if hasattr(estimator, "random_state"):
        estimator.random_state = ctx.seed % (1 << 32)
    for _ in range(ctx.get("local_epochs", 1)):
        estimator.partial_fit(data["x"], data["y"])
    return Update(len(data))


def _evaluate_estimator(estimator: Any, data: Dataset) -> Metrics:
    predicted = estimator.predict(data["x"])
    if data["y"].dtype.kind == "f":
        return {"loss": float(np.mean((predicted - data["y"]) ** 2))}
    accuracy = float(np.mean(predicted == data["y"]))
    if not hasattr(estimator, "predict_proba"):
        return {"accuracy": accuracy}
    chances = estimator.predict_proba(data["x"])
    columns = np.searchsorted(estimator.classes_, data["y"])
    likelihood = np.clip(chances[np.arange(len(data)), columns], 1e-12, None)
    return {"loss": float(-np.log(likelihood).mean()), "accuracy": accuracy}
