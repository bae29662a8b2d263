"""Record tables: a merge that all replicas agree on, bounds, signatures, expiry."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht.config import RingConfig
from dht.messages import Record
from dht.records import Kind, RecordTable, key_of, rank, sign_record, verify
from protocol.errors import Code
from tests.dht.harness import HashSigner, HashVerifier, record

SMALL = replace(RingConfig.lan(), records_per_signer=3, record_bytes=64)
records = st.builds(
    record,
    st.integers(0, 5).map(lambda n: n.to_bytes(16, "big")),
    st.integers(0, 3),
    kind=st.sampled_from(Kind),
    expires=st.integers(1, 8),
    body=st.binary(max_size=12),
    signer=st.sampled_from([b"a", b"b"]),
)


def allow(record: Record) -> bool:
    return True


def table(config: RingConfig = RingConfig.lan()) -> RecordTable:  # noqa: B008 (frozen)
    return RecordTable(config, HashVerifier())


def filled(written: list[Record], wall: int = 0) -> RecordTable:
    made = table()
    for one in written:
        made.put(one, wall, allow)
    made.check()
    return made


def content(one: RecordTable) -> set[Record]:
    return set(one)


@given(st.lists(records, max_size=20), st.randoms(use_true_random=False))
def test_merge_is_commutative_associative_and_idempotent(written: list[Record], random: object) -> None:
    shuffled = list(written)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = filled(written), filled(shuffled + written)
    assert content(one) == content(other)
    assert one.digest() == other.digest()
    newest: dict[bytes, Record] = {}
    for r in written:
        if key_of(r) not in newest or rank(r) > rank(newest[key_of(r)]):
            newest[key_of(r)] = r
    assert content(one) == set(newest.values())


@given(st.lists(records, max_size=20), st.lists(records, max_size=20))
def test_one_exchange_makes_two_tables_equal(mine: list[Record], theirs: list[Record]) -> None:
    one, other = filled(mine), filled(theirs)
    to_other, lacking = one.compare(other.entries())
    to_one, _ = other.compare(one.entries())
    assert lacking == bool(to_one)
    for r in to_other:
        other.put(r, 0, allow)
    for r in to_one:
        one.put(r, 0, allow)
    assert content(one) == content(other)
    assert one.digest() == other.digest()
    assert one.compare(other.entries()) == ([], False)


@settings(max_examples=60)
@given(st.lists(records, max_size=25))
def test_bounds_hold_at_every_step(written: list[Record]) -> None:
    made = table(SMALL)
    for one in written:
        made.put(one, 0, allow)
        made.check()


def test_when_full_those_that_expire_first_go_whatever_the_order() -> None:
    written = [record(bytes([i]) + bytes(15), expires=10 + i) for i in range(6)]
    up, down = table(SMALL), table(SMALL)
    for one in written:
        up.put(one, 0, allow)
    for one in reversed(written):
        down.put(one, 0, allow)
    assert content(up) == content(down) == set(written[3:])


@given(st.lists(records, max_size=20), st.integers(0, 9))
def test_records_vanish_at_their_second(written: list[Record], wall: int) -> None:
    early = filled(written)
    early.expire(wall)
    early.check()
    assert all(r.expires > wall for r in early)
    assert content(early) == {r for r in filled(written) if r.expires > wall}
    late = table()
    assert all(late.put(r, r.expires, allow) is False for r in written)


def test_every_field_is_signed() -> None:
    genuine = record(bytes(16), body=b"x")
    assert verify(genuine, HashVerifier())
    forged = [
        msgspec.structs.replace(genuine, **change)
        for change in (
            {"kind": 2},
            {"subject": b"\1" * 16},
            {"version": 9},
            {"expires": 1},
            {"signer": b"me"},
            {"body": b"y"},
            {"signature": b""},
        )
    ]
    assert not any(verify(one, HashVerifier()) for one in forged)
    assert table().put(forged[2], 0, allow) is Code.BAD_SIGNATURE


def test_what_only_this_node_can_judge_is_dropped_without_blame() -> None:
    made, rim = table(), RingConfig.lan().record_lifetime
    assert made.put(record(bytes(16)), 0, lambda r: False) is False
    for expires in (0, rim + 1, 1 << 40):
        assert made.put(record(bytes(16), expires=expires), 0, allow) is False
    assert made.put(record(bytes(16), expires=rim), 0, allow) is True
    assert made.put(record(b"x" * 16, expires=rim + 1), 1, allow) is True, "a second later it is within the bound"
    made = table()
    assert made.put(msgspec.structs.replace(record(bytes(16)), kind=99), 0, allow) is False
    assert len(made) == 0


def revocation(subject: int, *, signer: bytes = b"issuer", expires: int = 10_000, body: bytes = b"") -> Record:
    return record(subject.to_bytes(16, "big"), kind=Kind.REVOCATION, signer=signer, expires=expires, body=body)


def test_a_revocation_is_never_evicted_whatever_else_is_said() -> None:
    made = table(SMALL)
    early = revocation(1, expires=5)
    assert made.put(early, 0, allow) is True
    for number in range(40):
        signer = b"owner %d" % (number % 7)
        made.put(record(number.to_bytes(16, "big"), signer=signer, expires=100 + number, body=bytes(20)), 0, allow)
        made.check()
    assert early in content(made)
    held = [revocation(number, expires=50) for number in (2, 3)]
    assert [made.put(one, 0, allow) for one in held] == [True, True]
    more = [revocation(number, expires=100 + number) for number in range(4, 10)]
    assert not any(made.put(one, 0, allow) for one in more), "its signer has used up its share"
    assert set(made.of_kind(Kind.REVOCATION)) == {early, *held}
    assert made.put(revocation(9, signer=b"the owner"), 0, allow) is True, "and nobody else's"
    made.check()


def test_an_issuer_without_room_left_can_still_say_again_what_it_said() -> None:
    made = table(SMALL)
    for number in range(3):
        made.put(revocation(number), 0, allow)
    again = msgspec.structs.replace(revocation(0), version=2)
    again = sign_record(HashSigner(b"issuer"), Kind.REVOCATION, again.subject, 2, 20_000, b"")
    assert made.put(again, 0, allow) is True
    assert again in content(made)
    large = sign_record(HashSigner(b"issuer"), Kind.REVOCATION, again.subject, 3, 20_000, bytes(65))
    assert made.put(large, 0, allow) is False
    assert again in content(made), "what does not fit displaces nothing"
    made.check()


def test_who_keeps_a_copy_learns_what_was_dropped() -> None:
    made = table(SMALL)
    written = [record(bytes([number]) + bytes(15), expires=10 + number) for number in range(5)]
    for one in written:
        made.put(one, 0, allow)
    assert made.take_dropped() == written[:2]
    assert made.take_dropped() == []
    newer = record(written[2].subject, 2, expires=20)
    assert made.put(newer, 0, allow) is True
    assert made.take_dropped() == [], "replaced, not dropped"
    made.expire(14)
    assert set(made.take_dropped()) == {written[3], written[4]}
    made.rejudge(lambda r: False)
    assert made.take_dropped() == [newer]
    assert len(made) == 0


def test_one_owner_cannot_fill_the_room_of_all() -> None:
    config = replace(RingConfig.lan(), signer_bytes=50, record_bytes=100)
    made = table(config)
    other = record(b"o" * 16, signer=b"other", expires=1, body=bytes(40))
    made.put(other, 0, allow)
    for number in range(20):
        made.put(record(number.to_bytes(16, "big"), expires=100, body=bytes(10)), 0, allow)
        made.check()
    assert other in content(made)
    assert len(made) == 6


def test_old_news_is_not_verified_again() -> None:
    class Once(HashVerifier):
        calls = 0

        def verify(self, public_key: bytes, domain: str, data: bytes, signature: bytes) -> bool:
            Once.calls += 1
            return super().verify(public_key, domain, data, signature)

    made = RecordTable(RingConfig.lan(), Once())
    assert [made.put(record(bytes(16)), 0, allow) for _ in range(5)] == [True, False, False, False, False]
    assert Once.calls == 1


def test_keys_and_lookups() -> None:
    subject = bytes(16)
    app = record(subject, 1, kind=Kind.APP, signer=b"a")
    newer = record(subject, 2, kind=Kind.APP, signer=b"b")
    stops = [record(subject, v, kind=Kind.STOP, signer=s) for s, v in ((b"a", 5), (b"b", 1))]
    made = filled([app, newer, *stops])
    assert made.get(Kind.APP, subject) == newer
    assert made.get(Kind.STOP, subject) == stops[0]
    assert made.get(Kind.VOTERS, subject) is None
    assert set(made.of_kind(Kind.STOP)) == set(stops)
    assert len(made) == 3


@pytest.mark.parametrize("kind", Kind)
def test_sign_record_makes_what_verify_accepts(kind: Kind) -> None:
    signed = sign_record(HashSigner(b"k"), kind, bytes(16), 7, 8, b"body")
    assert (signed.kind, signed.version, signed.expires, signed.signer) == (kind, 7, 8, b"k")
    assert verify(signed, HashVerifier())
