"""Joining over loopback, with everything that a stranger at the door may try."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

import msgspec
import pytest

from node.identity import listener as listening
from node.identity.certificates import node_name, verify_endorsement
from node.identity.credentials import join_client_context, join_probe_context, join_server_context, roots_pem
from node.identity.enrol import join
from node.identity.fabric import sign_document
from node.identity.frames import AskEndorsement, AskFabric, Frame, Refused, ShowFabric, pack, read_answer
from node.identity.invite import Invitation
from node.identity.keys import Key
from node.identity.ledger import Ledger, Reason, RefusedError
from node.identity.listener import Failures, JoinListener
from node.identity.membership import Membership
from node.supervisor import Supervisor
from protocol.errors import AuthError, ConfigError, MyceliaError, StorageError, TransportError, UsageError
from protocol.ids import NodeId
from protocol.messages import Contact
from tests.node.fabric import until
from tests.node.identity.lab import Lab

pytestmark = pytest.mark.net

NOW = int(time.time())
SEED = Contact(b"s" * 16, ("192.0.2.1:7447",))


class Disk:
    def __init__(self) -> None:
        self.fails = False

    async def write(self, batch: Mapping[str, bytes | None]) -> None:
        if self.fails:
            raise StorageError("the disk is full")


class Issuer:
    """A running issuer."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        # Its leaf is due for renewal and still valid.
        issuer = lab.issuer
        self.membership = Membership(issuer.key, issuer.endorsement, lab.signed, NOW - 70_000)
        self.disk = Disk()
        self.supervisor = Supervisor()
        self.ledger = Ledger(self.disk, {})
        self.revoked: dict[NodeId, None] = {}
        self.listener = JoinListener(
            self.membership,
            lab.authority,
            self.ledger,
            supervisor=self.supervisor,
            unix_time=lambda: NOW,
            seeds=lambda: (SEED,),
            revoked=lambda node: node in self.revoked,
        )
        self.port = 0

    async def invitation(self, expires: int = NOW + 600) -> Invitation:
        secret = await self.ledger.invite(expires, NOW)
        contact = Contact(self.membership.node, (f"127.0.0.1:{self.port}",))
        return Invitation(self.lab.document.fingerprint, self.lab.document.serial, contact, (), secret, expires)


@contextlib.asynccontextmanager
async def issuing(lab: Lab | None = None) -> AsyncIterator[Issuer]:
    issuer = Issuer(lab or Lab(NOW))
    issuer.port = issuer.listener.start("127.0.0.1:0")
    try:
        yield issuer
    finally:
        await issuer.listener.close()
        assert issuer.supervisor.failures == {}


def run(scenario: Callable[[Issuer], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with issuing() as issuer:
            await scenario(issuer)

    asyncio.run(main())


async def ask(port: int, frame: Frame | bytes, context: ssl.SSLContext | None = None) -> Any:
    """The answer to one frame or to raw bytes; None when the issuer hangs up instead."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context or join_probe_context(), server_hostname="anything"
    )
    try:
        writer.write(frame if isinstance(frame, bytes) else pack(frame))
        return await read_answer(reader)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_an_invited_node_becomes_a_member() -> None:
    async def scenario(issuer: Issuer) -> None:
        key = Key.generate()
        joined = await join(await issuer.invitation(), key, NOW)
        assert joined.seeds == (SEED,)
        member = Membership(key, joined.endorsement, joined.document, NOW)
        assert member.document == issuer.lab.document
        assert verify_endorsement(joined.endorsement, issuer.lab.document.authorities, NOW)[0] == member.node

    run(scenario)


def test_a_lost_answer_is_asked_for_again_and_nobody_else_gets_one() -> None:
    async def scenario(issuer: Issuer) -> None:
        invitation, key = await issuer.invitation(), Key.generate()
        first = await join(invitation, key, NOW)
        assert (await join(invitation, key, NOW)).endorsement == first.endorsement
        with pytest.raises(RefusedError, match="already used"):
            await join(invitation, Key.generate(), NOW)

    run(scenario)


def test_another_invitation_does_not_buy_the_same_key_another_place() -> None:
    async def scenario(issuer: Issuer) -> None:
        key = Key.generate()
        places = []
        for _ in range(3):
            joined = await join(await issuer.invitation(), key, NOW)
            places.append(Membership(key, joined.endorsement, joined.document, NOW).node)
        assert len(set(places)) == 1

    run(scenario)


def test_refusals_name_their_reason() -> None:
    async def scenario(issuer: Issuer) -> None:
        short = await issuer.invitation(NOW)
        with pytest.raises(UsageError, match="expired"):
            await join(short, Key.generate(), NOW)
        # A joiner whose clock is behind learns it from the issuer.
        with pytest.raises(RefusedError, match="expired"):
            await join(short, Key.generate(), NOW - 1)
        unknown = msgspec.structs.replace(await issuer.invitation(), secret=b"x" * 16)
        with pytest.raises(RefusedError, match="does not know"):
            await join(unknown, Key.generate(), NOW)
        key = Key.generate()
        issuer.revoked[Membership(key, _endorse(issuer.lab, key), issuer.lab.signed, NOW).node] = None
        with pytest.raises(RefusedError, match="revoked"):
            await join(await issuer.invitation(), key, NOW)

    run(scenario)


def test_an_invitation_is_not_used_up_while_the_issuer_cannot_write() -> None:
    async def scenario(issuer: Issuer) -> None:
        invitation = await issuer.invitation()
        issuer.disk.fails = True
        with pytest.raises(RefusedError) as caught:
            await join(invitation, Key.generate(), NOW)
        assert caught.value.reason is Reason.UNAVAILABLE
        issuer.disk.fails = False
        await join(invitation, Key.generate(), NOW)

    run(scenario)


def test_a_server_of_another_fabric_learns_no_secret() -> None:
    async def main() -> None:
        async with issuing() as issuer, issuing() as impostor:
            invitation = await issuer.invitation()
            elsewhere = msgspec.structs.replace(
                invitation, issuer=Contact(invitation.issuer.id, (f"127.0.0.1:{impostor.port}",))
            )
            with pytest.raises(AuthError, match="another fabric"):
                await join(elsewhere, Key.generate(), NOW)

    asyncio.run(main())


def test_a_server_with_the_right_document_but_no_certificate_learns_no_secret() -> None:
    lab = Lab(NOW)
    heard: list[bytes] = []

    async def mimic(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1024))
        writer.write(pack(ShowFabric(lab.signed)))
        with contextlib.suppress(OSError):
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    async def main(leaf_of: Lab) -> None:
        heard.clear()
        context = join_server_context(leaf_of.member().leaf(NOW))
        server = await asyncio.start_server(mimic, "127.0.0.1", 0, ssl=context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            contact = Contact(lab.issuer.node, (f"127.0.0.1:{port}",))
            invitation = Invitation(lab.document.fingerprint, 1, contact, (), b"secret, secret!!", NOW + 60)
            with pytest.raises(AuthError, match="not the issuer"):
                await join(invitation, Key.generate(), NOW)
        assert heard == [pack(AskFabric())]

    asyncio.run(main(Lab(NOW)))
    # A member of the fabric that is not the issuer fails on the name.
    asyncio.run(main(lab))


def test_an_old_document_or_a_retired_issuer_will_not_do() -> None:
    async def scenario(issuer: Issuer) -> None:
        invitation = await issuer.invitation()
        with pytest.raises(AuthError, match="older"):
            await join(msgspec.structs.replace(invitation, serial=2), Key.generate(), NOW)
        retired = msgspec.structs.replace(issuer.lab.document, issuers=(), serial=2)
        issuer.membership.signed = sign_document(retired, issuer.lab.owner)
        with pytest.raises(AuthError, match="no issuer"):
            await join(invitation, Key.generate(), NOW)

    run(scenario)


def test_an_unreachable_issuer_is_a_matter_of_the_network_and_further_addresses_are_tried() -> None:
    async def scenario(issuer: Issuer) -> None:
        invitation = await issuer.invitation()
        async with issuing() as gone:
            dead = f"127.0.0.1:{gone.port}"
        nowhere = msgspec.structs.replace(invitation, issuer=Contact(invitation.issuer.id, (dead,)))
        with pytest.raises(TransportError, match="cannot reach") as caught:
            await join(nowhere, Key.generate(), NOW)
        assert dead in str(caught.value)
        both = Contact(invitation.issuer.id, (dead, *invitation.issuer.addresses))
        await join(msgspec.structs.replace(invitation, issuer=both), Key.generate(), NOW)

    run(scenario)


def test_a_silent_server_does_not_hold_a_joiner_up() -> None:
    async def main() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.read()
            finally:
                writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with server:
            contact = Contact(bytes(16), (f"127.0.0.1:{server.sockets[0].getsockname()[1]}",))
            with pytest.raises(TransportError, match="in time"):
                await join(
                    Invitation(bytes(32), 1, contact, (), b"s" * 16, NOW + 60), Key.generate(), NOW, deadline=0.1
                )

    asyncio.run(main())


def test_strangers_that_talk_nonsense_are_told_so_once_and_the_next_one_is_served() -> None:
    async def scenario(issuer: Issuer) -> None:
        for raw in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(600), b"\x16\x03\x01\x01\x00" + b"A" * 256):
            reader, writer = await asyncio.open_connection("127.0.0.1", issuer.port)
            writer.write(raw)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
        body = msgspec.msgpack.encode([99])
        for raw in (
            (1 << 31).to_bytes(4, "big") + b"x",
            (600).to_bytes(4, "big") + bytes(600),
            len(body).to_bytes(4, "big") + body,
            (400).to_bytes(4, "big") + b"\xc1" * 400,
        ):
            answer = await ask(issuer.port, raw)
            assert isinstance(answer, Refused)
            assert answer.reason == Reason.MALFORMED
        await join(await issuer.invitation(), Key.generate(), NOW)

    run(scenario)


def test_a_request_without_proof_of_its_key_is_refused() -> None:
    async def scenario(issuer: Issuer) -> None:
        invitation, victim = await issuer.invitation(), Key.generate()
        forged = AskEndorsement(invitation.secret, victim.public_key, bytes(64))
        answer = await ask(issuer.port, forged)
        assert isinstance(answer, Refused)
        assert answer.reason == Reason.UNPROVEN
        # The secret is still good.
        await join(invitation, Key.generate(), NOW)

    run(scenario)


def test_an_address_that_keeps_failing_is_not_answered_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "MAX_FAILURES", 3)

    async def scenario(issuer: Issuer) -> None:
        guess = AskEndorsement(b"g" * 16, Key.generate().public_key, bytes(64))
        for _ in range(3):
            assert isinstance(await ask(issuer.port, guess), Refused)
        with pytest.raises(TransportError, match="too many joins from one address failed"):
            await join(await issuer.invitation(), Key.generate(), NOW)

    run(scenario)


@pytest.mark.parametrize("hears", [0, 1])
def test_a_joiner_that_is_hung_up_on_says_so(hears: int) -> None:
    """Without a word, before the handshake or in the middle of it."""

    async def main() -> None:
        async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if hears:
                await reader.read(1 << 16)
            writer.close()

        server = await asyncio.start_server(rude, "127.0.0.1", 0)
        async with server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            invitation = Invitation(bytes(32), 1, Contact(bytes(16), (address,)), (), b"s" * 16, NOW + 60)
            with pytest.raises(TransportError, match=f"{address}: it closed the connection"):
                await join(invitation, Key.generate(), NOW)

    asyncio.run(main())


def test_seventy_slow_questions_from_one_address_keep_nobody_out() -> None:
    async def scenario(issuer: Issuer) -> None:
        slow = []
        for _ in range(70):
            reader, writer = await asyncio.open_connection("127.0.0.1", issuer.port)
            slow.append((reader, writer))
        # The same address is the hardest case: the joiner is one of the crowd.
        joined = await join(await issuer.invitation(), Key.generate(), NOW)
        assert joined.seeds == (SEED,)
        assert len(issuer.listener._talking) <= listening.CONVERSATIONS_EACH
        for _, writer in slow:
            writer.close()

    run(scenario)


def test_places_are_few_per_address_and_in_total_and_others_have_theirs() -> None:
    async def scenario(issuer: Issuer) -> None:
        async def callers(source: str, count: int) -> list[asyncio.StreamWriter]:
            opened = [
                await asyncio.open_connection("127.0.0.1", issuer.port, local_addr=(source, 0)) for _ in range(count)
            ]
            return [writer for _, writer in opened]

        crowd = await callers("127.0.0.1", 3 * listening.WAITING_EACH)
        other = await callers("127.0.0.2", 1)
        await until(lambda: "127.0.0.2" in issuer.listener._talking.parties())
        await until(lambda: len(issuer.listener._talking) == listening.CONVERSATIONS_EACH + 1)
        assert len(issuer.listener._waiting) <= listening.WAITING_EACH
        for writer in (*crowd, *other):
            writer.close()

    run(scenario)


def test_a_stranger_that_says_nothing_is_dropped_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "QUESTION_DEADLINE", 0.05)

    async def scenario(issuer: Issuer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", issuer.port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()

    run(scenario)


def test_a_question_that_trickles_is_given_up_and_nobody_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "QUESTION_DEADLINE", 0.2)
    monkeypatch.setattr(listening, "MAX_FAILURES", 1)

    async def scenario(issuer: Issuer) -> None:
        assert await ask(issuer.port, pack(AskFabric())[:3]) is None
        assert isinstance(await ask(issuer.port, AskFabric()), ShowFabric)

    run(scenario)


def test_a_renewed_leaf_is_shown_at_the_next_connection() -> None:
    async def scenario(issuer: Issuer) -> None:
        context = join_client_context(roots_pem(issuer.lab.document.authorities))

        async def shown() -> Any:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", issuer.port, ssl=context, server_hostname=node_name(issuer.membership.node)
            )
            certificate = writer.get_extra_info("ssl_object").getpeercert()
            writer.close()
            await writer.wait_closed()
            return certificate["serialNumber"]

        before = await shown()
        assert issuer.membership.renew(NOW)
        assert await shown() == before
        issuer.listener.renewed()
        assert await shown() != before

    run(scenario)


def test_a_port_in_use_is_a_matter_of_configuration() -> None:
    async def scenario(issuer: Issuer) -> None:
        with pytest.raises(ConfigError, match="in use"):
            Issuer(issuer.lab).listener.start(f"127.0.0.1:{issuer.port}")
        with pytest.raises(MyceliaError):
            Issuer(issuer.lab).listener.start("nonsense")

    run(scenario)


def test_it_listens_on_ipv6_and_ipv4_at_once() -> None:
    async def main() -> None:
        issuer = Issuer(Lab(NOW))
        issuer.port = issuer.listener.start("[::]:0")
        try:
            await join(await issuer.invitation(), Key.generate(), NOW)
        finally:
            await issuer.listener.close()
            await issuer.listener.close()

    asyncio.run(main())


def test_failures_are_counted_per_party_and_forgotten() -> None:
    failures = Failures()
    for _ in range(listening.MAX_FAILURES):
        assert not failures.blocks("192.0.2.1", 0.0)
        failures.count("192.0.2.1", 0.0)
        failures.count("2001:db8::1", 0.0)
    assert failures.blocks("192.0.2.1", 1.0)
    assert failures.blocks("::ffff:192.0.2.1", 1.0)
    assert not failures.blocks("192.0.2.2", 1.0)
    assert failures.blocks("2001:db8::2", 1.0)
    assert not failures.blocks("2001:db8:0:1::1", 1.0)
    assert not failures.blocks("192.0.2.1", listening.FAILURE_WINDOW)
    for number in range(listening.MAX_ADDRESSES + 10):
        failures.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 2.0)
    assert not failures.blocks("192.0.2.1", 2.0)


def _endorse(lab: Lab, key: Key) -> bytes:
    return lab.authority.endorse(key.public_key, lab.zone, NOW)
