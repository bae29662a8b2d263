"""One candidate: whom it asks, what it takes over, when it is root, and how it goes on when others do not answer."""

from __future__ import annotations

import msgspec
import pytest

from protocol.effects import Effect, Outbox, Penalize, Send, SetTimer, StartTransfer
from protocol.errors import Code
from protocol.events import TransferDone, TransferFailed
from protocol.ids import NodeId
from protocol.messages import Contact, Message, Value
from protocol.streams import Stream
from pubsub.config import SECOND, TreeConfig
from pubsub.heads import Head, Link, Proof, Warrant
from pubsub.holdings import Holdings
from pubsub.messages import LEAP, Accept, Accepted, Holding, Prepare, Promise, Withdraw
from pubsub.proposer import Phase, Proposer
from pubsub.sizes import FACTOR, SLACK
from tests.pubsub.quiet import QuietRing
from tests.pubsub.seals import digest, granted, link, node, proofs, proven, seal, vote

APP = b"application-id-1"
V = tuple(Contact(node(index), (f"10.0.0.{index}:1",), 1) for index in range(9))
ME = V[8]
SMALL, BIG, NEXT = Value(1, b"m"), Value(100_000, b"", b"B" * 32), Value(100_000, b"", b"N" * 32)


def head(epoch: int, round_: int, voters: tuple[Contact, ...], model: Value = SMALL) -> Head:
    """As it was proposed by another root; proven, when its round is known to be committed."""
    return Head(APP, epoch, round_, V[0], voters, model)


class Bench:
    """A candidate in front of voters that the test plays."""

    def __init__(self, genesis: Head) -> None:
        self.ring = QuietRing(V)
        self.out = Outbox()
        self.holdings = Holdings(self.out)
        self.rooted: list[Head] = []
        self.committed: list[Head] = []
        self.said: list[str] = []
        self.effects: list[Effect] = []
        self.now = 0
        self.proposer = Proposer(
            APP, ME, TreeConfig(), ring=self.ring, out=self.out, stream=Stream(0), genesis=genesis,
            holdings=self.holdings, proofs=proofs(ME.id),
            on_rooted=lambda head, now: self.rooted.append(head),
            on_committed=lambda head, now: self.committed.append(head),
            status=lambda status, detail, now: self.said.append(status),
        )  # fmt: skip

    def phase(self) -> Phase:
        return self.proposer.phase

    def sent(self, kind: type[Message]) -> list[NodeId]:
        """To whom messages of ``kind`` went since the last question."""
        new = self.out.drain()
        self.effects += new
        return [effect.peer for effect in new if isinstance(effect, Send) and isinstance(effect.message, kind)]

    def promise(self, voter: Contact, accepted: Head | None = None, epoch: int | None = None) -> None:
        """``accepted`` comes with the right that its root had to propose it."""
        epoch = self.proposer.epoch if epoch is None else epoch
        seal = vote(voter.id, APP, epoch, ME, accepted).seal
        warrant = self.warrant(accepted) if accepted is not None else None
        self.proposer.on_promise(voter.id, Promise(APP, epoch, ME.incarnation, seal, accepted, warrant), self.now)

    @staticmethod
    def warrant(accepted: Head) -> Warrant:
        if accepted.round == 0:
            return granted(accepted, None)
        return granted(accepted, msgspec.structs.replace(accepted, epoch=accepted.epoch - 1))

    def accepted(self, voter: Contact) -> None:
        proposed = self.proposer._proposed
        assert proposed is not None
        self.proposer.on_accepted(voter.id, acceptance(voter, proposed), self.now)

    def tick(self) -> None:
        self.now += SECOND
        self.proposer.on_timer(self.now)


def acceptance(voter: Contact, of: Head) -> Accepted:
    return Accepted(APP, of.order, digest(of), seal(voter.id, digest(of)))


def ids(*indices: int) -> list[NodeId]:
    return [V[index].id for index in indices]


@pytest.fixture
def bench() -> Bench:
    bench = Bench(head(0, 0, V[:3]))
    bench.proposer.epoch = 4
    bench.proposer.stand(head(0, 0, V[:3]), 0)
    return bench


def leading(bench: Bench, accepted: Head | None = None) -> Bench:
    for voter in V[:2]:
        bench.promise(voter, accepted)
    for voter in V[:2]:
        bench.accepted(voter)
    assert bench.proposer.leading
    bench.sent(Accept)
    return bench


def test_it_asks_all_voters_and_needs_a_majority(bench: Bench) -> None:
    assert bench.sent(Prepare) == ids(0, 1, 2)
    bench.promise(V[0])
    assert bench.phase() is Phase.PREPARING
    bench.promise(V[0])
    assert bench.phase() is Phase.PREPARING
    bench.promise(V[1])
    assert bench.phase() is Phase.ADOPTING
    assert bench.sent(Accept) == ids(0, 1, 2)


def test_it_is_root_only_when_a_majority_holds_the_inherited_head(bench: Bench) -> None:
    inherited = head(0, 0, V[:3])
    bench.promise(V[0])
    bench.promise(V[1])
    bench.accepted(V[2])
    assert not bench.rooted
    bench.accepted(V[0])
    (rooted,) = bench.rooted
    assert digest(rooted) == digest(msgspec.structs.replace(inherited, epoch=5, root=ME))
    assert proofs(ME.id).committed(head(0, 0, V[:3]), rooted)
    assert not bench.committed


def test_what_strangers_and_dead_epochs_answer_does_not_count(bench: Bench) -> None:
    bench.promise(V[5])
    bench.promise(V[0], epoch=7)
    bench.promise(V[0], epoch=0)
    bench.promise(V[1])
    assert bench.phase() is Phase.PREPARING


def test_a_promise_with_a_head_of_another_application_or_time_is_a_penalty(bench: Bench) -> None:
    bench.promise(V[0], msgspec.structs.replace(head(0, 1, V[:3]), app=b"?" * 16))
    bench.promise(V[1], head(9, 1, V[:3]))
    bench.sent(Prepare)
    codes = [effect.code for effect in bench.effects if isinstance(effect, Penalize)]
    assert codes == [Code.UNAUTHORISED] * 2
    assert bench.phase() is Phase.PREPARING


def test_the_newest_accepted_head_is_taken_over_epoch_before_round() -> None:
    bench = Bench(head(0, 0, V[:5]))
    bench.proposer.epoch = 8
    bench.proposer.stand(head(3, 7, V[:5]), 0)
    bench.promise(V[0], head(3, 8, V[:5], Value(1, b"a")))
    bench.promise(V[1], head(4, 7, V[:5], Value(1, b"b")))
    bench.promise(V[2], head(3, 7, V[:5], Value(1, b"c")))
    for voter in V[:3]:
        bench.accepted(voter)
    assert (bench.rooted[0].order, bench.rooted[0].model) == ((9, 7, 0), Value(1, b"b"))


def test_an_outdated_voter_set_leads_to_the_newest_one(bench: Bench) -> None:
    """Voters were {0,1,2}; then 3 was added, then 0 removed, then 4 added."""
    bench.sent(Prepare)
    added = head(1, 1, V[:4])
    links: tuple[Link, ...] = (link(proven(added)),)
    removed = msgspec.structs.replace(head(1, 2, V[1:4]), proof=Proof((), links))
    links += (link(proven(removed)),)
    newest = msgspec.structs.replace(head(1, 3, V[1:5]), proof=Proof((), links))
    bench.promise(V[0], added)
    assert bench.sent(Prepare) == ids(1, 2, 3)
    bench.promise(V[3], newest)
    assert bench.sent(Prepare) == ids(1, 2, 4)
    assert bench.phase() is Phase.PREPARING
    bench.promise(V[4], newest)
    assert bench.phase() is Phase.PREPARING
    bench.promise(V[1], removed)
    assert bench.phase() is Phase.ADOPTING
    assert bench.sent(Accept) == ids(1, 2, 3, 4)


def test_a_head_older_than_what_is_known_to_be_committed_is_never_taken_over() -> None:
    bench = Bench(head(0, 0, V[:3]))
    bench.proposer.stand(head(2, 5, V[:3]).outline(), 0)
    for voter in V[:3]:
        bench.promise(voter, head(2, 4, V[:3]))
    assert bench.phase() is Phase.PREPARING
    for _ in range(10):
        bench.tick()
    assert bench.phase() is Phase.PREPARING
    assert "stalled" in bench.said


def test_who_does_not_answer_is_asked_again_with_growing_pauses(bench: Bench) -> None:
    bench.promise(V[1])
    bench.sent(Prepare)
    pauses: list[int] = []
    for _ in range(8):
        bench.tick()
        assert bench.sent(Prepare) == ids(0, 2)
        (timer,) = [effect for effect in bench.effects[-3:] if isinstance(effect, SetTimer)]
        pauses.append(timer.at - bench.now)
    assert max(pauses) <= TreeConfig().retry_limit * 5 // 4
    assert pauses[3] > 4 * pauses[0]
    assert "stalled" in bench.said


def test_a_root_without_a_majority_gives_way_in_the_end(bench: Bench) -> None:
    leading(bench)
    bench.proposer.propose(head(5, 1, V[:3]), bench.now)
    assert not bench.proposer.on_timer(bench.now + TreeConfig().yield_after - 1)
    assert bench.proposer.on_timer(bench.now + TreeConfig().yield_after)


def test_without_a_majority_it_says_stalled_and_goes_on_when_they_return(bench: Bench) -> None:
    leading(bench)
    bench.proposer.propose(head(5, 1, V[:3]), bench.now)
    bench.accepted(V[0])
    for _ in range(7):
        bench.tick()
    assert bench.said[-1] == "stalled"
    assert not bench.committed
    bench.accepted(V[2])
    assert [one.order for one in bench.committed] == [(5, 1, 0)]


def test_an_answer_to_another_round_does_not_commit(bench: Bench) -> None:
    leading(bench)
    bench.proposer.propose(head(5, 1, V[:3]), bench.now)
    proposed = bench.proposer._proposed
    assert proposed is not None
    for voter in V[:3]:
        bench.proposer.on_accepted(voter.id, acceptance(voter, bench.rooted[0]), bench.now)
    for voter in V[5:]:
        bench.proposer.on_accepted(voter.id, acceptance(voter, proposed), bench.now)
    assert not bench.committed


def test_the_answers_of_removed_voters_do_not_commit(bench: Bench) -> None:
    leading(bench)
    bench.proposer.propose(head(5, 1, V[1:3]), bench.now)
    bench.accepted(V[0])
    bench.accepted(V[1])
    assert not bench.committed
    bench.accepted(V[2])
    assert bench.committed


def test_retiring_forgets_what_was_under_way(bench: Bench) -> None:
    leading(bench)
    bench.proposer.propose(head(5, 1, V[:3]), bench.now)
    proposed = bench.proposer._proposed
    assert proposed is not None
    assert bench.proposer.retire(8)
    assert not bench.proposer.busy
    for voter in V[:3]:
        bench.proposer.on_accepted(voter.id, acceptance(voter, proposed), bench.now)
    assert not bench.committed
    bench.proposer.stand(head(1, 0, V[:3]), bench.now)
    assert bench.proposer.epoch == 9


def test_one_voter_that_follows_another_does_not_end_a_candidacy(bench: Bench) -> None:
    assert not bench.proposer.on_stale(V[0].id, 9, bench.now)
    assert not bench.proposer.on_stale(V[7].id, 9, bench.now)
    bench.promise(V[1])
    bench.promise(V[2])
    assert bench.phase() is Phase.ADOPTING


def test_a_majority_that_follows_another_does(bench: Bench) -> None:
    assert not bench.proposer.on_stale(V[0].id, 9, bench.now)
    assert bench.proposer.on_stale(V[1].id, 9, bench.now)


def test_a_vote_that_is_split_while_the_rest_are_dead_begins_anew(bench: Bench) -> None:
    bench.promise(V[0])
    assert not bench.proposer.on_stale(V[1].id, 9, bench.now)
    assert not bench.proposer.on_timer(bench.now + SECOND)
    assert bench.proposer.on_timer(bench.now + TreeConfig().candidacy)
    bench.proposer.retire(0)
    bench.proposer.stand(head(0, 0, V[:3]), bench.now)
    assert not bench.proposer.on_timer(bench.now + SECOND)


def test_whoever_gives_up_gives_back_the_promises_that_it_got_or_may_get(bench: Bench) -> None:
    bench.promise(V[0])
    bench.proposer.retire(0)
    assert bench.sent(Withdraw) == ids(0, 1, 2)
    bench.proposer.stand(head(0, 0, V[:3]), 0)
    leading(bench)
    bench.proposer.retire(0)
    assert bench.sent(Withdraw) == [], "a root says that its reign is over"


def test_a_root_whose_voters_change_towards_those_that_follow_another_begins_anew() -> None:
    """It committed with three of five while two followed another candidate of its epoch; then one of the three died."""
    bench = Bench(head(0, 0, V[:5]))
    bench.proposer.stand(head(0, 0, V[:5]), 0)
    for voter in V[:3]:
        bench.promise(voter)
    for voter in V[3:5]:
        assert not bench.proposer.on_stale(voter.id, 9, bench.now)
    for voter in V[:3]:
        bench.accepted(voter)
    assert bench.proposer.leading
    assert not bench.proposer.on_timer(bench.now)
    bench.proposer.propose(head(1, 1, V[1:5]), bench.now)
    bench.accepted(V[1])
    bench.accepted(V[2])
    assert bench.proposer.busy
    assert bench.proposer.on_timer(bench.now + SECOND)


# ---- large models --------------------------------------------------------------------------------------------------


def transfers(bench: Bench) -> list[NodeId]:
    bench.sent(Prepare)
    return [effect.peer for effect in bench.effects if isinstance(effect, StartTransfer)]


def test_the_model_is_fetched_before_it_is_proposed(bench: Bench) -> None:
    held = head(1, 1, V[:3], BIG)
    bench.promise(V[0], held)
    bench.promise(V[1], head(1, 0, V[:3]))
    assert transfers(bench) == ids(0)
    assert not bench.proposer.busy
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    assert bench.proposer.busy


def test_a_reported_head_beyond_what_the_descriptor_allows_is_no_promise(bench: Bench) -> None:
    huge = Value(FACTOR * SMALL.size + SLACK + 1, b"", b"H" * 32)
    bench.promise(V[0], head(1, 1, V[:3], huge))
    assert transfers(bench) == []
    assert [(e.peer, e.code) for e in bench.effects if isinstance(e, Penalize)] == [(V[0].id, Code.OVERSIZE)]
    bench.promise(V[1])
    assert not bench.proposer.busy
    bench.promise(V[2])
    assert bench.proposer.busy


def test_a_holder_that_dies_is_replaced_by_one_that_promised_later(bench: Bench) -> None:
    held = head(1, 1, V[:3], BIG)
    bench.promise(V[0], held)
    bench.promise(V[1], head(1, 0, V[:3]))
    bench.holdings.handle(TransferFailed(BIG.blob, 0), 0)
    bench.holdings.handle(TransferFailed(BIG.blob, 0), 0)
    assert len(bench.holdings) == 0
    bench.sent(Prepare)
    bench.tick()
    assert bench.sent(Prepare) == ids(2)
    bench.promise(V[2], held)
    bench.tick()
    for _ in range(3):
        bench.holdings.handle(TransferFailed(BIG.blob, 0), 0)
    assert V[2].id in transfers(bench)
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    assert bench.proposer.busy


def test_a_newer_head_that_shows_itself_late_is_taken_instead(bench: Bench) -> None:
    bench.promise(V[0], head(1, 1, V[:3], BIG))
    bench.promise(V[1])
    bench.promise(V[2], head(1, 2, V[:3], NEXT))
    assert set(transfers(bench)) == set(ids(0, 2))
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    assert not bench.proposer.busy
    bench.holdings.handle(TransferDone(NEXT.blob), 0)
    assert bench.proposer._proposed is not None
    assert bench.proposer._proposed.round == 2


def test_a_transfer_that_ends_after_the_candidacy_proposes_nothing(bench: Bench) -> None:
    bench.promise(V[0], head(1, 1, V[:3], BIG))
    bench.promise(V[1])
    bench.proposer.retire(9)
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    assert not bench.proposer.busy


def test_waiting_for_a_model_never_stops_asking(bench: Bench) -> None:
    bench.promise(V[0], head(1, 1, V[:3], BIG))
    bench.promise(V[1])
    for _ in range(20):
        bench.effects.clear()
        bench.tick()
        bench.sent(Prepare)
        assert any(isinstance(effect, SetTimer) for effect in bench.effects)
        bench.holdings.handle(TransferFailed(BIG.blob, 0), 0)
    bench.tick()
    bench.holdings.handle(TransferDone(BIG.blob), 0)
    assert bench.proposer.busy


def test_a_head_that_nobody_can_give_is_given_up_when_the_others_are_a_majority(bench: Bench) -> None:
    bench.promise(V[0], head(1, 1, V[:3], BIG))
    bench.promise(V[1])
    for _ in range(2):
        bench.holdings.handle(TransferFailed(BIG.blob, 0), 0)
    assert not bench.proposer.busy, "V[0] and V[2] may have committed it"
    bench.tick()
    bench.promise(V[2])
    for _ in range(2):
        bench.holdings.handle(TransferFailed(BIG.blob, 0), 0)
    proposed = bench.proposer._proposed
    assert proposed is not None
    assert (proposed.round, proposed.model) == (0, SMALL)


def test_a_promise_for_another_life_does_not_count(bench: Bench) -> None:
    seal_ = vote(V[0].id, APP, 5, ME).seal
    bench.proposer.on_promise(V[0].id, Promise(APP, 5, ME.incarnation + 1, seal_), 0)
    bench.promise(V[1])
    assert bench.phase() is Phase.PREPARING


def test_an_acceptance_of_what_an_earlier_life_proposed_does_not_count(bench: Bench) -> None:
    leading(bench)
    bench.proposer.propose(head(5, 1, V[:3]), bench.now)
    proposed = bench.proposer._proposed
    assert proposed is not None
    earlier = msgspec.structs.replace(proposed, root=msgspec.structs.replace(ME, incarnation=0))
    for voter in V[:3]:
        bench.proposer.on_accepted(voter.id, acceptance(voter, earlier), bench.now)
    assert not bench.committed


def test_a_seal_that_is_not_the_voters_is_not_counted(bench: Bench) -> None:
    forged = vote(V[7].id, APP, 5, ME).seal
    for voter in V[:2]:
        bench.proposer.on_promise(voter.id, Promise(APP, 5, ME.incarnation, forged), 0)
    assert bench.phase() is Phase.PREPARING
    bench.sent(Prepare)
    assert [effect.code for effect in bench.effects if isinstance(effect, Penalize)] == [Code.BAD_SIGNATURE] * 2


def test_a_newer_proven_head_tells_a_candidate_whom_to_ask(bench: Bench) -> None:
    bench.sent(Prepare)
    newer = proven(head(1, 2, V[:4]))
    bench.proposer.rebase(newer, bench.now)
    assert bench.sent(Prepare) == ids(0, 1, 2, 3)
    for voter in V[:3]:
        bench.promise(voter, head(1, 2, V[:4]))
    assert bench.phase() is Phase.ADOPTING


def test_a_candidate_gives_its_epoch_up_after_a_time(bench: Bench) -> None:
    assert not bench.proposer.on_timer(bench.now + TreeConfig().yield_after - 1)
    assert bench.proposer.on_timer(bench.now + TreeConfig().yield_after)


def test_a_root_waits_for_voters_to_whom_the_content_is_on_its_way_but_not_for_ever(bench: Bench) -> None:
    leading(bench)
    bench.proposer.propose(head(5, 1, V[:3]), bench.now)
    config, deposed = TreeConfig(), False
    for _ in range(3 * config.hold_limit // config.yield_after):
        for voter in V[:2]:
            bench.proposer.on_holding(voter.id, Holding(APP, (5, 1, 0)), bench.now)
        bench.now += config.yield_after // 2
        deposed = bench.proposer.on_timer(bench.now)
        if deposed:
            break
    assert deposed
    assert config.hold_limit <= bench.now <= config.hold_limit + 2 * config.yield_after
    assert "stalled" not in bench.said[:-3]


def test_a_voter_that_missed_many_epochs_is_led_up_to_the_present_one(bench: Bench) -> None:
    bench.proposer.retire(3 * LEAP)
    bench.proposer.stand(head(0, 0, V[:3]), bench.now)
    bench.sent(Prepare)
    assert not bench.proposer.on_stale(V[0].id, 0, bench.now)
    (asked,) = [effect.message.epoch for effect in bench.out.drain() if isinstance(effect, Send)]  # type: ignore[union-attr]
    assert asked == LEAP
    seal_ = vote(V[0].id, APP, LEAP, ME).seal
    bench.proposer.on_promise(V[0].id, Promise(APP, LEAP, ME.incarnation, seal_), bench.now)
    (asked,) = [effect.message.epoch for effect in bench.out.drain() if isinstance(effect, Send)]  # type: ignore[union-attr]
    assert asked == 2 * LEAP
