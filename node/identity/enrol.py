"""Joining a fabric: the joiner's side.  The issuer's is ``listener``.

A joiner has an invitation and no reason to believe anybody.  Two connections make it sure:

1. *Probe.*  TLS without verification, because nothing is known that could verify it.  Ask for the fabric's document and
   check it against the invitation: its owner hashes to the fingerprint and signed it, and it is not older than the
   invitation.  Whoever was at the other end, the document is now the owner's.  Nothing secret was said.
2. *Enrolment.*  TLS again, verified: the chain ends at an authority of that document and the name is the issuer's, who
   is listed in it.  Only here does the secret leave, with a proof that the joiner holds its key.

The answer is checked like everything else before it is used: the endorsement has to be for our key, under an authority
of the document.  A joiner that is cut off repeats the whole with the same key and gets the same certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import msgspec

from protocol.errors import AuthError, CodecError, PeerError, TransportError, UsageError
from protocol.messages import Contact

from ..links.channels import split_address
from .certificates import node_name, public_key_of, verify_endorsement
from .credentials import join_client_context, join_probe_context, roots_pem
from .fabric import FabricDocument, SignedDocument, is_issuer, open_document
from .frames import (
    MAX_ANSWER,
    PROOF_DOMAIN,
    Answer,
    AskEndorsement,
    AskFabric,
    Endorsed,
    Question,
    Refused,
    ShowFabric,
    pack,
    proof_bytes,
    read_answer,
)
from .invite import Invitation
from .keys import Ed25519Verifier, Key
from .ledger import Reason, RefusedError

DEADLINE = 10.0
"""Seconds for one of the issuer's addresses, from dialling to the last answer."""


class Joined(msgspec.Struct, frozen=True, gc=False):
    """What a join brings, verified; ``Membership.enter`` makes it durable."""

    endorsement: bytes
    """DER."""
    document: SignedDocument
    seeds: tuple[Contact, ...]


async def join(invitation: Invitation, key: Key, now: int, *, deadline: float = DEADLINE) -> Joined:
    """Get ``key`` endorsed.  ``now`` is Unix seconds; ``deadline`` seconds, for each of the issuer's addresses.

    Raises UsageError when the invitation has expired, RefusedError when the issuer refuses, AuthError when the issuer
    is not who the invitation says, TransportError when it cannot be reached.
    """
    if now >= invitation.expires:
        raise UsageError("this invitation has expired", "ask the issuer for a new one")
    failures: list[str] = []
    for address in invitation.issuer.addresses:
        try:
            async with asyncio.timeout(deadline):
                return await _join_at(address, invitation, key, now)
        except (OSError, asyncio.IncompleteReadError) as error:
            # ssl.SSLError and TimeoutError are OSErrors; a certificate that is wrong is not a matter of the network.
            if isinstance(error, ssl.SSLCertVerificationError):
                raise AuthError(
                    f"the server at {address} is not the issuer of this invitation ({error.verify_message})",
                    "check the clocks of both machines; if they are right, somebody answers in the issuer's place",
                ) from None
            failures.append(f"{address}: {_why(error)}")
    raise TransportError(
        f"cannot reach the issuer ({'; '.join(failures)})",
        "check that it runs and that its join port is open from here; a join can be repeated with the same invitation",
    )


async def _join_at(address: str, invitation: Invitation, key: Key, now: int) -> Joined:
    answer = await _ask(address, join_probe_context(), None, AskFabric())
    if not isinstance(answer, ShowFabric):
        raise _unexpected(answer)
    document = _check_document(answer.document, invitation)
    fingerprint, secret = invitation.fingerprint, invitation.secret
    proof = key.sign(PROOF_DOMAIN, proof_bytes(fingerprint, secret, key.public_key))
    context = join_client_context(roots_pem(document.authorities))
    question = AskEndorsement(secret, key.public_key, proof)
    answer = await _ask(address, context, node_name(invitation.issuer.id), question)
    if not isinstance(answer, Endorsed):
        raise _unexpected(answer)
    signed, document = answer.document, _check_document(answer.document, invitation)
    if public_key_of(answer.endorsement) != key.public_key:
        raise AuthError("the issuer endorsed another key than ours")
    verify_endorsement(answer.endorsement, document.authorities, now)
    return Joined(answer.endorsement, signed, answer.seeds)


def _check_document(signed: SignedDocument, invitation: Invitation) -> FabricDocument:
    document = open_document(signed, Ed25519Verifier())
    if document.fingerprint != invitation.fingerprint:
        raise AuthError(
            "the server belongs to another fabric than the invitation",
            "check the issuer's address; if it is right, somebody answers in the issuer's place",
        )
    if document.serial < invitation.serial:
        raise AuthError("the server shows a fabric document older than the invitation", "ask another issuer")
    if not is_issuer(document, invitation.issuer.id):
        raise AuthError("the node that wrote this invitation is no issuer any more", "ask another issuer")
    return document


def _unexpected(answer: Answer) -> PeerError:
    if not isinstance(answer, Refused):
        return CodecError(
            "the issuer answered something else than was asked", "use the same version of mycelia on both"
        )
    try:
        return RefusedError(Reason(answer.reason))
    except ValueError:
        return AuthError(f"the issuer refused (reason {answer.reason})", "update mycelia on this machine")


async def _ask(address: str, context: ssl.SSLContext, server: str | None, question: Question) -> Answer:
    async with _connected(address, context, server) as (reader, writer):
        writer.write(pack(question))
        await writer.drain()
        return await read_answer(reader)


@contextlib.asynccontextmanager
async def _connected(
    address: str, context: ssl.SSLContext, server: str | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = split_address(address)
    reader, writer = await asyncio.open_connection(
        host, port, limit=MAX_ANSWER, ssl=context, server_hostname=server or host
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, asyncio.IncompleteReadError | ConnectionResetError | ConnectionAbortedError):
        # The latter two come without a text when the other side hangs up in the middle of the handshake.
        return "it closed the connection, as an issuer does for a minute when too many joins from one address failed"
    if isinstance(error, ssl.SSLError):
        return f"no TLS ({error.reason or error})"
    return str(getattr(error, "strerror", "") or error) or type(error).__name__
