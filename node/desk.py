"""The issuer's desk: it writes invitations and admits those who come with one."""

from __future__ import annotations

from collections.abc import Callable

from protocol.errors import UsageError
from protocol.ids import NodeId
from protocol.messages import Contact

from .identity.invite import MAX_SEEDS, Invitation, encode_invitation
from .identity.ledger import Ledger
from .identity.listener import JoinListener
from .identity.membership import Authority, Membership
from .kvstore import KVStore
from .links.addresses import advertised
from .links.channels import split_address
from .supervisor import Supervisor

MAX_LIFE = 365 * 86400
"""Seconds that an invitation may be good for."""


class JoinDesk:
    """``start`` and ``close`` it on one loop."""

    def __init__(
        self,
        membership: Membership,
        authority: Authority,
        store: KVStore,
        *,
        supervisor: Supervisor,
        members: Callable[[], tuple[Contact, ...]],
        revoked: Callable[[NodeId], bool],
        unix_time: Callable[[], int],
    ) -> None:
        """``members`` gives whom a newcomer may dial, this node first.  Opens ``store``; raises ConfigError."""
        self._membership = membership
        self._store = store
        self._members = members
        self._unix_time = unix_time
        self._ledger = Ledger(store, store.load())
        self._listener = JoinListener(
            membership,
            authority,
            self._ledger,
            supervisor=supervisor,
            unix_time=unix_time,
            seeds=members,
            revoked=revoked,
        )
        self._addresses: tuple[str, ...] = ()

    def start(self, address: str, advertise: tuple[str, ...]) -> int:
        """Answer joiners on ``address`` and return the port.

        ``advertise``: addresses under which others reach this node, if not its own.

        Raises ConfigError when the address cannot be bound.
        """
        host, _ = split_address(address)
        port = self._listener.start(address)
        bound = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        elsewhere = tuple(f"{known.rpartition(':')[0]}:{port}" for known in advertise)
        self._addresses = elsewhere or advertised([bound])
        return port

    async def invite(self, lifetime_s: int) -> tuple[str, int]:
        """A token, and when it expires in Unix seconds.  Raises UsageError, StorageError."""
        if not 0 < lifetime_s <= MAX_LIFE:
            raise UsageError(f"an invitation cannot last {lifetime_s} seconds", f"1 to {MAX_LIFE} can be")
        document, now = self._membership.document, self._unix_time()
        expires = now + lifetime_s
        invitation = Invitation(
            fingerprint=document.fingerprint,
            serial=document.serial,
            issuer=Contact(self._membership.node, self._addresses),
            seeds=tuple(contact for contact in self._members() if contact.dialable)[:MAX_SEEDS],
            secret=await self._ledger.invite(expires, now),
            expires=expires,
        )
        return encode_invitation(invitation), expires

    def renewed(self) -> None:
        """Show the membership's new leaf to joiners."""
        self._listener.renewed()

    async def close(self) -> None:
        """Stop answering.  Idempotent."""
        await self._listener.close()
        await self._store.close()
