"""Handwritten digits, learned where they lie.

python examples/digits.py            sixteen simulated nodes in this process; breakpoints work
mycelia run examples/digits.py       the same file on a fabric of real nodes
"""

import torch

import fl


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))


app = fl.App(
    name="digits",
    model=model,
    data="digits",
    schema={"x": fl.Field("float32", (64,)), "y": fl.Field("int64", classes=10)},
    rounds=20,
    options={"lr": 0.4, "batch_size": 8, "local_epochs": 4},
)

if __name__ == "__main__":
    app.run(nodes=16, alpha=0.3)
