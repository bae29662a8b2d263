"""One voter: what it promises, what it accepts, and that it says nothing before it is durable."""

from __future__ import annotations

import msgspec
import pytest

from protocol.effects import Effect, Outbox, Penalize, Pin, Send, StartTransfer, Store
from protocol.errors import Code
from protocol.events import TransferDone, TransferFailed
from protocol.ids import closeness
from protocol.messages import Contact, Message, Value
from pubsub.config import TreeConfig
from pubsub.heads import Head
from pubsub.holdings import Holdings
from pubsub.messages import LEAP, Accept, Accepted, Holding, Prepare, Promise, Reign, Stale, Withdraw
from pubsub.sizes import FACTOR, SLACK, limit
from pubsub.voter import MAX_PENDING, Ballot, Voter
from tests.pubsub.quiet import QuietRing
from tests.pubsub.seals import continued, digest, granted, node, proofs, proven, seal, vote

APP = b"application-id-1"
CONFIG = TreeConfig()
ME = node(0)
A, B = Contact(node(1), ("10.0.0.1:1",), 1), Contact(node(2), ("10.0.0.2:1",), 1)
C = Contact(node(3), ("10.0.0.3:1",), 1)
GENESIS = Head(APP, 0, 0, A, (A, B, C), Value(1, b"m"))


SMALL = Value(1, b"m")


def head(root: Contact, epoch: int, round_: int, model: Value = SMALL) -> Head:
    return Head(APP, epoch, round_, root, (A, B, C), model)


def proposal(of: Head) -> Accept:
    """What the root of ``of``, which won its epoch, sends."""
    if of.round == 0:
        return Accept(of, granted(of))
    return Accept(of, continued(of, proven(msgspec.structs.replace(of, round=of.round - 1))))


def promise(of: Contact, epoch: int, accepted: Head | None = None) -> Promise:
    warrant = proposal(accepted).warrant if accepted is not None else None
    return Promise(APP, epoch, of.incarnation, vote(ME, APP, epoch, of, accepted).seal, accepted, warrant)


def accepted(of: Head) -> Accepted:
    return Accepted(APP, of.order, digest(of), seal(ME, digest(of)))


class Bench:
    """A voter and the disk under it; stores complete when told."""

    def __init__(self) -> None:
        self.out = Outbox(ME)
        self.holdings = Holdings(self.out)
        self.counters: list[str] = []
        self.ring = QuietRing((A, B, C))
        self.newest: Head | None = None
        self.voter = Voter(
            APP, ME, config=CONFIG, ring=self.ring, out=self.out, holdings=self.holdings, proofs=proofs(ME),
            genesis=lambda app: GENESIS, newest=lambda app: self.newest, count=self.counters.append,
            limit=lambda app: limit(GENESIS.model),
        )  # fmt: skip
        self.now = 0
        self.stores: list[bytes] = []
        self.disk: bytes | None = None
        self.seen: list[Effect] = []

    def drain(self) -> list[Message]:
        """What left; stores are held back."""
        sent: list[Message] = []
        for effect in self.out.drain():
            self.seen.append(effect)
            if isinstance(effect, Store):
                assert effect.value is not None
                self.stores.append(effect.value)
            elif isinstance(effect, Send):
                assert isinstance(effect.message, Message)
                sent.append(effect.message)
        return sent

    def flush(self) -> list[Message]:
        """What left, before and after all stores completed, in order."""
        sent = self.drain()
        for value in self.stores:
            self.disk = value
            self.voter.on_stored()
        self.stores = []
        return sent + self.drain()

    def prepare(self, candidate: Contact, epoch: int) -> None:
        """Asked when whoever held the lease has had its time."""
        self.now += CONFIG.reign_patience + CONFIG.sit_out_limit
        self.ask(candidate, epoch)

    def ask(self, candidate: Contact, epoch: int) -> None:
        self.voter.on_prepare(candidate.id, Prepare(APP, epoch, candidate), self.now)

    def accept(self, of: Head) -> None:
        self.voter.on_accept(of.root.id, proposal(of), self.now)

    def restart(self) -> None:
        disk = self.disk
        self.__init__()  # type: ignore[misc]
        if disk is not None:
            self.disk = disk
            self.voter.restore(disk)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_promise_leaves_only_after_it_is_durable(bench: Bench) -> None:
    bench.prepare(A, 3)
    assert bench.drain() == []
    assert bench.flush() == [promise(A, 3)]


def test_an_acceptance_leaves_only_after_it_is_durable(bench: Bench) -> None:
    bench.accept(head(A, 1, 1))
    assert bench.drain() == []
    assert bench.flush() == [accepted(head(A, 1, 1))]


def test_an_epoch_is_promised_to_one_candidate_only(bench: Bench) -> None:
    bench.prepare(A, 3)
    bench.prepare(B, 3)
    assert bench.flush() == [Stale(APP, 3), promise(A, 3)]


def test_a_repeated_question_gets_the_same_answer(bench: Bench) -> None:
    bench.prepare(A, 3)
    assert bench.flush() == [promise(A, 3)]
    bench.prepare(A, 3)
    assert bench.flush() == [promise(A, 3)]


def test_questions_repeated_while_the_disk_writes_cost_no_further_write(bench: Bench) -> None:
    for _ in range(9):
        bench.prepare(A, 3)
    bench.drain()
    assert len(bench.stores) == 1
    assert bench.flush() == [promise(A, 3)]
    for _ in range(9):
        bench.accept(head(A, 3, 1))
    assert bench.drain() == [Holding(APP, (3, 1, 0))] * 8
    assert len(bench.stores) == 1
    assert bench.flush() == [accepted(head(A, 3, 1))]


def test_a_candidate_that_restarted_is_another_one(bench: Bench) -> None:
    bench.prepare(A, 3)
    reborn = msgspec.structs.replace(A, incarnation=2)
    bench.prepare(reborn, 3)
    bench.accept(head(reborn, 3, 1))
    assert bench.flush() == [Stale(APP, 3), Stale(APP, 3), promise(A, 3)]


def test_an_older_epoch_is_told_the_present_one(bench: Bench) -> None:
    bench.prepare(A, 5)
    bench.flush()
    bench.prepare(B, 4)
    bench.accept(head(B, 4, 9))
    assert bench.flush() == [Stale(APP, 5)] * 2
    assert bench.counters == ["stale_refused"] * 2


def test_a_promise_reports_the_newest_accepted_head(bench: Bench) -> None:
    bench.accept(head(A, 1, 1))
    bench.accept(head(A, 1, 2))
    bench.accept(head(A, 1, 1))
    bench.prepare(B, 2)
    answers = bench.flush()
    assert answers[-1] == promise(B, 2, head(A, 1, 2))


def test_a_late_copy_of_an_older_round_is_passed_over(bench: Bench) -> None:
    bench.accept(head(A, 1, 2))
    bench.accept(head(A, 1, 1))
    assert bench.flush() == [accepted(head(A, 1, 2))]
    assert bench.counters == ["accepts_late"]


def test_what_was_said_survives_a_crash(bench: Bench) -> None:
    bench.prepare(A, 2)
    bench.accept(head(A, 2, 1))
    bench.flush()
    bench.restart()
    bench.prepare(B, 2)
    assert bench.flush() == [Stale(APP, 2)]
    bench.prepare(B, 3)
    assert bench.flush() == [promise(B, 3, head(A, 2, 1))]


def test_what_was_not_durable_was_never_said(bench: Bench) -> None:
    bench.prepare(A, 2)
    assert bench.drain() == []
    bench.restart()
    bench.prepare(B, 1)
    assert bench.flush() == [promise(B, 1)]


def test_nobody_stands_or_writes_in_the_name_of_another(bench: Bench) -> None:
    bench.voter.on_prepare(B.id, Prepare(APP, 1, A), 0)
    bench.voter.on_accept(B.id, proposal(head(A, 1, 1)), 0)
    bench.drain()
    assert [effect.code for effect in bench.seen if isinstance(effect, Penalize)] == [Code.UNAUTHORISED] * 2
    assert bench.voter.ballot == Ballot()


# ---- large models --------------------------------------------------------------------------------------------------

BIG, NEXT = Value(100_000, b"", b"B" * 32), Value(100_000, b"", b"N" * 32)


def test_a_head_is_accepted_when_its_model_is_here(bench: Bench) -> None:
    bench.accept(head(A, 1, 1, BIG))
    assert bench.drain() == []
    assert not bench.stores
    assert StartTransfer(A.id, BIG.blob, BIG.size) in bench.seen
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    assert bench.flush() == [accepted(head(A, 1, 1, BIG))]


@pytest.mark.parametrize("which", ["model", "state"])
def test_a_head_beyond_what_the_descriptor_allows_brings_nothing_here_and_is_its_roots_fault(
    bench: Bench, which: str
) -> None:
    huge = Value(FACTOR * GENESIS.model.size + SLACK + 1, b"", b"H" * 32)
    for _ in range(2):
        bench.accept(msgspec.structs.replace(head(A, 1, 1), **{which: huge}))
    assert bench.flush() == []
    found = [effect for effect in bench.seen if not isinstance(effect, Penalize)]
    assert [effect.peer for effect in bench.seen if isinstance(effect, Penalize)] == [A.id] * 2
    assert {effect.code for effect in bench.seen if isinstance(effect, Penalize)} == {Code.OVERSIZE}
    assert found == []
    bench.accept(head(A, 1, 1, BIG))
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    assert bench.flush() == [accepted(head(A, 1, 1, BIG))]


def test_an_acceptance_repeated_while_the_model_travels_tells_that_it_is_under_way(bench: Bench) -> None:
    for _ in range(100):
        bench.accept(head(A, 1, 1, BIG))
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    assert bench.flush() == [Holding(APP, (1, 1, 0))] * 99 + [accepted(head(A, 1, 1, BIG))]


def test_a_model_that_never_came_is_asked_for_again(bench: Bench) -> None:
    bench.accept(head(A, 1, 1, BIG))
    for _ in range(4):
        bench.holdings.handle(TransferFailed(BIG.blob, 0), 0)
    assert len(bench.holdings) == 0
    bench.accept(head(A, 1, 1, BIG))
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    assert bench.flush() == [accepted(head(A, 1, 1, BIG))]


def test_the_epoch_may_pass_while_the_model_travels(bench: Bench) -> None:
    bench.accept(head(A, 1, 1, BIG))
    bench.prepare(B, 2)
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    assert bench.flush() == [Stale(APP, 2), promise(B, 2)]


def test_the_model_of_the_newest_head_is_pinned_and_no_other(bench: Bench) -> None:
    for round_, model in ((1, BIG), (2, NEXT), (3, NEXT)):
        bench.accept(head(A, 1, round_, model))
        bench.holdings.handle(TransferDone(model.blob), 0)
        bench.flush()
    pins = [(effect.blob, effect.keep) for effect in bench.seen if isinstance(effect, Pin)]
    assert pins == [(BIG.blob, True), (NEXT.blob, True), (BIG.blob, False)]


def test_a_restarted_voter_pins_what_it_guards(bench: Bench) -> None:
    bench.accept(head(A, 1, 1, BIG))
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    bench.flush()
    bench.restart()
    bench.drain()
    assert Pin(BIG.blob) in bench.seen


# ---- bounds --------------------------------------------------------------------------------------------------------


def test_a_slow_disk_bounds_what_is_promised(bench: Bench) -> None:
    for epoch in range(1, 3 * MAX_PENDING):
        bench.prepare(A, epoch)
    assert len(bench.flush()) == MAX_PENDING
    assert "voter_overflow" in bench.counters
    bench.prepare(A, 3 * MAX_PENDING)
    assert bench.flush() == [promise(A, 3 * MAX_PENDING)]


def test_a_corrupt_ballot_is_not_restored(bench: Bench) -> None:
    with pytest.raises(msgspec.MsgspecError):
        bench.voter.restore(b"\xc1")


def test_epochs_out_of_this_world_are_a_penalty(bench: Bench) -> None:
    bench.prepare(A, 1 << 62)
    bench.drain()
    assert [effect.code for effect in bench.seen if isinstance(effect, Penalize)] == [Code.UNAUTHORISED]
    bench.prepare(B, 1)
    assert bench.flush() == [promise(B, 1)]


@pytest.mark.parametrize("value", [Value(3, b"ab"), Value(9, b"", b"short")])
def test_a_value_that_contradicts_itself_is_not_accepted(bench: Bench, value: Value) -> None:
    bench.accept(head(A, 1, 1, value))
    bench.drain()
    assert [effect.code for effect in bench.seen if isinstance(effect, Penalize)] == [Code.MALFORMED]
    assert len(bench.holdings) == 0


# ---- whom a voter follows ------------------------------------------------------------------------------------------


def reign(of: Contact, epoch: int) -> Reign:
    return Reign(proven(head(of, epoch, 1)).outline())


def test_whoever_hears_a_root_promises_nothing_to_others_until_it_is_silent_dead_or_steps_down(bench: Bench) -> None:
    for ending in ("silence", "death", "over"):
        bench.restart()
        bench.disk = None
        bench.restart()
        bench.prepare(A, 1)
        bench.voter.on_reign(A.id, reign(A, 1), bench.now)
        bench.flush()
        bench.ask(B, 2)
        assert bench.flush() == [Stale(APP, 1)]
        if ending == "silence":
            bench.now += CONFIG.reign_patience + 1
        elif ending == "death":
            bench.ring.dead = [A.id]
        else:
            bench.voter.on_reign(A.id, msgspec.structs.replace(reign(A, 1), over=True), bench.now)
        bench.ask(B, 2)
        assert bench.flush() == [promise(B, 2)]


def test_a_root_that_a_voter_does_not_follow_is_told_so(bench: Bench) -> None:
    bench.prepare(B, 4)
    bench.voter.on_reign(A.id, reign(A, 1), bench.now)
    assert bench.flush() == [Stale(APP, 4), promise(B, 4)]
    bench.prepare(C, 5)
    assert bench.flush() == [promise(C, 5)]


def test_nobody_reigns_in_the_name_of_another(bench: Bench) -> None:
    bench.prepare(A, 1)
    bench.voter.on_reign(B.id, reign(A, 1), bench.now)
    bench.drain()
    assert Code.UNAUTHORISED in [effect.code for effect in bench.seen if isinstance(effect, Penalize)]
    bench.prepare(B, 2)
    assert promise(B, 2) in bench.flush()


def test_only_who_stands_near_the_id_or_votes_may_stand(bench: Bench) -> None:
    crowd = sorted((Contact(node(index), ("10.0.1.1:1",), 1) for index in range(10, 60)), key=near)
    bench.ring.near = tuple(crowd)
    bench.prepare(crowd[30], 1)
    assert bench.flush() == []
    assert bench.counters == ["candidates_implausible"]
    bench.prepare(crowd[3], 1)
    assert bench.flush() == [promise(crowd[3], 1)]
    bench.ring.near = tuple(contact for contact in crowd if contact.id != A.id)
    bench.prepare(A, 2)
    assert bench.flush() == [promise(A, 2)]


def near(contact: Contact) -> tuple[int, bytes]:
    return closeness(APP, contact.id)


def test_epochs_grow_by_small_steps(bench: Bench) -> None:
    bench.prepare(A, LEAP + 1)
    assert bench.flush() == [Stale(APP, 0)]
    bench.prepare(A, LEAP)
    bench.prepare(A, 2 * LEAP)
    assert bench.flush() == [promise(A, LEAP), promise(A, 2 * LEAP)]
    bench.newest = proven(head(A, 1000, 1))
    bench.prepare(A, 1000 + LEAP)
    assert bench.flush() == [promise(A, 1000 + LEAP)]


def test_one_candidate_gets_so_many_answers_and_no_more_in_a_while(bench: Bench) -> None:
    burst = CONFIG.epoch_burst
    for epoch in range(1, 60):
        bench.ask(A, epoch)
        if epoch % 20 == 0:
            bench.flush()
    assert bench.voter.ballot.promised == CONFIG.climb
    assert bench.counters.count("candidates_hasty") == 59 - burst
    bench.now += CONFIG.candidacy + CONFIG.sit_out_limit
    bench.ask(A, CONFIG.climb + 1)
    assert bench.voter.ballot.promised == CONFIG.climb + 1


def test_refused_questions_cost_a_candidate_its_pace_too(bench: Bench) -> None:
    bench.ask(A, 1)
    for epoch in range(2, 60):
        bench.ask(B, epoch)
    assert bench.flush() == [Stale(APP, 1)] * CONFIG.epoch_burst + [promise(A, 1)]


def test_whoever_was_promised_something_has_time_to_propose(bench: Bench) -> None:
    bench.ask(A, 1)
    bench.flush()
    bench.now += CONFIG.candidacy
    bench.ask(B, 2)
    assert bench.flush() == [Stale(APP, 1)]
    bench.accept(head(A, 1, 0))
    bench.now += CONFIG.reign_patience
    bench.ask(B, 2)
    assert bench.flush() == [Stale(APP, 1), accepted(head(A, 1, 0))]
    bench.now += 1
    bench.ask(B, 2)
    assert bench.flush() == [promise(B, 2, head(A, 1, 0))]


def test_a_model_on_its_way_is_time_well_spent(bench: Bench) -> None:
    bench.ask(A, 1)
    for _ in range(10):
        bench.accept(head(A, 1, 1, BIG))
        bench.now += CONFIG.retry_limit
        bench.ask(B, 2)
    assert not [message for message in bench.flush() if isinstance(message, Promise) and message.epoch == 2]


def test_who_gives_up_makes_room_but_takes_no_promise_back(bench: Bench) -> None:
    bench.ask(A, 2)
    bench.voter.on_withdraw(B.id, Withdraw(APP, 2), bench.now)
    bench.voter.on_withdraw(A.id, Withdraw(APP, 1), bench.now)
    bench.ask(B, 3)
    bench.voter.on_withdraw(A.id, Withdraw(APP, 2), bench.now)
    bench.ask(B, 2)
    bench.ask(B, 3)
    assert bench.flush() == [Stale(APP, 2)] * 2 + [promise(A, 2), promise(B, 3)]


def test_a_restarted_voter_stays_with_the_root_that_it_followed(bench: Bench) -> None:
    for ending in ("silence", "death"):
        bench.disk = None
        bench.restart()
        bench.ask(A, 1)
        bench.accept(head(A, 1, 0))
        bench.flush()
        bench.restart()
        bench.now = 17 * CONFIG.reign_patience
        bench.ask(B, 2)
        assert bench.flush() == [Stale(APP, 1)]
        assert (A.id, bench.voter.lease.purpose) in bench.ring.watched
        if ending == "silence":
            bench.now += CONFIG.reign_patience + 1
        else:
            bench.ring.dead = [A.id]
        bench.ask(B, 2)
        assert bench.flush() == [promise(B, 2, head(A, 1, 0))]


def test_a_voter_follows_a_proven_root_of_an_epoch_that_it_missed(bench: Bench) -> None:
    bench.ask(A, 1)
    bench.voter.on_reign(B.id, reign(B, 2), bench.now)
    bench.ask(C, 3)
    assert bench.flush() == [Stale(APP, 1), promise(A, 1)]
    assert bench.voter.root == B


# ---- what a voter seals --------------------------------------------------------------------------------------------


def blame(bench: Bench) -> list[Code]:
    bench.drain()
    return [effect.code for effect in bench.seen if isinstance(effect, Penalize)]


def test_a_head_without_a_right_to_propose_it_is_not_sealed(bench: Bench) -> None:
    of = head(A, 1, 1)
    bench.voter.on_accept(A.id, Accept(of, granted(of, None, [A.id, B.id])), 0)
    bench.voter.on_accept(A.id, Accept(of, continued(of, proven(head(B, 1, 0)))), 0)
    assert blame(bench) == [Code.UNAUTHORISED] * 2
    assert bench.voter.ballot == Ballot()


def test_two_heads_of_one_order_are_not_both_sealed(bench: Bench) -> None:
    bench.accept(head(A, 1, 1))
    bench.accept(head(A, 1, 1, Value(1, b"x")))
    assert blame(bench) == [Code.UNAUTHORISED]
    assert bench.voter.ballot.accepted == head(A, 1, 1)


def test_a_head_on_voters_that_were_replaced_is_refused(bench: Bench) -> None:
    """Its root won an epoch with the old voters, and knows nothing of the newer ones or says so."""
    seats = (B, C, Contact(node(4), ("10.0.0.4:1",), 1))
    bench.newest = proven(msgspec.structs.replace(head(B, 3, 7), voters=seats))
    stale = msgspec.structs.replace(GENESIS, epoch=4, root=A)
    bench.voter.on_accept(A.id, Accept(stale, granted(stale)), 0)
    assert bench.flush() == [Stale(APP, 0, bench.newest.outline())]


def test_the_old_model_is_let_go_only_when_the_new_ballot_is_durable(bench: Bench) -> None:
    bench.accept(head(A, 1, 1, BIG))
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    bench.flush()
    bench.accept(head(A, 1, 2, NEXT))
    bench.holdings.handle(TransferDone(NEXT.blob), 0)
    bench.drain()
    assert Pin(NEXT.blob) in bench.seen
    assert Pin(BIG.blob, keep=False) not in bench.seen
    bench.flush()
    assert Pin(BIG.blob, keep=False) in bench.seen
