"""Who belongs to the fabric, shown to those who have no link with it.

A link proves that its other end was endorsed, and a seal proves whose key made it; but a key costs nothing, so a seal
says nothing of membership.  Where a node is named to others who may never meet it (the contributors of a round), a
*voucher* goes with its seal: the signature of an authority of the fabric over the node's id, made once, when the node
is endorsed.  A seal that fits the id and a voucher for the id are together what a certificate is on a link.

A voucher begins with the name of its authority, so that one signature is checked and not one for each authority, and so
that three things can be told apart: what an authority of the fabric never signed (*forged*: whoever passed it on could
have seen that), what is signed by somebody of whom nothing is known here (*strange*: perhaps the fabric's document has
changed, and the news is under way), and a member that was put out (*revoked*: others may not have heard of it yet).

Each id is checked once and remembered, within a bound; what is remembered holds only as long as its authority does.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Mapping

from .ids import NodeId
from .signing import Signer, Verifier

DOMAIN = "member"
ISSUER_BYTES = 8
MAX_VOUCHER = ISSUER_BYTES + 64
MAX_REMEMBERED = 16384
"""Ids whose vouchers were found genuine: as many as one head can name.  About 4 MB when full."""
MAX_REVOKED = 65536


class Standing(enum.Enum):
    """What a voucher says of a node."""

    MEMBER = "member"
    STRANGE = "strange"
    """Vouched for by an authority that is not known here, or not any more."""
    REVOKED = "revoked"
    FORGED = "forged"


def authority_name(public_key: bytes) -> bytes:
    """8 bytes that name an authority in vouchers."""
    return hashlib.sha256(public_key).digest()[:ISSUER_BYTES]


def vouch(authority: Signer, node: NodeId) -> bytes:
    """The voucher by which the holder of ``authority`` makes ``node`` known as a member."""
    return authority_name(authority.public_key) + authority.sign(DOMAIN, node)


def nobody() -> Mapping[bytes, bytes]:
    """No authorities: nobody is a member."""
    return {}


class Roll:
    """One node's own voucher, and its judgement of others'."""

    __slots__ = ("_authorities", "_genuine", "_revoked", "_verifier", "voucher")

    def __init__(
        self, voucher: bytes, verifier: Verifier, authorities: Callable[[], Mapping[bytes, bytes]] = nobody
    ) -> None:
        """``authorities`` gives the fabric's present ones: name → public key."""
        self.voucher = voucher
        self._verifier, self._authorities = verifier, authorities
        self._genuine: dict[tuple[NodeId, bytes], None] = {}
        self._revoked: dict[NodeId, None] = {}

    def revoke(self, node: NodeId) -> None:
        """``node`` is a member no more, for good."""
        if len(self._revoked) < MAX_REVOKED:
            self._revoked[node] = None

    def standing(self, node: NodeId, voucher: bytes) -> Standing:
        """Total, and cheap for whoever was looked at before."""
        key = self._authorities().get(voucher[:ISSUER_BYTES])
        if key is None:
            return Standing.STRANGE
        entry = node, voucher
        if entry in self._genuine:
            del self._genuine[entry]  # to the end: those who are seen every round stay
        elif not self._verifier.verify(key, DOMAIN, node, voucher[ISSUER_BYTES:]):
            return Standing.FORGED
        self._genuine[entry] = None
        if len(self._genuine) > MAX_REMEMBERED:
            del self._genuine[next(iter(self._genuine))]
        return Standing.REVOKED if node in self._revoked else Standing.MEMBER
