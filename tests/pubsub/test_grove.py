"""Roots that die, sleep, come back and are replaced; voters that go and come; the end of an application."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from protocol.messages import Message
from pubsub.config import TreeConfig
from pubsub.heads import Head
from pubsub.messages import (
    Accept,
    Accepted,
    Committed,
    HeadAnswer,
    HeadQuery,
    Prepare,
    Promise,
    Stale,
    TreeJoin,
    TreeRefuse,
    WaveId,
    WaveOpen,
    WaveUp,
)
from pubsub.proposer import Phase
from pubsub.voter import Ballot
from tests.pubsub.harness import CONFIG, DETECTION, MS, SECOND, Host, Net
from tests.pubsub.seals import digest, granted, proven, vote
from tests.pubsub.seals import seal as seal_of
from tests.pubsub.test_tree import below, settled
from tests.pubsub.test_waves import done, slow


def running(size: int = 10, *, rounds: int = 3, training: int = 1 * SECOND, seed: int = 0) -> Net:
    """Everybody is in the tree and works on round 1."""
    return settled(slow(Net(size, rounds=rounds, min_workers=size, seed=seed), training))


def depose(root: Host) -> None:
    """A majority of its voters has promised a newer epoch to somebody else."""
    for voter in root.grove().proposer.head.voters[1:]:
        root.hear(voter.id, Stale(root.net.app, 5))
    assert not root.is_root


def phase(host: Host) -> Phase:
    found: Phase = host.grove().proposer.phase
    return found


def others(net: Net, *but: Host) -> list[Host]:
    return [host for host in net.by_rank() if host not in but]


# ---- the root goes -------------------------------------------------------------------------------------------------


def test_a_new_root_repeats_the_round_from_what_the_workers_kept() -> None:
    net = running(rounds=2)
    old = net.root
    net.run_until(lambda: all(host.roles.trained == [1] for host in net.hosts.values() if host is not old), 3 * SECOND)
    assert net.round() == 0
    net.min_workers = 9
    net.crash(old)
    net.run_until(lambda: net.round() == 1)
    assert net.root.roles.epochs == [2]
    assert all(host.roles.trained == [1] for host in net.hosts.values() if host is not old)
    assert len(net.committed[net.app, 1].contributors) == 9
    done(net, 9)


def test_a_root_that_dies_between_two_rounds_loses_nothing() -> None:
    net = running(rounds=4)
    net.run_until(lambda: net.round() == 2)
    net.min_workers = 9
    net.crash(net.root)
    done(net, 9)


def test_a_root_that_restarts_at_once_cannot_go_on_in_its_epoch() -> None:
    net = running()
    net.run_until(lambda: net.round() == 1)
    root = net.root
    net.crash(root)
    net.restart(root)
    net.run_until(lambda: bool(net.roots()), 20 * SECOND)
    assert net.root.roles.epochs[0] > 1
    done(net, 10)


@pytest.mark.parametrize("asleep", [2 * SECOND, 60 * SECOND])
def test_a_root_that_wakes_up_is_refused_steps_down_and_works_for_the_new_one(asleep: int) -> None:
    net = running(rounds=10**4)
    net.run_until(lambda: net.round() == 1)
    old = net.root
    net.freeze(old)
    net.min_workers = 9
    net.run_until(lambda: net.roots() != [old] and len(net.roots()) > 1, 30 * SECOND)
    net.run(asleep - 1 * SECOND)
    net.thaw(old)
    net.run_until(lambda: not old.is_root, 20 * SECOND)
    assert old.roles.deposed
    net.run_until(net.all_attached, 20 * SECOND)
    net.min_workers = 10
    before = net.round()
    net.run_until(lambda: net.round() == before + 2)
    net.check_sums()
    assert len(net.committed[net.app, before + 2].contributors) == 10


def test_a_root_that_nobody_told_asks_for_itself() -> None:
    """All voters changed their mind while nothing of the root's was under way."""
    net = running(rounds=30)
    net.run_until(lambda: net.round() == 1)
    root = net.root
    net.lose(Stale, dst=root)
    for voter in root.grove().head.voters:
        forest = net.hosts[voter.id].forest
        forest.voters[net.app].ballot = Ballot(7, net.by_rank()[9].me, forest.voters[net.app].ballot.accepted)
    net.run_until(lambda: root.roles.deposed != [], 2 * CONFIG.voter_check + CONFIG.yield_after)


def test_the_rendezvous_of_a_root_that_stepped_down_notices() -> None:
    net = running(rounds=100)
    root = net.root
    newcomer = next(host for host in net.by_rank() if host is not root)
    newcomer.grove().rendezvous.root = root.me
    depose(root)
    net.run_until(lambda: bool(net.roots()), 30 * SECOND)
    net.run_until(net.all_attached, 30 * SECOND)


def test_a_node_that_is_closer_leaves_the_root_in_peace() -> None:
    net = Net(10, rounds=6, min_workers=9)
    closest = net.by_rank()[0]
    net.start([host for host in net.hosts.values() if host is not closest])
    net.run_until(lambda: net.round() == 1)
    root = net.root
    net.start([closest])
    net.run_until(lambda: closest.grove().tree.attached, 10 * SECOND)
    assert net.root is root
    net.min_workers = 10
    done(net, 10)
    assert root.roles.epochs == [1]


def test_two_candidates_of_one_epoch_do_not_both_win() -> None:
    net = Net(8, rounds=2)
    first, second = net.by_rank()[:2]
    net.start(join=False)
    second.ring.dead[first.id] = True
    for host in (first, second):
        host.join()
    net.run_until(lambda: net.round() == 2, 120 * SECOND)
    assert len({epoch for host in (first, second) for epoch in host.roles.epochs}) == sum(
        len(host.roles.epochs) for host in (first, second)
    )


def test_commit_and_next_epoch_that_overtake_each_other_break_nothing() -> None:
    """A candidate hears of a newer epoch from its parent before the answers that would have made it root."""
    net = running(rounds=50)
    net.run_until(lambda: net.round() == 1)
    member = next(host for host in others(net, net.root) if host.grove().tree.parent)
    grove, head = member.grove(), net.root.grove().head
    grove.proposer.stand(head, net.now)
    member.out.drain()
    assert phase(member) is Phase.PREPARING
    above = grove.tree.parent
    newer = proven(msgspec.structs.replace(head, epoch=9))
    member.hear(above, WaveOpen(net.app, WaveId(9, head.round + 1, 0), newer.lean(), 0))
    assert phase(member) is Phase.IDLE
    for voter in head.voters:
        seal = vote(voter.id, net.app, 2, member.me, head).seal
        member.hear(voter.id, Promise(net.app, 2, member.me.incarnation, seal, head))
        won = msgspec.structs.replace(head, epoch=2, root=member.me)
        member.hear(voter.id, Accepted(net.app, won.order, digest(won), seal_of(voter.id, digest(won))))
    assert not grove.proposer.leading
    net.run(10 * SECOND)


def test_an_old_refusal_does_not_end_a_newer_candidacy() -> None:
    net = Net(6, voters=3)
    net.start([net.by_rank()[0]], join=False)
    host = net.by_rank()[0]
    host.grove().proposer.epoch = 6
    host.do(lambda now: host.grove().proposer.stand(net.genesis.head(), now))
    assert phase(host) is Phase.PREPARING
    epoch = host.grove().proposer.epoch
    host.hear(net.by_rank()[1].id, Stale(net.app, epoch - 1))
    assert phase(host) is Phase.PREPARING
    host.hear(net.by_rank()[1].id, Stale(net.app, epoch))
    host.hear(net.by_rank()[2].id, Stale(net.app, epoch))
    assert phase(host) is Phase.IDLE


# ---- the network is cut --------------------------------------------------------------------------------------------


def test_a_minority_decides_nothing_and_the_majority_goes_on() -> None:
    net = running(12, rounds=40, training=100 * MS, seed=1)
    net.run_until(lambda: net.round() == 2)
    root = net.root
    voters = [net.hosts[voter.id] for voter in root.grove().head.voters]
    away = [root, next(voter for voter in voters if voter is not root)]
    net.min_workers = 10
    net.divide(away)
    net.run(1 * SECOND)
    before = net.round()
    net.run_until(lambda: net.round() > before + 2, 60 * SECOND)
    assert all(host not in away for host in net.roots() if host.roles.epochs[-1] > 1)
    net.heal()
    net.run_until(net.all_attached, 60 * SECOND)
    net.min_workers = 12
    done(net, 12)


def test_without_a_majority_it_says_stalled_and_goes_on_when_one_returns() -> None:
    net = running(8, rounds=6)
    net.run_until(lambda: net.round() == 1)
    root = net.root
    gone = [net.hosts[voter.id] for voter in root.grove().head.voters if voter.id != root.id][:3]
    for host in gone:
        net.crash(host)
    net.min_workers = 1
    net.run(20 * SECOND)
    before = net.round()
    assert "stalled" in root.roles.said
    net.run(20 * SECOND)
    assert net.round() == before
    for host in gone:
        net.restart(host)
    net.min_workers = 8
    done(net, 8)


def test_a_root_that_is_cut_off_from_its_voters_gives_way_to_one_that_is_not() -> None:
    """Everybody reaches everybody, but for the root and most of the voters: nobody is dead to anybody."""
    net = Net(10, rounds=10**4, min_workers=1)
    closest = net.by_rank()[0]
    net.start([host for host in net.hosts.values() if host is not closest])
    net.run_until(lambda: net.round() == 1)
    root = net.root
    net.start([closest])
    net.run_until(net.all_attached, 20 * SECOND)
    for voter in root.grove().head.voters:
        if voter.id not in (root.id, closest.id):
            net.lose(Message, src=root, dst=net.hosts[voter.id])
            net.lose(Message, src=net.hosts[voter.id], dst=root)
    net.run_until(lambda: net.roots() == [closest], 60 * SECOND)
    before = net.round()
    net.run_until(lambda: net.round() > before + 2, 30 * SECOND)


@pytest.mark.parametrize("reached", [1, 2])
def test_a_head_that_only_a_minority_holds_is_taken_over_or_replaced_never_doubled(reached: int) -> None:
    net = running(10, rounds=3, training=100 * MS)
    net.run_until(lambda: net.round() == 1)
    root = net.root
    voters = [net.hosts[voter.id] for voter in root.grove().head.voters if voter.id != root.id]
    for voter in voters[reached - 1 :]:
        net.lose(Accept, src=root, dst=voter)
    net.run_until(lambda: net.root.grove().proposer.busy, 10 * SECOND)
    net.run(300 * MS)
    net.rules.clear()
    net.crash(root)
    net.min_workers = 9
    done(net, 9)


# ---- voters --------------------------------------------------------------------------------------------------------


def test_a_dead_voter_is_removed_and_another_is_added_one_at_a_time() -> None:
    net = running(10, rounds=8, training=200 * MS)
    net.run_until(lambda: net.round() == 1)
    dead = next(net.hosts[voter.id] for voter in net.root.grove().head.voters if voter.id != net.root.id)
    net.min_workers = 9
    net.crash(dead)
    done(net, 9)
    heads = [net.committed[net.app, round_] for round_ in range(1, 9)]
    sets = [{voter.id for voter in head.voters} for head in heads]
    assert [len(one) for one in (sets[0], sets[-1])] == [5, 5]
    assert dead.id not in sets[-1]
    assert all(len(before ^ after) <= 1 for before, after in itertools.pairwise(sets))
    told = [tuple(voter.id for voter in head.voters) for head in net.hosts[heads[0].root.id].roles.voters]
    assert len(told) >= 3


def seats(net: Net, host: Host) -> int:
    """How many voters the head that ``host`` guards has."""
    accepted = host.forest.voters[net.app].ballot.accepted
    return len(accepted.voters) if accepted is not None else 0


def test_a_new_root_spreads_the_voters_that_it_took_over() -> None:
    net = running(10, rounds=30, training=200 * MS)
    net.run_until(lambda: net.round() == 1)
    root = net.root
    voters = [net.hosts[voter.id] for voter in root.grove().head.voters if voter.id != root.id]
    net.min_workers = 1
    net.crash(voters[0])
    net.lose(Accepted, dst=root)
    net.lose(Committed, src=root)
    net.run_until(lambda: 4 in [seats(net, voter) for voter in voters[1:]], 30 * SECOND)
    net.crash(root)
    net.run_until(lambda: bool(net.roots()), 30 * SECOND)
    assert len(net.root.grove().head.voters) == 4
    assert [len(head.voters) for head in net.root.roles.voters] == [4]


def test_a_former_root_watches_nobody_as_root() -> None:
    net = running(8, rounds=100)
    root = net.root
    assert [purpose for _, purpose in root.ring.watched if purpose.startswith("root:")]
    depose(root)
    assert not [purpose for _, purpose in root.ring.watched if purpose.startswith("root:")]


def test_a_candidate_with_an_outdated_voter_set_follows_the_chain() -> None:
    net = running(12, rounds=60, training=100 * MS)
    net.run_until(lambda: net.round() == 1)
    net.min_workers = 1
    original = [net.hosts[voter.id] for voter in net.genesis.voters]
    gone = [host for host in original if not host.is_root][:2]
    for host in gone:
        net.crash(host)
        goal = net.round() + 5
        while net.round() < goal or len(net.root.grove().head.voters) < 5:
            net.run(100 * MS)
    for host in others(net, *gone):
        host.grove().head = None
        host.forest.heads.clear()
    net.crash(net.root)
    net.run_until(lambda: bool(net.roots()), 60 * SECOND)
    before = net.round()
    net.run_until(lambda: net.round() > before)


def test_who_was_not_asked_has_no_say_in_who_is_root() -> None:
    net = Net(8, voters=3)
    host = net.by_rank()[0]
    net.start([host], join=False)
    liar = net.by_rank()[7]
    assert host.grove().rendezvous._searching
    forged = msgspec.structs.replace(net.genesis.head(), epoch=3, round=9, voters=(liar.me,))
    host.hear(liar.id, HeadAnswer(net.app, liar.me, forged, True))
    assert host.grove().rendezvous.root is None
    assert host.grove().head is None


def test_nobody_votes_on_an_application_that_it_has_never_heard_of() -> None:
    net = running(4, rounds=100)
    host, other = net.by_rank()[:2]
    for index in range(20):
        unknown = b"%016d" % index
        host.hear(other.id, Prepare(unknown, 1, other.me))
        head = Head(unknown, 1, 0, other.me, (other.me,), net.genesis.initial)
        host.hear(other.id, Accept(head, granted(head)))
    assert list(host.forest.voters) in ([], [net.app])


def test_an_epoch_out_of_reach_is_not_believed() -> None:
    net = running(6, rounds=5, training=200 * MS)
    root = net.root
    member = below(net, root)[0]
    far = msgspec.structs.replace(root.grove().head, epoch=1 << 61)
    root.hear(member.id, Stale(net.app, 1 << 61))
    root.hear(member.id, HeadAnswer(net.app, member.me, far, True))
    root.hear(member.id, TreeJoin(net.app, member.me, 99, None, far.outline()))
    member.hear(root.id, WaveOpen(net.app, WaveId(1 << 61, 1, 0), far.lean(), 0))
    member.hear(root.id, Committed(far))
    done(net, 6)


# ---- the end -------------------------------------------------------------------------------------------------------


def test_the_end_reaches_everybody_and_nothing_is_left_but_the_vote() -> None:
    net = running(10, rounds=2, training=100 * MS)
    done(net, 10)
    net.run(CONFIG.linger + 5 * SECOND)
    for host in net.hosts.values():
        assert not host.forest.groves
        assert not host.forest.known
        assert not host.forest.heads
        assert not host.ring.watched
        assert not [timer for timer in host.timers if timer[0] != "roles.retry"]
    before = len(net.sent)
    net.run(60 * SECOND)
    assert len(net.sent) == before


def test_a_late_member_learns_of_the_end_from_the_record() -> None:
    net = running(6, rounds=1, training=100 * MS)
    late = net.by_rank()[5]
    net.crash(late)
    net.min_workers = 5
    done(net, 5)
    net.run(CONFIG.linger + 5 * SECOND)
    net.restart(late)
    assert late.grove().tree.joining
    head = net.committed[net.app, 1]
    late.do(lambda now: late.forest.heard_of(head.outline(), now))
    late.do(lambda now: late.forest.conclude(net.app, now))
    net.run(CONFIG.linger + 5 * SECOND)
    assert not late.forest.groves


def test_when_the_root_dies_with_the_last_commit_its_successor_spreads_the_end() -> None:
    net = running(8, rounds=1, training=100 * MS)
    root = net.root
    net.lose(Committed, src=root)
    original, net.spread = net.spread, lambda head: None  # type: ignore[method-assign]
    net.run_until(net.finished, 20 * SECOND)
    net.crash(root)
    net.spread = original  # type: ignore[method-assign]
    net.run_until(lambda: all(not h.forest.known for h in net.hosts.values() if h is not root), 60 * SECOND)


def test_a_finished_application_is_not_revived_by_a_join() -> None:
    net = running(6, rounds=1, training=100 * MS)
    done(net, 6)
    net.run(1 * SECOND)
    for host in net.hosts.values():
        assert not host.is_root
        host.hear(net.by_rank()[5].id, TreeRefuse(net.app, 1))
        host.do(host.forest.leaves_changed)
    net.run(5 * SECOND)
    assert not net.roots()


# ---- what anybody may send -----------------------------------------------------------------------------------------


def test_a_node_alone_is_a_whole_fabric() -> None:
    net = Net(1, voters=1, rounds=5)
    net.start()
    done(net, 1)


def test_questions_are_answered_by_anybody() -> None:
    net = running(6, rounds=100)
    root, member = net.root, below(net, net.root)[0]
    for host in (root, member):
        host.hear(net.by_rank()[5].id, HeadQuery(net.app))
        host.hear(net.by_rank()[5].id, HeadQuery(b"?" * 16))
    answers = [message for _, _, _, message in net.sent if isinstance(message, HeadAnswer)]
    assert any(answer.root == root.me for answer in answers)
    assert any(answer.root is None and answer.head is None for answer in answers)


def test_detection_is_what_a_change_of_root_waits_for() -> None:
    net = running(10, rounds=100, training=100 * MS)
    net.run_until(lambda: net.round() == 2)
    net.min_workers = 9
    net.crash(net.root)
    at = net.now
    net.run_until(lambda: bool(net.roots()))
    assert net.now - at < DETECTION + 1 * SECOND


def test_a_partial_of_a_dead_epoch_is_told_so() -> None:
    net = running(6, rounds=100)
    root, member = net.root, below(net, net.root)[0]
    root.grove().epoch = 4
    root.hear(member.id, WaveUp(net.app, WaveId(1, 1, 0), None))
    assert net.sent[-1][2:] == (member.id, Stale(net.app, 4, root.grove().head.outline()))
    assert TreeConfig() == CONFIG


@pytest.mark.parametrize("heard", [True, False])
def test_a_root_that_dies_over_a_commit_leaves_no_two_models_under_one_name(heard: bool) -> None:
    """Two of five voters have accepted the round, one of them is the root that dies.  The next root goes on from those
    very bytes when it hears of them; when it does not it repeats the round, in an epoch of its own.  Nothing is put
    together again under a name that was given."""
    net = running(rounds=4)
    net.run_until(lambda: net.round() == 1)
    root = net.root
    seats = root.grove().head.seats
    *others, first = [host for host in net.by_rank() if host.id in seats and host is not root]
    for voter in others:
        net.lose(Accept, src=root, dst=voter)
    key = f"voter/{net.app.hex()}"
    before = first.disk[key]
    net.run_until(lambda: first.disk[key] != before)
    held = first.forest.voters[net.app].ballot.accepted
    assert held is not None
    assert held.round == 2
    assert net.round() == 1, "no majority has it"
    net.crash(root)
    net.rules.clear()
    net.lose(Promise, src=others[1] if heard else first)
    net.min_workers = 9
    net.run_until(lambda: net.round() == 2, 300 * SECOND)
    assert (net.committed[net.app, 2].contributors == held.contributors) == heard
    assert (net.committed[net.app, 2].model == held.model) == heard
    net.rules.clear()
    done(net, 9)
    proposed = [sent.head for _, _, _, sent in net.sent if isinstance(sent, Accept)]
    named: dict[tuple[int, int, int], bytes] = {}
    models: dict[bytes, Head] = {}
    for head in proposed:
        statement = head.statement()
        assert statement is not None
        assert named.setdefault(head.order, statement.digest()) == statement.digest(), "one head under one name"
        assert models.setdefault(statement.contents, head).model == head.model
    again = [head for head in proposed if head.round == 2 and head.epoch > held.epoch]
    assert again
    assert all((head.model == held.model) == heard for head in again)
