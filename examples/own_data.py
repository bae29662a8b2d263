"""Your own data and your own training loop: how many ices will a shop sell tomorrow?

    python examples/own_data.py          writes a table for each of five shops, then trains on simulated nodes

On real nodes each operator binds a local table to the name that the application asks for,

    [data.ices]
    kind = "csv"
    path = "shop.csv"

and anyone whose owner is trusted there runs ``mycelia run examples/own_data.py``.  Training stops when the loss no
longer falls; ``--continue-from ices@7`` resumes from version 7 of the model with whatever data the shops have then.
The fourth shop has misspelt a column: it is refused by name, and the others train without it.
"""

import csv
from pathlib import Path

import numpy as np
import torch

import fl
from fl.data.dataset import Dataset

FEATURES = ("temperature", "rain", "weekend")


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def loss(network: torch.nn.Module, data: Dataset) -> torch.Tensor:
    x = torch.tensor(np.stack([data[name] for name in FEATURES], axis=1))
    sold = torch.tensor(data["sold"])
    return torch.nn.functional.mse_loss(network(x / torch.tensor([10.0, 10.0, 1.0])).squeeze(1), sold / 100)


def train(network: torch.nn.Module, data: Dataset, ctx: fl.Context) -> fl.Update:
    optimiser = torch.optim.Adam(network.parameters(), lr=ctx.get("lr", 0.02))
    for _ in range(ctx.get("local_epochs", 5)):
        for batch in data.batches(ctx.get("batch_size", 16), ctx.rng):
            optimiser.zero_grad()
            loss(network, batch).backward()
            optimiser.step()
    return fl.Update(metrics={"loss": loss(network, data).item()})


def evaluate(network: torch.nn.Module, data: Dataset, ctx: fl.Context) -> fl.Metrics:
    with torch.no_grad():
        return {"loss": loss(network, data).item()}


app = fl.App(
    name="ices",
    model=model,
    train=train,
    evaluate=evaluate,
    schema={name: fl.Field("float32") for name in (*FEATURES, "sold")},
    rounds=40,
    stop=fl.Stop("loss", patience=3, delta=0.001, maximise=False),
    options={"lr": 0.02, "local_epochs": 5, "batch_size": 16},
)


def write_table(path: Path, shop: int) -> None:
    random = np.random.default_rng(shop)
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["temperature", "rian" if shop == 3 else "rain", "weekend", "sold"])
        for _ in range(120):
            temperature, rain, weekend = random.uniform(5, 35), random.exponential(3), random.integers(2)
            sold = (40 + 10 * shop) * weekend + 6 * temperature * np.exp(-rain / 5) + random.normal(0, 5)
            table.writerow([f"{temperature:.1f}", f"{rain:.1f}", weekend, f"{max(sold, 0):.0f}"])


if __name__ == "__main__":
    paths = [Path(f"shop-{shop}.csv") for shop in range(5)]
    for shop, path in enumerate(paths):
        if not path.exists():
            write_table(path, shop)
    app.run(data=[fl.Binding(kind="csv", path=str(path)) for path in paths])
