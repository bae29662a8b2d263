"""What a person means by the name of an application or a model.

Names belong to owners, and anybody may give any name.  So a plain name means what the *trusted* owner calls so: the one
whose code this node's operator lets run here.  ``OWNER/NAME``, with the first digits of the owner's key, means that
owner's; without them a stranger's application is never taken for another.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import TypeVar

from protocol.errors import UsageError

from .service import OVER, AppInfo, ModelInfo

MIN_OWNER = 8
"""Hex digits of a key that name an owner at least."""

T = TypeVar("T", AppInfo, ModelInfo)


def pick(apps: list[AppInfo], reference: str) -> AppInfo:
    """The application of that name, or whose id (hex) contains ``reference``; of several, the one that is not over.

    Raises UsageError.
    """
    owner, name = _split(reference)
    found = _of_trusted([app for app in apps if app.name == name], owner, name, "an application")
    found = found or [app for app in apps if reference in app.id]
    if len(found) > 1:
        found = [app for app in found if app.status not in OVER] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} applications are called {reference}", "use the id that `mycelia ls` shows")
    raise UsageError(f"this node knows no application {reference}", "see `mycelia ls`")


def find_model(models: list[ModelInfo], reference: str) -> ModelInfo:
    """The model that ``[OWNER/]NAME`` (its newest version) or ``[OWNER/]NAME@VERSION`` means; instead of the name, the
    id of the run may stand, at least eight digits of it.  Raises UsageError."""
    whole, _, version = reference.partition("@")
    owner, name = _split(whole)
    named = [model for model in models if model.name == name]
    if not named and len(name) >= MIN_OWNER:
        named = [model for model in models if name in model.app]
    versions = _of_trusted(named, owner, name, "a model")
    if not versions:
        known = ", ".join(sorted({model.name for model in models if model.trusted})[:8])
        raise UsageError(f"this node has no model called {name}", f"it has: {known}" if known else "see `mycelia ls`")
    if not version:
        return max(versions, key=lambda model: (model.version, model.created))
    found = [model for model in versions if str(model.version) == version]
    if len({model.blob for model in found}) > 1:
        runs = " or ".join(f"{model.app[4:12]}@{version}" for model in found)
        raise UsageError(f"{len(found)} runs have made version {version} of {name}", f"name the run: {runs}")
    if found:
        return found[-1]
    held = ", ".join(str(number) for number in sorted({model.version for model in versions})[-8:])
    raise UsageError(f"this node knows no version {version} of {name}", f"it knows: {held}")


def may_mean(app: AppInfo, reference: str) -> bool:
    """Could a model that is called so be one of ``app``?"""
    owner, name = _split(reference.partition("@")[0])
    return app.name == name and (app.owner.startswith(owner) if owner else app.trusted)


def _split(reference: str) -> tuple[str, str]:
    """``OWNER/NAME`` → (owner, name); a name may itself hold a slash."""
    owner, slash, name = reference.partition("/")
    if slash and len(owner) >= MIN_OWNER and set(owner) <= set(string.hexdigits):
        return owner.lower(), name
    return "", reference


def _of_trusted(found: Sequence[T], owner: str, name: str, what: str) -> list[T]:
    """Those of ``owner``, or, when none is named, of the one trusted owner.  Raises UsageError."""
    if owner:
        return [one for one in found if one.owner.startswith(owner)]
    trusted = [one for one in found if one.trusted]
    if found and not trusted:
        raise UsageError(
            f"what is called {name} here is {what} of an owner who is not trusted here",
            f"name the owner: {found[0].owner[:MIN_OWNER]}/{name}",
        )
    owners = sorted({one.owner for one in trusted})
    if len(owners) > 1:
        choices = " or ".join(f"{key[:MIN_OWNER]}/{name}" for key in owners[:4])
        raise UsageError(f"{len(owners)} owners have {what} called {name}", f"name the owner: {choices}")
    return trusted
