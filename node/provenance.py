"""Are the packages that Python finds really ours?

Their names are common words, and another distribution may install one of them too: whichever comes first on the
import path wins, and removing one distribution can delete files of the other.  All eight packages lie in one
directory, in an installed wheel as in a working tree, so a package that lies elsewhere is not ours.  This module is
the first to run and imports none of the others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("protocol", "node", "dht", "pubsub", "fl", "nat", "crdt", "simulations")
EXIT_CODE = 3
"""That of a ConfigError, which lives in a package that may be the intruder."""


def intruder(packages: Sequence[str] = PACKAGES) -> tuple[str, str] | None:
    """The first package that is not beside this one, with where it lies instead (empty: nowhere); None when all are."""
    home = Path(__file__).resolve().parent.parent
    for name in packages:
        spec = find_spec(name)
        origin = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if origin != home / name:
            return name, str(origin or "")
    return None


def check(packages: Sequence[str] = PACKAGES) -> None:
    """Raise SystemExit with code 3, after one sentence and a remedy on standard error, when a package is foreign."""
    found = intruder(packages)
    if found is None:
        return
    name, place = found
    if place:
        owners = " and ".join(owner for owner in packages_distributions().get(name, []) if owner != "mycelia-fabric")
        blame = f"comes from {place}" + (f", installed by {owners}" if owners else "")
    else:
        blame = "is missing"
    sys.stderr.write(
        f"mycelia: the package {name!r} {blame}, not from beside {Path(__file__).resolve().parent}.\n"
        "  Install mycelia-fabric in a virtual environment of its own.\n"
    )
    raise SystemExit(EXIT_CODE)


def version() -> str:
    """Of the installed distribution; ``source`` in a working tree that was never installed."""
    try:
        return metadata.version("mycelia-fabric")
    except metadata.PackageNotFoundError:
        return "source"
