"""How a state directory becomes a member of a fabric: by founding it, or with a token."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from ..contacts import save_contacts
from ..identity import enrol
from ..identity.invite import Invitation, decode_invitation
from ..identity.membership import Membership, found, node_key, require_newcomer
from ..statedir import StateDir
from . import owner, starter
from .command import Session


class Entered(msgspec.Struct, frozen=True):
    """Answer of ``init`` and ``join``.  Ids are hex."""

    fabric: str
    fabric_id: str
    node: str
    state_dir: str
    config: str


def found_fabric(session: Session) -> Entered:
    """Make a fabric with this node as first member and issuer.  Raises UsageError, ConfigError, StorageError."""
    with StateDir.create(session.state_dir).locked() as state:
        require_newcomer(state)
        config = starter.write(session)
        membership = found(state, session.args.name, session.args.zone, int(time.time()))
        owner.remember(membership.document.fingerprint, state.owner_key)
    return _entered(session, membership, config)


def join_fabric(session: Session, token: str) -> Entered:
    """Get this node endorsed by the issuer that ``token`` names.

    Raises what ``enrol.join`` raises, and StorageError.
    """
    invitation = decode_invitation(token)
    with StateDir.create(session.state_dir).locked() as state:
        require_newcomer(state)
        config = starter.write(session)
        session.out.progress(f"asking {', '.join(invitation.issuer.addresses)} ...")
        membership = asyncio.run(_enter(state, invitation))
    return _entered(session, membership, config)


async def _enter(state: StateDir, invitation: Invitation) -> Membership:
    key, now = node_key(state), int(time.time())
    joined = await enrol.join(invitation, key, now)
    save_contacts(state, joined.seeds)
    return Membership.enter(state, key, joined.endorsement, joined.document, now)


def _entered(session: Session, membership: Membership, config: Path) -> Entered:
    return Entered(
        fabric=membership.document.name,
        fabric_id=membership.document.fingerprint.hex(),
        node=membership.node.hex(),
        state_dir=str(session.state_dir),
        config=str(config),
    )
