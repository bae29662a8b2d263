"""The configuration, as it is and as it could be."""

from __future__ import annotations

import dataclasses

from .. import config_reference
from ..config import SECTIONS, NodeConfig
from .command import Command, Session


def _show(session: Session) -> None:
    config = session.config
    tables = {name: getattr(config, name) for name in SECTIONS}
    value = {
        name: {key: dataclasses.asdict(binding) for key, binding in table.items()}
        if name == "data" else dataclasses.asdict(table)
        for name, table in tables.items()
    }  # fmt: skip
    session.out.answer({"state_dir": str(config.state_dir), "file": str(config.source or ""), **value}, _toml(config))


def _toml(config: NodeConfig) -> list[str]:
    lines = [f"# state directory: {config.state_dir}", f"# file: {config.source or 'none, all defaults'}"]
    for name in SECTIONS:
        table = getattr(config, name)
        sections = {f"data.{key}": binding for key, binding in table.items()} if name == "data" else {name: table}
        for title, section in sections.items():
            keys = dataclasses.asdict(section)
            lines += [
                "",
                f"[{title}]",
                *(f"{key} = {config_reference.toml_value(value)}" for key, value in keys.items()),
            ]
    return lines


def _reference(session: Session) -> None:
    reference = config_reference.markdown()
    session.out.answer({"markdown": reference}, [reference.rstrip("\n")])


CONFIG = Command(
    name="config",
    summary="Show the configuration, or explain every key.",
    text=(
        "The configuration is one TOML file, `config.toml` in the state directory, which you edit. It is read when the "
        "daemon starts. A key that does not exist is an error, never ignored."
    ),
    examples=(("config show", "what holds now, defaults included"), ("config reference", "every key explained")),
    then="edit the file, then mycelia stop and mycelia up",
    children=(
        Command(
            name="show",
            summary="Check the file and print what holds, defaults included.",
            run=_show,
            examples=(("config show", "as TOML"),),
        ),
        Command(
            name="reference",
            summary="Explain every key: type, default, reason.",
            run=_reference,
            examples=(("config reference | less", "read it"),),
        ),
    ),
)
