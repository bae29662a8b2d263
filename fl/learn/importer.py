"""Imports a bundle from memory: no file is written, and nothing of the working directory can take its place."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

from fl import sdk
from fl.bundle import Bundle

PREFIX = "<bundle>/"


class BundleImporter(MetaPathFinder, InspectLoader):
    """Finds and loads the modules of one bundle, by their top-level names.

    ``get_source`` serves tracebacks, which so show the lines of user code.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._modules = bundle.modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._modules:
            return None
        spec = ModuleSpec(fullname, self, origin=self.get_filename(fullname))
        spec.has_location = True  # so that ``__file__`` is there; nothing lies there that could be opened
        return spec

    def get_filename(self, fullname: str) -> str:
        return f"{PREFIX}{fullname}.py"

    def get_source(self, fullname: str) -> str:
        return self._modules[fullname]

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._modules[fullname], self.get_filename(fullname), "exec", dont_inherit=True)


def load(bundle: Bundle) -> sdk.App:
    """Run the bundle's entry module and return its application.  For a worker process, once.

    Raises UsageError when it defines none; whatever user code raises propagates.
    """
    sys.meta_path.insert(0, BundleImporter(bundle))
    for name in bundle.modules:  # a module of that name that happens to be loaded is not the bundle's
        sys.modules.pop(name, None)
    module = importlib.import_module(bundle.entry)
    return sdk.find(vars(module), f"{bundle.entry}.py")
