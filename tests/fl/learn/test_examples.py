"""The examples do what their first lines say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import fl
from fl import bundle, metrics
from fl.data import loaders
from fl.learn.inline import InlineRunner, Job

EXAMPLES = Path(fl.__file__).parents[1] / "examples"


def imported(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_travel_as_bundles() -> None:
    for name in ("digits", "own_data"):
        packed = bundle.decode(bundle.pack(EXAMPLES / f"{name}.py"))
        assert "torch" in packed.requires
        assert packed.missing() == []


def test_a_shop_learns_from_its_own_table_and_the_misspelt_one_is_refused(tmp_path: Path) -> None:
    own_data = imported("own_data")
    bindings = []
    for shop in (0, 3):
        path = tmp_path / f"shop-{shop}.csv"
        own_data.write_table(path, shop)
        bindings.append(fl.Binding(kind="csv", path=str(path)))
    app: fl.App = own_data.app
    assert loaders.mismatch(bindings[0], app.schema, "s0") == ""
    assert loaders.mismatch(bindings[1], app.schema, "s3").startswith("node s3: column 'rain' is not in")
    runner = InlineRunner(app, loaders.load(bindings[0], app.schema))
    job = Job(1, 1, app.rounds, dict(app.options), evaluate=True)
    initial = runner.initial(app.options, app.seed)
    _, weight, sums = runner.train(initial, job)
    assert weight == 96
    assert metrics.means(sums)["train_loss"] < metrics.means(sums)["loss"] / 5
