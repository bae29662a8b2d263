"""From bindings to samples, and every way in which files can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.data import loaders
from fl.data.binding import Binding, shares
from fl.spec import Field
from protocol.errors import ConfigError

SCHEMA = {"x": Field("float32", (2,)), "y": Field("int64", classes=3)}
TABLE = "a,b,label\n1,2,0\n3,4,1\n5,6,2\n7,8,1\n9,10,0\n"


def table(tmp_path: Path, text: str = TABLE, **keys: Any) -> Binding:
    path = tmp_path / "shop.csv"
    path.write_text(text, encoding="utf-8")
    return Binding(kind="csv", path=str(path), **({"target": "label"} | keys))


def archive(tmp_path: Path, **arrays: Any) -> Binding:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return Binding(kind="npz", path=str(path))


def test_digits_are_scaled_shared_and_partly_kept_from_all() -> None:
    bindings = shares("digits", 8, alpha=0.3, seed=4)
    fields = {"x": Field("float32", (64,)), "y": Field("int64", classes=10)}
    splits = [loaders.load(binding, fields) for binding in bindings]
    outside = loaders.outside(bindings[0], fields)
    assert outside["x"].dtype == np.float32
    assert (outside["x"].min(), outside["x"].max()) == (0.0, 1.0)
    assert [len(split.train) + len(split.test) for split in splits] == loaders.sizes(bindings[0])
    assert sum(loaders.sizes(bindings[0])) + len(outside) == 1797
    seen = {row.tobytes() for split in splits for part in split for row in part["x"]}
    everything = loaders.load(Binding(kind="digits", holdout=0.0)).train["x"]
    twins = {row.tobytes() for row in outside["x"]} & seen
    assert len({row.tobytes() for row in everything}) - len(seen) + len(twins) == len(
        {row.tobytes() for row in outside["x"]}
    )


def test_a_table_becomes_x_and_y(tmp_path: Path) -> None:
    split = loaders.load(table(tmp_path, holdout=0.2), SCHEMA)
    assert (len(split.train), len(split.test)) == (4, 1)
    both = np.concatenate([split.train["x"], split.test["x"]])
    assert sorted(both[:, 0].tolist()) == [1, 3, 5, 7, 9]
    assert split.train["y"].dtype == np.int64


def test_columns_are_chosen_in_order(tmp_path: Path) -> None:
    split = loaders.load(table(tmp_path, columns=("b", "a"), target="", holdout=0.0))
    assert split.train["x"][0].tolist() == [2.0, 1.0]
    assert split.train.fields == ("x",)
    assert len(split.test) == 0


def test_a_schema_may_name_columns(tmp_path: Path) -> None:
    fields = {"b": Field("float32"), "a": Field("int64")}
    split = loaders.load(table(tmp_path, "a,b,name\n1,2.5,x\n3,4,y\n", target="", holdout=0.0), fields)
    assert split.train.fields == ("b", "a")
    assert split.train["b"].tolist() == [2.5, 4.0]
    assert split.train["a"].dtype == np.int64


def test_a_byte_order_mark_blank_lines_and_quoted_cells_are_fine(tmp_path: Path) -> None:
    split = loaders.load(table(tmp_path, '\ufeff a ,b,label\n"1","2",0\n\n3,4,1\n'), SCHEMA)
    assert len(split.train) + len(split.test) == 2


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("", {}, "is empty"),
        ("a,b,label\n", {}, "has no samples"),
        ("a,b\n1,2\n", {}, "column 'label' is not in .*shop.csv, which has a, b"),
        (TABLE, {"columns": ("price",)}, "column 'price'"),
        ("a,b,label\n1,2,0\n1,n/a,0\n", {}, "line 3, column 'b': 'n/a' is not a number"),
        ("a,b,label\n1,2\n", {}, "line 2, column 'label': '' is not a number"),
        ("a,b,label\n1,2,7\n", {}, "labels 7 to 7, the application wants 0 to 2"),
        ("a,b,label\n1,2,0.5\n", {}, "'y' of .*shop.csv on node n1 is float32, the application wants int64"),
        ("a,b,label\n1,nan,0\n", {}, "'x' of .*shop.csv on node n1 has values that are not finite"),
        (
            "a,label\n1,0\n",
            {},
            r"'x' of .*shop.csv on node n1 has shape \(1,\) per sample, the application wants \(2,\)",
        ),
        ("a,b,label\n1,2,0\n", {"target": ""}, r"shape \(3,\)"),
        ('a,b,label\n1,2,"0\n', {}, "damaged or not of its kind"),
    ],
)
def test_defects_of_a_table_are_one_sentence(tmp_path: Path, text: str, keys: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaders.load(table(tmp_path, text, **keys), SCHEMA, "n1")


def test_an_archive_gives_its_arrays_by_name(tmp_path: Path) -> None:
    binding = archive(tmp_path, x=np.ones((6, 2)), y=np.arange(6) % 3, z=np.zeros(6))
    split = loaders.load(binding, SCHEMA)
    assert split.train.fields == ("x", "y")
    assert split.train["x"].dtype == np.float32
    assert loaders.mismatch(binding, SCHEMA) == ""


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    binding = archive(tmp_path, x=np.array([{"a": 1}, {}], dtype=object))
    with pytest.raises(ConfigError, match="allow_pickle"):
        loaders.load(binding)


def test_defects_of_an_archive_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "broken.npz"
    binding = Binding(kind="npz", path=str(path))
    with pytest.raises(ConfigError, match=r"cannot read .*broken\.npz: No such file"):
        loaders.load(binding)
    path.write_bytes(b"PK\x03\x04 and then nothing")
    for read in (loaders.load, loaders.peek):
        with pytest.raises(ConfigError, match="damaged or not of its kind"):
            read(binding, {})
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(ConfigError, match="single array"):
        loaders.load(binding)
    with pytest.raises(ConfigError, match="one entry per sample"):
        loaders.load(archive(tmp_path, x=np.zeros((3, 2)), y=np.zeros(4)))


def test_partitions_need_labels_and_a_part_that_exists(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="integer labels"):
        loaders.load(table(tmp_path, partition="dirichlet", parts=2, target=""))
    with pytest.raises(ConfigError, match="part 2 of 2"):
        loaders.load(table(tmp_path, partition="iid", part=2, parts=2))
    with pytest.raises(ConfigError, match="no part of it that no node has"):
        loaders.outside(table(tmp_path))


def test_a_mismatch_at_admission_names_node_and_field(tmp_path: Path) -> None:
    assert loaders.mismatch(table(tmp_path), SCHEMA, "n1") == ""
    sentence = loaders.mismatch(archive(tmp_path, x=np.zeros((3, 2))), SCHEMA, "n1")
    assert sentence == f"{tmp_path}/data.npz on node n1 lacks field 'y'; it has x"
    sentence = loaders.mismatch(table(tmp_path), {"rain": Field("float32")}, "n1")
    assert sentence == f"node n1: column 'rain' is not in {tmp_path}/shop.csv, which has a, b, label"
    sentence = loaders.mismatch(table(tmp_path, target="sold"), SCHEMA, "n1")
    assert sentence.startswith("node n1: column 'sold' is not in ")
    sentence = loaders.mismatch(archive(tmp_path, x=np.zeros((3, 2)), y=np.zeros(3)), SCHEMA, "n1")
    assert "'y'" in sentence
    assert "float64" in sentence
    assert loaders.mismatch(Binding(kind="digits"), {"x": Field("float32", (64,))}) == ""
