"""The ledger of invitations: each secret admits one key, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

from node.identity.ledger import KEEP, Ledger, Reason, RefusedError
from protocol.errors import ConfigError, StorageError, UsageError

NOW = 1_800_000_000
LATER = NOW + 3600
ALICE, BOB = b"a" * 32, b"b" * 32


class Disk:
    """A store that can fail, and that can be held in the middle of a write."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()

    async def write(self, batch: Mapping[str, bytes | None]) -> None:
        self.started.set()
        await self.gate.wait()
        if self.fails:
            raise StorageError("the disk is full")
        for key, value in batch.items():
            if value is None:
                del self.content[key]
            else:
                self.content[key] = value


class Press:
    """Endorses, and counts how often."""

    def __init__(self) -> None:
        self.printed = 0

    def __call__(self) -> bytes:
        self.printed += 1
        return b"certificate %d" % self.printed


def run(scenario: Callable[[Disk, Ledger, Press], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        disk = Disk()
        await scenario(disk, Ledger(disk, {}), Press())

    asyncio.run(main())


async def refused(ledger: Ledger, secret: bytes, key: bytes, now: int = NOW) -> Reason:
    with pytest.raises(RefusedError) as caught:
        await ledger.redeem(secret, key, now, Press())
    assert caught.value.remedy
    return caught.value.reason


def test_one_secret_admits_one_key_as_often_as_it_asks() -> None:
    async def scenario(disk: Disk, ledger: Ledger, press: Press) -> None:
        secret = await ledger.invite(LATER, NOW)
        first = await ledger.redeem(secret, ALICE, NOW, press)
        assert await ledger.redeem(secret, ALICE, NOW, press) == first
        assert await refused(ledger, secret, BOB) is Reason.USED
        # Even after its invitation has expired: the certificate was issued, only the answer was lost.
        assert await ledger.redeem(secret, ALICE, LATER + 1, press) == first
        assert press.printed == 1

    run(scenario)


def test_unknown_and_expired_secrets_are_told_apart() -> None:
    async def scenario(disk: Disk, ledger: Ledger, press: Press) -> None:
        secret = await ledger.invite(LATER, NOW)
        assert await refused(ledger, b"x" * 16, ALICE) is Reason.UNKNOWN
        assert await refused(ledger, secret, ALICE, LATER) is Reason.EXPIRED
        assert await ledger.redeem(secret, ALICE, LATER - 1, press)

    run(scenario)


def test_of_two_joiners_at_once_one_wins() -> None:
    async def scenario(disk: Disk, ledger: Ledger, press: Press) -> None:
        secret = await ledger.invite(LATER, NOW)
        disk.gate.clear()
        disk.started.clear()
        alice = asyncio.ensure_future(ledger.redeem(secret, ALICE, NOW, press))
        bob = asyncio.ensure_future(ledger.redeem(secret, BOB, NOW, press))
        await disk.started.wait()
        assert not alice.done()
        disk.gate.set()
        outcomes = await asyncio.gather(alice, bob, return_exceptions=True)
        assert outcomes[0] == b"certificate 1"
        assert isinstance(outcomes[1], RefusedError)

    run(scenario)


def test_no_answer_leaves_before_it_is_durable_and_a_failed_write_uses_nothing_up() -> None:
    async def scenario(disk: Disk, ledger: Ledger, press: Press) -> None:
        secret = await ledger.invite(LATER, NOW)
        before = dict(disk.content)
        disk.fails = True
        with pytest.raises(StorageError):
            await ledger.redeem(secret, ALICE, NOW, press)
        assert disk.content == before
        disk.fails = False
        assert await ledger.redeem(secret, BOB, NOW, press)

    run(scenario)


def test_a_joiner_that_goes_away_in_the_middle_of_the_write_has_used_the_secret() -> None:
    async def scenario(disk: Disk, ledger: Ledger, press: Press) -> None:
        secret = await ledger.invite(LATER, NOW)
        disk.gate.clear()
        disk.started.clear()
        alice = asyncio.ensure_future(ledger.redeem(secret, ALICE, NOW, press))
        await disk.started.wait()
        alice.cancel()
        with pytest.raises(asyncio.CancelledError):
            await alice
        disk.gate.set()
        assert await refused(ledger, secret, BOB) is Reason.USED
        assert await ledger.redeem(secret, ALICE, NOW, press) == b"certificate 1"

    run(scenario)


def test_a_restarted_issuer_remembers() -> None:
    async def scenario(disk: Disk, ledger: Ledger, press: Press) -> None:
        out, used = await ledger.invite(LATER, NOW), await ledger.invite(LATER, NOW)
        certificate = await ledger.redeem(used, ALICE, NOW, press)
        again = Ledger(disk, disk.content)
        assert await again.redeem(used, ALICE, NOW, press) == certificate
        assert await refused(again, used, BOB) is Reason.USED
        assert await again.redeem(out, BOB, NOW, press)

    run(scenario)


def test_secrets_are_not_on_disk() -> None:
    async def scenario(disk: Disk, ledger: Ledger, press: Press) -> None:
        secret = await ledger.invite(LATER, NOW)
        everything = b"".join(key.encode() + value for key, value in disk.content.items())
        assert secret not in everything
        assert secret.hex().encode() not in everything

    run(scenario)


def test_old_entries_are_forgotten_and_a_full_ledger_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.identity.ledger.MAX_ENTRIES", 8)

    async def scenario(disk: Disk, ledger: Ledger, press: Press) -> None:
        for _ in range(8):
            await ledger.invite(LATER, NOW)
        with pytest.raises(UsageError, match="are out"):
            await ledger.invite(LATER, NOW)
        await ledger.invite(LATER + 2 * KEEP, LATER + KEEP + 1)
        assert len(disk.content) == 1

    run(scenario)


def test_a_corrupt_ledger_says_what_to_do() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="corrupt") as caught:
            Ledger(Disk(), {"invitation.00": b"nonsense"})
        assert caught.value.remedy
        Ledger(Disk(), {"something else": b"nonsense"})

    asyncio.run(main())
