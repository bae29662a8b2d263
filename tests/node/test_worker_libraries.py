"""What training needs of the system is on the list: the libraries that people use, in a real worker."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from fl import bundle
from node.workers import WorkerPool
from tests.node.pools import task, with_pool

pytestmark = [
    pytest.mark.net, pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux"),
]  # fmt: skip

TORCH = """
import tempfile
import numpy as np
import torch
import fl
from torch.utils.data import DataLoader, TensorDataset

def model():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)
    )

def train(model, data, ctx):
    torch.set_num_threads(3)
    x, y = torch.tensor(data["x"]).reshape(-1, 1, 8, 8), torch.tensor(data["y"])
    for make in (torch.optim.Adam, torch.optim.SGD):
        optimiser = make(model.parameters(), lr=0.01)
        for images, labels in DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimiser.step()
    large = torch.randn(700, 700)
    large @ large
    torch.linalg.svd(large[:100, :100])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
    torch.nn.LSTM(8, 16)(torch.randn(5, 3, 8))
    torch.nn.TransformerEncoderLayer(16, 2)(torch.randn(5, 3, 16))
    with tempfile.NamedTemporaryFile() as file:
        torch.save(model.state_dict(), file.name)
        torch.load(file.name)
        mapped = np.memmap(file.name, dtype="f4", mode="w+", shape=(100,))
        mapped[:] = 1
        mapped.flush()
    return fl.Update(weight=len(data))

app = fl.App(name="t", model=model, train=train)
"""

SKLEARN = """
import sqlite3, tempfile
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import fl
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

def model():
    return SGDClassifier().partial_fit(np.zeros((1, 64), np.float32), [0], classes=list(range(10)))

def train(model, data, ctx):
    x, y = data["x"], data["y"]
    model.partial_fit(x, y)
    MLPClassifier(max_iter=200).partial_fit(x, y, classes=list(range(10)))
    RandomForestClassifier(10, n_jobs=2).fit(x, y)
    HistGradientBoostingClassifier(max_iter=3, early_stopping=False).fit(x, y)
    KMeans(3, n_init=1).fit(x)
    np.linalg.svd(np.random.randn(200, 200))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(abs, range(10)))
    with tempfile.TemporaryDirectory() as directory:
        base = sqlite3.connect(directory + "/base")
        base.execute("create table t(a)")
        base.commit()
        base.close()
    return fl.Update(weight=len(data))

app = fl.App(name="s", model=model, train=train)
"""


@pytest.mark.parametrize("code", [pytest.param(TORCH, id="torch"), pytest.param(SKLEARN, id="sklearn")])
def test_honest_training_meets_no_lock(code: str, tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text(code)
    packed = bundle.pack(path)

    async def body(pool: WorkerPool) -> None:
        model = await pool.initial(packed, {}, 0)
        update, weight, _ = await asyncio.wait_for(pool.train(task(""), model, packed), 120)
        assert len(update) == len(model)
        assert weight > 0

    with_pool(body, "", tmp_path, threads=2)
