"""Models: what an application has learnt, by name and version, with its history."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from pathlib import Path

import msgspec

from protocol.errors import StorageError, UsageError

from ..service import DaemonService, ModelInfo
from ..statedir import writing
from .command import Command, Session
from .output import moment, size

KEPT = 2
"""Versions of each application that nodes keep."""


def _list(session: Session) -> None:
    models = session.ask(lambda daemon: daemon.models())
    if not session.args.all:
        newest = {app: [m for m in models if m.app == app][-KEPT:] for app in dict.fromkeys(m.app for m in models)}
        models = [model for versions in newest.values() for model in versions]
    rows = [
        (m.name, m.version, f"{m.round}/{m.rounds}", m.contributors, size(m.size), _place(m), moment(m.created),
         _metrics(m))
        for m in models
    ]  # fmt: skip
    header = ("model", "version", "round", "nodes", "size", "here", "made", "metrics")
    session.out.answer(models, session.out.table(header, rows, right=(1, 2, 3, 4)) if models else ["no models yet"])


def _place(model: ModelInfo) -> str:
    """Whether it is here, and what it is; whose, when that is nobody whom this node trusts."""
    words = ["yes" if model.held else "no", *(["final"] if model.final else [])]
    return ", ".join([*words, *([] if model.trusted else [f"of {model.owner[:8]}"])])


def _metrics(model: ModelInfo) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in sorted(model.metrics.items())[:3])


def _show(session: Session) -> None:
    model = session.ask(lambda daemon: daemon.model(session.args.model))
    pairs = [
        ("model", f"{model.name}@{model.version}"),
        ("made", moment(model.created)),
        ("round", f"{model.round} of {model.rounds}{', the final model' if model.final else ''}"),
        ("contributors", model.contributors),
        ("weight", model.weight),
        *((name, value) for name, value in sorted(model.metrics.items())),
        ("continues", model.parent),
        ("code", model.code),
        ("application", model.app),
        ("owner", model.owner),
        ("here", model.held),
        ("size", size(model.size)),
        ("digest", model.blob),
    ]
    session.out.answer(model, session.out.fields(pairs))


def _pull(session: Session) -> None:
    target: Path = session.args.output or Path(f"{session.args.model.replace('@', '-')}.safetensors")
    if target.exists() and not session.args.force:
        raise UsageError(f"{target} exists", "repeat with --force, or name another file with -o")

    async def pull(daemon: DaemonService) -> tuple[ModelInfo, bytes]:
        model = await daemon.model(session.args.model)
        return model, await fetch(session, daemon, model)

    model, content = asyncio.run(pull(session.daemon()))
    save(target, with_lineage(content, model))
    answer = {"file": str(target), "name": model.name, "version": model.version, "digest": model.blob}
    session.out.answer(answer, [f"wrote {model.name}@{model.version} to {target}"])
    if not model.final:
        session.out.hint(f"It is not the last of its run: round {model.round} of {model.rounds}.")
    session.out.hint(f'next: safetensors.numpy.load_file("{target}")')


async def fetch(session: Session, daemon: DaemonService, model: ModelInfo) -> bytes:
    """The content of ``model``, verified.  Raises what the daemon raises, and StorageError for a damaged one."""
    content = bytearray()
    async for chunk in daemon.download(bytes.fromhex(model.blob)):
        content += chunk
        session.out.progress(f"{size(len(content))} of {size(model.size)}")
    if hashlib.sha256(content).hexdigest() != model.blob:
        raise StorageError(f"{model.name}@{model.version} is damaged on this node", "pull it from another node")
    return bytes(content)


def with_lineage(content: bytes, model: ModelInfo) -> bytes:
    """``content`` (safetensors) with where it comes from as metadata, strings all of them, as the format wants.

    Raises CodecError when ``content`` is no model.
    """
    from fl import codec  # noqa: PLC0415 - numpy takes 0.2 s that the other commands need not pay

    lineage = {key: str(value) for key, value in msgspec.to_builtins(model).items() if key not in ("metrics", "size")}
    lineage["metrics"] = json.dumps(model.metrics, sort_keys=True)
    return codec.encode(codec.decode(content), lineage)


def save(target: Path, content: bytes) -> None:
    """Write ``content`` to ``target``, whole or not at all.  Raises StorageError."""
    temporary = target.with_name(f".{target.name}.tmp")
    with writing(target):
        temporary.write_bytes(content)
        temporary.replace(target)


_MODEL = "NAME (newest version) or NAME@VERSION"


def _pull_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="file to write (NAME-VERSION.safetensors)")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")


MODELS = Command(
    name="models",
    summary="List, inspect and export the models that this node holds.",
    text=(
        "A model has the name of its application and a version, the round that made it. Nodes keep the last two "
        "versions of each application."
    ),
    examples=(("models ls", "list them"), ("models pull digits -o digits.safetensors", "export the newest")),
    then="mycelia run FILE --continue-from NAME@VERSION",
    children=(
        Command(
            name="ls",
            summary="List the models.",
            text="The last two versions of each application are kept; older ones only until their room is needed.",
            configure=lambda parser: parser.add_argument("--all", action="store_true", help="the older ones too"),
            run=_list,
            examples=(("models ls", "the newest two of each application"), ("models ls --all", "all that are here")),
        ),
        Command(
            name="show",
            summary="Show where a model comes from: rounds, contributors, code, metrics.",
            configure=lambda parser: parser.add_argument("model", metavar="MODEL", help=_MODEL),
            run=_show,
            examples=(("models show digits@20", "one version"),),
        ),
        Command(
            name="pull",
            summary="Write a model to a safetensors file, with its history as metadata.",
            text="The file can be read by the safetensors library in any language, and passed to --continue-from.",
            configure=_pull_arguments,
            run=_pull,
            examples=(("models pull digits@20 -o digits.safetensors", "one version"),),
        ),
    ),
)
