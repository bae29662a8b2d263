"""Statements of contributors: what they prove, and to whom."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from protocol.effects import Outbox, SetTimer
from protocol.ids import ring_id
from protocol.membership import Roll, Standing, vouch
from protocol.messages import EMPTY, Value
from protocol.signing import Sealer
from pubsub.claims import CHECK, SLICE, Inspection, Inspector, claim, digest_of, perjurers
from pubsub.messages import Claim, Partial, WaveId, WaveUp
from simulations.signing import AUTHORITIES, AUTHORITY, KeyedHashSigner, KeyedHashVerifier, endorsed

APP, WAVE = b"a" * 16, WaveId(3, 7, 1)
KEYS = [KeyedHashSigner(1, "member", index) for index in range(6)]
SIGNERS = [Sealer(one, KeyedHashVerifier()) for one in KEYS]
IDS = [ring_id(0, one.public_key, one.nonce) for one in KEYS]
ME = IDS[0]


def own(index: int, weight: float = 1.0) -> Partial:
    return Partial(weight, Value(1, bytes([index])), (IDS[index],), {"loss": 2.0, "loss.n": 1.0})


def stated(index: int, partial: Partial, parent: bytes, member: int | None = None) -> Claim:
    """By the holder of key ``index``, with the voucher of ``member`` if that is another."""
    voucher = vouch(AUTHORITY, IDS[index if member is None else member])
    return claim(SIGNERS[index], voucher, APP, WAVE, partial, parent)


def judged(
    partial: Partial, *claims: Claim, sender: bytes, wave: WaveId = WAVE, app: bytes = APP, roll: Roll | None = None
) -> Standing:
    message = WaveUp(app, wave, partial, 0, claims)
    inspection = Inspection(SIGNERS[0], roll or endorsed(ME), message, sender, ME)
    while (found := inspection.step(1)) is None:
        pass
    return found


def check(partial: Partial, *claims: Claim, sender: bytes, wave: WaveId = WAVE, app: bytes = APP) -> bool:
    return judged(partial, *claims, sender=sender, wave=wave, app=app) is Standing.MEMBER


def test_a_childs_own_statement_is_about_this_wave_value_and_parent() -> None:
    good = stated(1, own(1), ME)
    assert check(own(1), good, sender=IDS[1])
    assert not check(own(1), good, sender=IDS[1], wave=WaveId(3, 7, 2))
    assert not check(own(1), good, sender=IDS[1], app=b"b" * 16)
    assert not check(own(1, weight=2.0), good, sender=IDS[1])
    assert not check(own(1), stated(1, own(1), IDS[2]), sender=IDS[1])
    assert not check(own(1), stated(2, own(1), ME), sender=IDS[1])


@given(st.permutations(range(2, 6)), st.integers(0, 4), st.integers(1, 5))
def test_a_subtree_is_proven_whole_or_not_at_all(order: list[int], broken: int, thief: int) -> None:
    """One claim that is somebody else's is enough to refuse all."""
    members = [*order, 1]
    claims = [stated(index, own(index), ME if index == 1 else IDS[1]) for index in members]
    partial = Partial(5.0, EMPTY, tuple(IDS[index] for index in members))
    assert check(partial, *claims, sender=IDS[1])
    assert not check(partial, *claims[:-1], sender=IDS[1])
    if members[broken] != thief:
        claims[broken] = stated(thief, own(members[broken]), IDS[1], members[broken])
        assert not check(partial, *claims, sender=IDS[1])


def test_two_statements_convict_and_one_repeated_does_not() -> None:
    one = stated(1, own(1), ME)
    other = stated(1, own(1, weight=2.0), ME)
    elsewhere = stated(1, own(1), IDS[3])
    assert perjurers([(IDS[1], one)], [(IDS[1], one)]) == ()
    assert perjurers([(IDS[1], one)], [(IDS[1], other)]) == (IDS[1],)
    assert perjurers([(IDS[1], one)], [(IDS[1], elsewhere)]) == (IDS[1],)
    assert perjurers([(IDS[2], one)], [(IDS[1], other)]) == ()


def test_a_digest_covers_weight_value_and_metrics() -> None:
    base = own(1)
    others = [
        own(1, weight=2.0), own(2), Partial(1.0, base.value, base.contributors), Partial(1.0, EMPTY, base.contributors)
    ]  # fmt: skip
    assert len({digest_of(one) for one in [base, *others]}) == 5


def test_a_key_that_no_authority_endorsed_contributes_nothing() -> None:
    """It costs nothing to make one, and all that it seals is sealed well."""
    alone = IDS[1]
    for voucher in (b"", bytes(8), bytes(40), vouch(AUTHORITY, IDS[2])):
        good = stated(1, own(1), ME)
        found = judged(own(1), Claim(good.digest, good.parent, good.seal, voucher), sender=alone)
        known = voucher[:8] == vouch(AUTHORITY, alone)[:8]
        assert found is (Standing.FORGED if known else Standing.STRANGE)
    assert judged(own(1), stated(1, own(1), ME), sender=alone) is Standing.MEMBER


def test_a_contributor_that_was_revoked_is_told_apart_from_an_invented_one() -> None:
    roll = endorsed(ME)
    assert judged(own(1), stated(1, own(1), ME), sender=IDS[1], roll=roll) is Standing.MEMBER
    roll.revoke(IDS[1])
    assert judged(own(1), stated(1, own(1), ME), sender=IDS[1], roll=roll) is Standing.REVOKED


class Counting(KeyedHashVerifier):
    """How many signatures were looked at."""

    def __init__(self) -> None:
        self.count = 0

    def verify(self, public_key: bytes, domain: str, data: bytes, signature: bytes) -> bool:
        self.count += 1
        return super().verify(public_key, domain, data, signature)


def test_many_contributors_are_looked_at_in_slices_and_in_turns() -> None:
    crowd = [KeyedHashSigner(2, "crowd", index) for index in range(3 * SLICE)]
    ids = [ring_id(0, one.public_key) for one in crowd]
    whole, verifier, out = Partial(1.0, EMPTY, tuple(ids)), Counting(), Outbox(ME)
    claims = tuple(
        claim(Sealer(one, verifier), vouch(AUTHORITY, member), APP, WAVE, whole, ME)
        for one, member in zip(crowd, ids, strict=True)
    )
    inspector = Inspector(ME, Sealer(KEYS[0], verifier), Roll(b"", verifier, lambda: AUTHORITIES), out)
    heard: list[tuple[bytes, Standing]] = []

    def hear(sender: bytes, found: Standing, now: int) -> None:
        heard.append((sender, found))

    for sender in (IDS[1], IDS[2]):
        inspector.inspect(sender, WaveUp(APP, WAVE, whole, 0, claims), partial(hear, sender), 0)
    most = 0
    for _ in range(8):
        assert (SetTimer(CHECK, 0) in out.drain()) == (len(heard) < 2)
        before = verifier.count
        inspector.on_timer(0)
        most = max(most, verifier.count - before)
    assert heard == [(IDS[1], Standing.MEMBER), (IDS[2], Standing.MEMBER)]
    assert most <= 2 * SLICE


def test_an_inspection_that_nobody_waits_for_is_dropped() -> None:
    inspector = Inspector(ME, SIGNERS[0], endorsed(ME), Outbox(ME))
    crowd = [KeyedHashSigner(2, "crowd", index) for index in range(2 * SLICE)]
    whole = Partial(1.0, EMPTY, tuple(ring_id(0, one.public_key) for one in crowd))
    claims = tuple(
        claim(Sealer(one, KeyedHashVerifier()), vouch(AUTHORITY, ring_id(0, one.public_key)), APP, WAVE, whole, ME)
        for one in crowd
    )
    heard: list[Standing] = []
    inspector.inspect(IDS[1], WaveUp(APP, WAVE, whole, 0, claims), lambda found, now: heard.append(found), 0)
    assert inspector.drop(APP, IDS[1])
    assert not inspector.drop(APP, IDS[1])
    for _ in range(4):
        inspector.on_timer(0)
    assert heard == []
