"""Whether this node works for an application: its operator's decision, and what the program above found out."""

from __future__ import annotations

from protocol.ids import AppId, blob_id

from . import validation
from .spec import AppSpec


class Willingness:
    """What the operator offers, whom the operator trusts, and what could only fail."""

    __slots__ = ("_approved", "_names", "_owners", "_refused", "_works")

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()
        self._works = True
        self._owners: frozenset[bytes] = frozenset()
        self._approved: frozenset[bytes] = frozenset()
        self._refused: dict[AppId, str] = {}

    def bind(self, names: frozenset[str], works: bool) -> None:
        """Data are offered under ``names``; workers run at all if ``works``."""
        self._names, self._works = names, works

    def trust(self, owners: frozenset[bytes], approved: frozenset[bytes]) -> None:
        """Owners by public key, and bundles by hash."""
        self._owners, self._approved = owners, approved

    def refuse(self, app: AppId, why: str) -> None:
        """Do not work for it, whatever is bound and trusted."""
        self._refused[app] = why

    def forget(self, app: AppId) -> None:
        self._refused.pop(app, None)

    def offers(self, spec: AppSpec) -> bool:
        """Are there data of the name that it asks for?"""
        return spec.data in self._names

    def objection(self, spec: AppSpec) -> str:
        """Why this node does not work for it, though it offers the data; empty when it does."""
        if spec.id in self._refused:
            return self._refused[spec.id]
        if not self._works:
            return "this node does not run workers"
        return validation.objection(spec) if self._trusted(spec) else "its owner is not trusted here"

    def _trusted(self, spec: AppSpec) -> bool:
        code = spec.bundle.blob or (blob_id(spec.bundle.inline) if spec.bundle.size else b"")
        return spec.owner in self._owners or (bool(code) and code in self._approved)
