"""Statements of contributors: what they prove, and to whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import ring_id
from protocol.messages import EMPTY, Value
from protocol.signing import Sealer
from pubsub.claims import claim, digest_of, perjurers, proven
from pubsub.messages import Partial, WaveId
from simulations.signing import KeyedHashSigner, KeyedHashVerifier

APP, WAVE = b"a" * 16, WaveId(3, 7, 1)
KEYS = [KeyedHashSigner(1, "member", index) for index in range(6)]
SIGNERS = [Sealer(one, KeyedHashVerifier()) for one in KEYS]
IDS = [ring_id(0, one.public_key, one.nonce) for one in KEYS]
ME = IDS[0]


def own(index: int, weight: float = 1.0) -> Partial:
    return Partial(weight, Value(1, bytes([index])), (IDS[index],), {"loss": 2.0, "loss.n": 1.0})


def check(partial: Partial, *claims: object, sender: bytes, wave: WaveId = WAVE, app: bytes = APP) -> bool:
    return proven(SIGNERS[0], app, wave, partial, claims, sender, ME)  # type: ignore[arg-type]


def test_a_childs_own_statement_is_about_this_wave_value_and_parent() -> None:
    good = claim(SIGNERS[1], APP, WAVE, own(1), ME)
    assert check(own(1), good, sender=IDS[1])
    assert not check(own(1), good, sender=IDS[1], wave=WaveId(3, 7, 2))
    assert not check(own(1), good, sender=IDS[1], app=b"b" * 16)
    assert not check(own(1, weight=2.0), good, sender=IDS[1])
    assert not check(own(1), claim(SIGNERS[1], APP, WAVE, own(1), IDS[2]), sender=IDS[1])
    assert not check(own(1), claim(SIGNERS[2], APP, WAVE, own(1), ME), sender=IDS[1])


@given(st.permutations(range(2, 6)), st.integers(0, 4), st.integers(1, 5))
def test_a_subtree_is_proven_whole_or_not_at_all(order: list[int], broken: int, thief: int) -> None:
    """One claim that is somebody else's is enough to refuse all."""
    members = [*order, 1]
    claims = [claim(SIGNERS[index], APP, WAVE, own(index), ME if index == 1 else IDS[1]) for index in members]
    partial = Partial(5.0, EMPTY, tuple(IDS[index] for index in members))
    assert check(partial, *claims, sender=IDS[1])
    assert not check(partial, *claims[:-1], sender=IDS[1])
    if members[broken] != thief:
        claims[broken] = claim(SIGNERS[thief], APP, WAVE, own(members[broken]), IDS[1])
        assert not check(partial, *claims, sender=IDS[1])


def test_two_statements_convict_and_one_repeated_does_not() -> None:
    one = claim(SIGNERS[1], APP, WAVE, own(1), ME)
    other = claim(SIGNERS[1], APP, WAVE, own(1, weight=2.0), ME)
    elsewhere = claim(SIGNERS[1], APP, WAVE, own(1), IDS[3])
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
