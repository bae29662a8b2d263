"""What a running daemon offers to the command line, and to any other program on the same machine.

:class:`DaemonService` is the one definition of the control API: ``node.control_wire`` derives the wire format from its
signatures, ``node.control`` serves it on a unix socket and hands the caller an object that *is* one, from afar.

Identifiers are lower-case hex here, because what these types describe ends up in tables and JSON; what must be
signed or verified (records, contacts) keeps its own type.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal, Protocol

import msgspec

from dht.messages import Record
from fl.spec import MAX_BUNDLE, AppSpec
from protocol.messages import Contact, Digest, Id

CHUNK = 1 << 20
"""Bytes of an artifact that travel in one piece between the command and the daemon."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Bundle = Annotated[bytes, msgspec.Meta(max_length=MAX_BUNDLE)]
Setting = Annotated[str, msgspec.Meta(max_length=4096)]


OVER = ("finished", "stopped")
"""Statuses after which an application does nothing more."""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One node, as it sees itself."""

    id: str
    """Ring id, hex."""
    name: str
    fabric: str
    """Name of the fabric."""
    fabric_id: str
    """Fingerprint of the fabric's certificate authority, hex."""
    version: str
    pid: int
    zone: int
    state: Literal["joining", "ready", "leaving", "revoked"]
    leaf_member: bool
    """Dials out only: owns no keys and roots no trees."""
    issuer: bool
    """May invite others and certify them."""
    addresses: list[str]
    """Where peers are told to dial."""
    started: float
    """Unix seconds."""
    certificate_expires: float
    """Unix seconds."""
    links: int
    """Links that stand now."""
    applications: int
    penalties: int
    """Violations by peers, counted since the start."""
    clock_error_s: int = 0
    """Seconds by which this machine's clock is ahead of its neighbours'; 0 while it is right to a few minutes."""
    sandbox: str = ""
    """What keeps code of applications in, on this kernel; empty on a node that does not train."""
    counters: dict[str, float] = {}
    """Counters since the start and gauges, by stable names: frames, transfers, tasks, refused writes, loop lag."""


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Another node, as this one sees it."""

    id: str
    name: str = ""
    """What it calls itself; empty when it has not said."""
    addresses: list[str]
    linked: bool
    rtt_ms: float | None = None
    penalties: int = 0


class TroubleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Why a node cannot contribute to an application."""

    node: str
    """Ring id, hex."""
    name: str
    """Its label."""
    kind: Literal["failed", "refused", "step", "crowded"]
    """Its work failed; it does not work for it; or, of the root, the next model could not be made."""
    round: int
    sentence: str
    trace: str = ""
    """The end of the traceback, when the application's own code raised."""


class AppInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An application, as far as this node knows."""

    id: str
    name: str
    owner: str
    """Public key, hex."""
    trusted: bool = True
    """Whether this node's operator lets that owner's code run here."""
    status: str
    """``waiting``, ``running``, ``failing``, ``stalled``, ``finished``, ``stopped`` or ``refused``."""
    detail: str = ""
    """Why, when the status needs a reason."""
    refused: str = ""
    """Why this node does not work for it, when it has data of its name."""
    role: str = "none"
    """This node's part in the tree: ``root``, ``aggregator``, ``worker``, ``observer`` or ``none``."""
    round: int = 0
    """The last round of training that is known to be committed."""
    rounds: int
    base: int = 0
    """Versions of the model before this run: round r makes version base + r."""
    complete: bool = False
    """Whether this node has the last round of a run that has finished."""
    epoch: int = 0
    parent: str = ""
    children: list[str] = []
    voters: list[str] = []
    root: str = ""
    code: str = ""
    """Digest of the bundle, hex: what `mycelia trust add` approves. Empty when there is none."""
    troubles: list[TroubleInfo] = []
    """Who cannot contribute, as the root told everybody; of many, some."""


class RoundEvent(msgspec.Struct, frozen=True, kw_only=True, tag="round"):
    """A round was committed."""

    app: str
    round: int
    epoch: int
    contributors: list[str]
    weight: float
    metrics: dict[str, float]
    """Means over the contributors' samples.  Those of training begin with ``train_``; the others are of the model that
    the round started from."""
    closing: bool
    """Not a round of training but the last measurement: the metrics are those of the finished model."""
    model: str
    """Digest of the model, hex."""
    at: float
    """Unix seconds."""


class StatusEvent(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """The application's status changed; ``finished`` and ``stopped`` are the last of it."""

    app: str
    status: str
    detail: str = ""


class RoleEvent(msgspec.Struct, frozen=True, kw_only=True, tag="role"):
    """This node's place in the tree changed."""

    app: str
    role: str
    parent: str
    depth: int
    children: list[str]


class TroubleEvent(msgspec.Struct, frozen=True, kw_only=True, tag="trouble"):
    """A node cannot contribute."""

    app: str
    trouble: TroubleInfo


class LaggedEvent(msgspec.Struct, frozen=True, kw_only=True, tag="lagged"):
    """The follower was too slow and ``missed`` events were dropped; the daemon waits for nobody."""

    app: str
    missed: int


AppEvent = RoundEvent | StatusEvent | RoleEvent | TroubleEvent | LaggedEvent


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """What lets a node in, once."""

    token: str
    expires: float
    """Unix seconds."""


class TrustedKey(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    """Public key of an owner, or hash of approved code; hex."""
    why: Literal["fabric", "config", "added"]
    """The fabric's owner, listed in the configuration, or added at run time."""


class TrustInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Whose code this node runs."""

    keys: list[TrustedKey]
    approve: Literal["owner", "hash"] = "owner"
    named: list[str] = []
    """Owners, hex, who may have applications in the fabric beside its own owner: its document says so for all nodes.
    Whether their code runs here is what ``keys`` says."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model that this node knows, and where it came from."""

    name: str
    version: int
    """Counts through all runs that an owner gives the name: the run's ``base`` and the round that made it."""
    app: str
    owner: str = ""
    """Public key, hex.  A name means nothing without it."""
    trusted: bool = True
    """Whether this node's operator lets that owner's code run here."""
    held: bool = True
    """Whether its content is on this node."""
    final: bool = False
    """What its run has ended with."""
    blob: str
    """Digest of the content, hex."""
    size: int
    """Bytes."""
    round: int = 0
    """Of its run, the one that made it."""
    rounds: int
    contributors: int
    weight: float = 0.0
    metrics: dict[str, float] = {}
    """Means: of the training that made it (``train_``), and as it was measured afterwards."""
    code: str = ""
    """Digest of the application's bundle, hex."""
    parent: str = ""
    """NAME@VERSION that the run continued from."""
    created: float = 0.0
    """Unix seconds."""


class DaemonService(Protocol):
    """The control API.  Methods raise MyceliaError; an argument that names an application takes its name or its id."""

    async def status(self) -> NodeStatus: ...

    async def peers(self) -> list[PeerInfo]: ...

    async def applications(self) -> list[AppInfo]: ...

    async def prepare(self, bundle: Bundle, settings: list[Setting], continue_from: str) -> AppSpec:
        """The descriptor of the application in ``bundle``, after ``key=value`` settings.

        The code runs in a worker process of this node, which also makes the initial model; or that is the model
        ``continue_from``, if given, as NAME or NAME@VERSION.  Owner, salt and voters are the caller's to add.
        """
        ...

    async def voters_for(self, app: Id, count: int) -> list[Contact]:
        """The ``count`` daemons closest to ``app``: the descriptor must name them before it is signed."""
        ...

    async def submit(self, descriptor: Record) -> AppInfo:
        """Start the application whose signed descriptor this is."""
        ...

    def follow(self, app: Name, after: int = 0) -> AsyncIterator[AppEvent]:
        """How ``app`` stands (role, the known rounds above ``after``, status), then what happens until it is over."""
        ...

    async def stop(self, order: Record) -> AppInfo:
        """End the application that is the subject of its owner's signed order, at the round that it has committed."""
        ...

    async def invite(self, lifetime_s: int) -> Invitation: ...

    async def revoke(self, node: Name) -> str:
        """Expel a node, named by its id or a unique start of it; answers the full id."""
        ...

    async def trusted(self) -> TrustInfo: ...

    async def trust(self, key: Name) -> TrustInfo:
        """Trust an owner by public key, or approve a bundle by hash: both are 64 hex digits."""
        ...

    async def distrust(self, key: Name) -> TrustInfo: ...

    async def change_document(self, document: Record) -> TrustInfo:
        """Spread a new version of the fabric's document, which its owner signed."""
        ...

    async def models(self) -> list[ModelInfo]: ...

    async def model(self, reference: Name) -> ModelInfo:
        """What ``[OWNER/]NAME[@VERSION]`` means (``node.names``).  The last version of a run that has finished, unless
        another is asked for; when this node missed it, who guards it is asked first.

        Raises TransportError when the run ended with a version that nobody who could be asked has.
        """
        ...

    def download(self, blob: Digest) -> AsyncIterator[bytes]:
        """The content of an artifact, fetched from the fabric when it is not here."""
        ...

    async def leave(self) -> None:
        """Say goodbye to the fabric, give up the membership, and end the daemon."""
        ...

    async def shutdown(self) -> None:
        """End the daemon; it stays a member and may come back."""
        ...
