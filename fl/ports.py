"""What the parts of an application ask of the node that they are in.

A worker, a coordinator, and the keepers of records, ends and troubles know these ports, and neither each other nor
:class:`fl.applications.Applications`, which holds all of them and is what stands behind every port.  Each names the
little that one part needs, so what a part can touch is read here, and a test can play it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from protocol.effects import Outbox
from protocol.ids import AppId, NodeId
from protocol.messages import Contact
from pubsub.heads import Head
from pubsub.holdings import Holdings
from pubsub.messages import Partial, WaveId, WaveOpen
from pubsub.ports import Gathering, HandedIn, Overlay
from pubsub.tree import Tree

from .aggregator import Combined
from .bests import Bests
from .config import RoundConfig
from .jobs import Jobs
from .spec import AppSpec


class Trees(Protocol):
    """The forest, as far as the parts look into it."""

    @property
    def ring(self) -> Overlay: ...
    @property
    def holdings(self) -> Holdings: ...
    def sources(self, app: AppId, *first: NodeId) -> tuple[NodeId, ...]: ...
    def contribute(self, app: AppId, wave: WaveId, partial: Partial | None, now: int) -> bool: ...
    def proven(self, head: Head) -> bool | None: ...
    def heard_of(self, head: Head, now: int) -> bool: ...
    def drop(self, app: AppId) -> bool: ...
    def count(self, name: str) -> None: ...


class Host(Protocol):
    """Common to all parts: which node this is, what it says, and its trees."""

    @property
    def me(self) -> Contact: ...
    @property
    def out(self) -> Outbox: ...
    @property
    def forest(self) -> Trees: ...


class WorkerHost(Host, Protocol):
    """For a worker."""

    @property
    def jobs(self) -> Jobs: ...
    def complain(self, app_id: AppId, round_: int, error: str, now: int) -> None:
        """The local work failed: ``error`` is a sentence, followed by lines of a traceback when user code raised."""
        ...


class CoordinatorHost(Host, Protocol):
    """For a coordinator, while it reigns."""

    @property
    def config(self) -> RoundConfig: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def bests(self) -> Bests: ...
    def reigns(self, app_id: AppId, coordinator: object) -> bool:
        """Is ``coordinator`` still the one that speaks for the application here?"""
        ...

    def open_wave(self, message: WaveOpen, gathering: Gathering | None, now: int) -> None: ...
    def propose(self, head: Head, now: int) -> None: ...
    def left_out(self, parts: Sequence[HandedIn], result: Combined) -> int:
        """Blame those who handed in what nobody may; how many members stand behind all that was left out."""
        ...

    def status(self, app_id: AppId, status: str, detail: str, now: int) -> None: ...
    def described(self, app_id: AppId, sums: dict[str, float], workers: int, now: int) -> None: ...
    def stumbled(self, app_id: AppId, round_: int, error: str, now: int) -> None:
        """The step to the next model could not be taken."""
        ...


class Standing(Protocol):
    """One application, as records and troubles see it."""

    @property
    def spec(self) -> AppSpec: ...
    @property
    def head(self) -> Head | None: ...
    @property
    def rooted(self) -> bool:
        """This node is its root."""
        ...


class RecordsHost(Protocol):
    """For what records say of applications."""

    @property
    def apps(self) -> Mapping[AppId, Standing]: ...
    @property
    def forest(self) -> Trees: ...
    def outcome(self, app_id: AppId) -> str | None:
        """How the application ended, ``finished`` or ``stopped``; None while it lives or was never heard of."""
        ...

    def learn(self, spec: AppSpec, now: int) -> bool:
        """There is such an application; False when there is no room for it."""
        ...

    def consider(self, app_id: AppId, now: int) -> None:
        """Take part, as far as this node is willing."""
        ...

    def concluded(self, head: Head, now: int) -> None:
        """A record has the last head."""
        ...

    def end(self, app_id: AppId, status: str, detail: str, now: int) -> None: ...
    def forgotten(self, app_id: AppId) -> None: ...


class TroublesHost(Protocol):
    """For troubles: where in the tree this node stands, and what is said there."""

    @property
    def apps(self) -> Mapping[AppId, Standing]: ...
    @property
    def forest(self) -> Trees: ...
    def tree(self, app_id: AppId) -> Tree | None: ...
    def live_root(self, app_id: AppId) -> Contact | None:
        """Whom this node, which is not in the tree, takes for the root."""
        ...

    def epoch(self, app_id: AppId) -> int:
        """In which this node stands, or stood last, for root."""
        ...

    def status(self, app_id: AppId, status: str, detail: str, now: int) -> None: ...
