"""What proves a head, and what does not: seals, chains of voters, rights to propose."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Contact, Value
from pubsub.heads import MAX_LINKS, Head, Link, Proof, Vote, Warrant
from pubsub.proofs import charter, full, shortened
from tests.pubsub.seals import continued, digest, granted, node, proofs, proven, vote

APP = b"application-id-1"
V = tuple(Contact(node(index), (f"10.0.0.{index}:1",), 1) for index in range(40))
GENESIS = Head(APP, 0, 0, V[0], V[:5], Value(1, b"g"))
JUDGE = node(39)


def head(epoch: int = 1, round_: int = 1, voters: tuple[Contact, ...] = V[:5], **fields: object) -> Head:
    made = Head(APP, epoch, round_, V[0], voters, Value(1, b"m"), contributors=(node(7),), metrics={"loss": 1.0})
    return msgspec.structs.replace(made, **fields)


def committed(of: Head) -> bool:
    return proofs(JUDGE).committed(GENESIS, of)


@given(st.sets(st.integers(0, 9)))
def test_a_majority_of_the_voters_proves_a_head_and_nobody_else_does(signers: set[int]) -> None:
    sealed = proven(head(), [V[index].id for index in sorted(signers)])
    assert committed(sealed) == (len([index for index in signers if index < 5]) >= 3)


def test_an_outline_proves_as_much_as_the_head() -> None:
    whole = proven(head())
    for copy in (whole, whole.lean(), whole.outline(), whole.lean().outline()):
        assert digest(copy) == digest(whole)
        assert committed(copy)


CHANGES = [
    {"epoch": 2}, {"round": 2}, {"revision": 1}, {"root": V[1]}, {"voters": V[:4]}, {"model": Value(1, b"x")},
    {"state": Value(1, b"s")}, {"contributors": ()}, {"metrics": {"loss": 2.0}}, {"weight": 1.0}, {"finished": True},
    {"report": b"r"}, {"voters": (*V[:4], msgspec.structs.replace(V[4], addresses=("10.9.9.9:1",)))},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_changed_afterwards_is_not_proven(change: dict[str, object]) -> None:
    assert not committed(msgspec.structs.replace(proven(head()), **change))


def test_values_beside_the_digests_that_stand_for_them_prove_nothing() -> None:
    outline = proven(head()).outline()
    assert not committed(msgspec.structs.replace(outline, model=Value(1, b"x")))
    assert not committed(msgspec.structs.replace(outline, metrics={"loss": 9.0}))
    assert not committed(msgspec.structs.replace(outline, left_out=outline.left_out[:40]))


def test_a_seal_for_something_else_proves_nothing() -> None:
    other = proven(head(2, 1))
    assert not committed(msgspec.structs.replace(head(), proof=other.proof))


def test_new_voters_cannot_vouch_for_themselves() -> None:
    """Two of the old and a stranger's four: a majority of the new set alone."""
    forged = head(voters=(*V[:2], *V[20:24]))
    assert not committed(proven(forged, [voter.id for voter in (*V[:2], *V[20:24])]))
    taken = head(voters=V[20:25])
    assert not committed(proven(taken))


def test_a_changed_set_needs_both_majorities() -> None:
    """Five voters, one removed and then another: of four, three; and three of the five before."""
    smaller = head(voters=V[1:5])
    assert committed(proven(smaller, [voter.id for voter in V[1:4]]))
    assert not committed(proven(smaller, [voter.id for voter in (V[0], V[1], V[2])]))
    larger = head(voters=V[:6])
    assert not committed(proven(larger, [voter.id for voter in (V[0], V[1], V[5])]))
    assert not committed(proven(larger, [voter.id for voter in (V[0], V[1], V[2])]))
    assert committed(proven(larger, [voter.id for voter in (V[0], V[1], V[2], V[5])]))


def history(length: int) -> Head:
    """One voter after another is replaced, each time by all who are there."""
    present = proven(head(1, 1))
    for step in range(length):
        links = charter(GENESIS.seats, present)
        voters = present.voters[1:] if step % 2 == 0 else (*present.voters, V[5 + step // 2])
        next_ = head(1, 2 + step, voters)
        signers = sorted({*present.seats, *next_.seats} - {V[step // 2].id if step % 2 == 0 else b""})
        links = shortened(GENESIS.seats, links, signers)
        present = proven(next_, signers, links)
        assert committed(present), step
    return present


@given(st.integers(0, 14))
def test_a_chain_leads_from_the_descriptor_to_any_later_voters(length: int) -> None:
    present = history(length)
    assert len(present.proof.links) <= length // 2
    for cut in range(1, len(present.proof.links) + 1):
        bare = msgspec.structs.replace(present, proof=Proof(present.proof.seals, present.proof.links[cut:]))
        assert not committed(bare)


def test_links_fall_out_when_an_older_majority_has_sealed() -> None:
    assert history(2).proof.links == ()
    assert len(history(14).proof.links) < 7
    assert not full(history(14).proof.links)


def test_links_in_disorder_or_of_another_application_prove_nothing() -> None:
    present = history(14)
    seals, links = present.proof.seals, present.proof.links
    assert len(links) >= 2
    foreign = Link(msgspec.structs.replace(links[0].statement, app=b"?" * 16), links[0].seals)
    for wrong in (links[::-1], (links[0], *links), (foreign, *links[1:])):
        assert not committed(msgspec.structs.replace(present, proof=Proof(seals, wrong[:MAX_LINKS])))


# ---- rights --------------------------------------------------------------------------------------------------------


def warranted(of: Head, warrant: Warrant) -> bool:
    return proofs(JUDGE).warranted(GENESIS, of, warrant)


ADOPTED = msgspec.structs.replace(GENESIS, epoch=3, root=V[8])


def test_whoever_a_majority_promised_its_epoch_may_take_over_the_newest_head() -> None:
    assert warranted(ADOPTED, granted(ADOPTED, None, GENESIS.seats[:3]))
    assert not warranted(ADOPTED, granted(ADOPTED, None, GENESIS.seats[:2]))
    assert not warranted(ADOPTED, granted(ADOPTED, None, [voter.id for voter in V[5:10]]))


def test_promises_to_another_life_or_of_another_epoch_grant_nothing() -> None:
    warrant = granted(ADOPTED)
    for changed in (
        msgspec.structs.replace(ADOPTED, root=msgspec.structs.replace(V[8], incarnation=2)),
        msgspec.structs.replace(ADOPTED, epoch=4),
    ):
        seal = proofs(V[8].id).propose(digest(changed))
        assert not warranted(changed, Warrant(seal, warrant.grant))


def test_a_head_that_a_voter_reported_cannot_be_suppressed() -> None:
    held = head(2, 4, weight=5.0)
    votes = tuple(vote(voter.id, APP, 3, V[8], held if voter is V[2] else None) for voter in V[:3])
    seal = proofs(V[8].id).propose(digest(ADOPTED))
    assert not warranted(ADOPTED, Warrant(seal, votes))
    hidden = tuple(Vote(None, one.seal) for one in votes)
    assert not warranted(ADOPTED, Warrant(seal, hidden))
    right = msgspec.structs.replace(held, epoch=3, root=V[8])
    assert warranted(right, Warrant(proofs(V[8].id).propose(digest(right)), votes))


def test_a_root_goes_on_from_its_own_last_head_to_the_next_round() -> None:
    base = proven(head(1, 4))
    assert warranted(head(1, 5), continued(head(1, 5), base))
    other = head(1, 5, root=V[1])
    for wrong in (head(1, 6), head(2, 5), other, head(1, 4, revision=1, weight=9.0)):
        assert not warranted(wrong, continued(wrong, base))
    unproven = proven(head(1, 4), [voter.id for voter in V[:2]])
    assert not warranted(head(1, 5), continued(head(1, 5), unproven))


def test_a_revision_changes_the_voters_and_nothing_else() -> None:
    base = proven(head(1, 4))
    for voters, right in ((V[:4], True), (V[:6], True), (V[:3], False), ((*V[:4], V[9]), False), ((), False)):
        revised = head(1, 4, voters, revision=1)
        assert warranted(revised, continued(revised, base)) == right


def test_nobody_proposes_in_the_name_of_a_root() -> None:
    right = granted(ADOPTED)
    forged = Warrant(proofs(V[9].id).propose(digest(ADOPTED)), right.grant)
    assert not warranted(ADOPTED, forged)
