"""Signing what concerns an application and handing it to the daemon."""

from __future__ import annotations

import asyncio
import secrets
import time

import msgspec

from dht.messages import Record
from dht.records import Kind, sign_record
from fl import spec as specs
from fl.spec import AppSpec

from ..identity.keys import Key
from ..names import pick
from ..service import OVER, AppInfo, DaemonService
from . import owner
from .command import Session

VOTERS = 5
"""Daemons that guard the head of a new application: two of them may die (DESIGN section 7)."""
LIFE_S = 90 * 86400
"""Seconds for which a descriptor is spread: longer than a run takes, less than the ring lets a record live."""


async def submit(daemon: DaemonService, key: Key, prepared: AppSpec) -> AppInfo:
    """Sign what the daemon has prepared, and start it.  Raises what the daemon raises."""
    base = versions_before(await daemon.applications(), key.public_key, prepared)
    owned = msgspec.structs.replace(prepared, owner=key.public_key, salt=secrets.token_bytes(16), base=base)
    voters = await daemon.voters_for(owned.id, VOTERS)
    spec = msgspec.structs.replace(owned, voters=tuple(voters))
    return await daemon.submit(_record(key, Kind.APP, spec.id, specs.encode(spec)))


def versions_before(apps: list[AppInfo], owner: bytes, prepared: AppSpec) -> int:
    """Versions that the owner's earlier runs of this name have made, as far as this node and the model that is
    continued from tell: the next run counts on, so that NAME@VERSION means one model."""
    own = [app for app in apps if app.name == prepared.name and app.owner == owner.hex()]
    name, _, version = prepared.parent_model.rpartition("@")
    continued = int(version) if name == prepared.name and version.isdecimal() else 0
    return max([continued, *(app.base + (app.rounds if app.status not in OVER else app.round) for app in own)])


def stop(session: Session, reference: str) -> AppInfo:
    """End an application by its owner's order.  Raises UsageError, and what the daemon raises."""

    async def ordered(daemon: DaemonService) -> AppInfo:
        app = pick(await daemon.applications(), reference)
        return await end(daemon, owner.find(session), app.id)

    return asyncio.run(ordered(session.daemon()))


async def end(daemon: DaemonService, key: Key, app: str) -> AppInfo:
    """Sign and hand over the order to stop the application of that id (hex).  Raises what the daemon raises."""
    return await daemon.stop(_record(key, Kind.STOP, bytes.fromhex(app), b""))


def _record(key: Key, kind: Kind, subject: bytes, body: bytes) -> Record:
    now = int(time.time())
    return sign_record(key, kind, subject, now, now + LIFE_S, body)
