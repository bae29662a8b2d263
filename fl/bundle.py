"""The code of an application as one canonical value: sources by path, named by its SHA-256.

A bundle is MessagePack, never an archive: no links, modes or times, so the same files give the same digest on every
machine.  The daemon moves and hashes it; only a worker process imports it, straight from memory
(:mod:`fl.learn.importer`), so nothing is written anywhere.  ``requires`` is read off the import statements when the
bundle is packed, which lets a node without torch refuse in one sentence instead of failing in round 1.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from protocol import ids
from protocol.errors import CodecError, LimitError, UsageError
from protocol.wire import UNREADABLE

from .spec import MAX_BUNDLE

MAX_FILES = 64
VERSION = 1
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_OURS = frozenset({"protocol", "node", "dht", "pubsub", "fl", "nat", "crdt", "simulations"})

ModuleName = Annotated[str, msgspec.Meta(max_length=64)]


class Bundle(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """Modules of one application, all at top level, the entry among them."""

    version: int
    entry: ModuleName
    """The module that holds the :class:`fl.App`."""
    modules: Annotated[dict[ModuleName, str], msgspec.Meta(max_length=MAX_FILES)]
    """Module name → source text, names in sorted order."""
    requires: Annotated[tuple[ModuleName, ...], msgspec.Meta(max_length=64)] = ()
    """Top-level packages that the sources import and the standard library does not have, sorted."""

    def missing(self) -> list[str]:
        """Those of ``requires`` that this machine lacks.  Looks, and imports nothing."""
        return [name for name in self.requires if name not in sys.modules and importlib.util.find_spec(name) is None]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Bundle)


def encode(bundle: Bundle) -> bytes:
    return _encoder.encode(bundle)


def decode(content: bytes | memoryview) -> Bundle:
    """Raises CodecError when ``content`` is not a bundle in canonical form, LimitError when it is too large."""
    if len(content) > MAX_BUNDLE:
        raise LimitError(f"bundle of {len(content)} bytes, the limit is {MAX_BUNDLE}")
    try:
        bundle = _decoder.decode(content)
    except UNREADABLE as error:
        raise CodecError(f"not a bundle: {error}") from None
    if bundle.version != VERSION:
        raise CodecError(f"bundle version {bundle.version}, we read {VERSION}")
    for name in (*bundle.modules, *bundle.requires):
        if not _MODULE.fullmatch(name):
            raise CodecError(f"bundle holds {name!r}, which is not the name of a module")
    if bundle.entry not in bundle.modules:
        raise CodecError(f"bundle lacks its entry module {bundle.entry!r}")
    if list(bundle.modules) != sorted(bundle.modules) or encode(bundle) != content:
        raise CodecError("bundle is not in canonical form")
    return bundle


def digest(content: bytes) -> ids.BlobId:
    """What an operator approves: SHA-256 of the bundle's bytes."""
    return ids.blob_id(content)


def pack(entry: Path, modules: Sequence[Path] = ()) -> bytes:
    """The bundle of the file ``entry`` and further ``modules`` that it imports by name.

    Raises UsageError, naming the file, for what cannot be read, compiled, or imported by that name.
    """
    sources: dict[str, str] = {}
    for path in (entry, *modules):
        name = _module_name(path, taken=sources)
        sources[name] = _source(path)
    requires = sorted({name for source in sources.values() for name in _imports(source)} - set(sources) - _OURS)
    bundle = Bundle(VERSION, entry.stem, dict(sorted(sources.items())), tuple(requires))
    content = encode(bundle)
    if len(content) > MAX_BUNDLE:
        raise UsageError(
            f"the code takes {len(content)} bytes, the limit is {MAX_BUNDLE}", "keep data out of source files"
        )
    return content


def siblings(entry: Path) -> list[Path]:
    """The files beside ``entry`` that it imports by name, directly or through one another, in order of discovery.

    Found by reading, without running anything; what is imported dynamically has to be named (``App.modules``).
    """
    found: dict[Path, None] = {}
    unread = [entry]
    while unread:
        for name in sorted(_imports(_source(unread.pop()))):
            path = entry.parent / f"{name}.py"
            if path != entry and path not in found and path.is_file():
                found[path] = None
                unread.append(path)
    return list(found)


def _module_name(path: Path, taken: dict[str, str]) -> str:
    if path.suffix != ".py" or not _MODULE.fullmatch(path.stem):
        raise UsageError(f"{path} cannot be imported", "name it like a module: letters, digits and _, ending in .py")
    if path.stem in sys.stdlib_module_names or path.stem in _OURS:
        raise UsageError(f"{path} has the name of a module that Python or Mycelia already has", "rename the file")
    if path.stem in taken:
        raise UsageError(f"two files of the application are called {path.name}", "rename one")
    if len(taken) == MAX_FILES:
        raise UsageError(f"an application may have {MAX_FILES} files", "merge some")
    return path.stem


def _source(path: Path) -> str:
    try:
        source = path.read_text(encoding="utf-8")
        compile(source, str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from None
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}", "fix that line") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not Python source: {error}", "save it as UTF-8 text") from None
    return source


def _imports(source: str) -> set[str]:
    """Top-level packages that ``source`` imports anywhere, without the standard library's."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names
