"""The reference names every key and is the committed one."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fl
from node import sdk_reference
from node.config import SECTIONS
from node.config_reference import field_docs, markdown, toml_value

REFERENCE = Path(__file__).parents[2] / "docs" / "reference-config.md"


@pytest.mark.parametrize("section", list(SECTIONS))
def test_every_key_is_documented(section: str) -> None:
    docs = field_docs(SECTIONS[section])
    for key in dataclasses.fields(SECTIONS[section]):
        assert docs[key.name].endswith("."), f"{section}.{key.name}"


def test_the_committed_reference_is_the_generated_one() -> None:
    assert REFERENCE.read_text() == markdown(), "run: mycelia config reference > docs/reference-config.md"


@given(st.one_of(st.booleans(), st.integers(), st.lists(st.text("ab\"\\'é[]", max_size=9), max_size=3)))
def test_values_are_written_as_toml_reads_them(value: object) -> None:
    assert tomllib.loads(f"v = {toml_value(value)}")["v"] == value


def test_the_committed_reference_of_the_sdk_is_the_generated_one() -> None:
    committed = REFERENCE.with_name("reference-sdk.md").read_text()
    assert committed == sdk_reference.markdown(), "run: python -m node.sdk_reference > docs/reference-sdk.md"


def test_every_field_of_the_sdk_is_explained() -> None:
    for cls in (fl.App, fl.Context, fl.Update):
        fields = {field.name for field in dataclasses.fields(cls) if not field.name.startswith("_")}
        assert fields - set(field_docs(cls)) <= {"seed"}
