"""Who can depose a root, and who cannot: strangers, forged heads, leaps, broken links; and deaths in a long round."""

from __future__ import annotations

import msgspec
import pytest

from protocol.errors import Code
from protocol.messages import Message
from pubsub.messages import (
    LEAP,
    Accept,
    Committed,
    HeadAnswer,
    Prepare,
    Promise,
    Reign,
    Stale,
    TreeJoin,
    WaveId,
    WaveOpen,
)
from tests.pubsub.harness import CONFIG, DETECTION, MS, SECOND, Host, Net
from tests.pubsub.seals import granted, proven
from tests.pubsub.test_grove import running
from tests.pubsub.test_tree import below
from tests.pubsub.test_waves import done, slow


def outsider(net: Net) -> Host:
    return next(host for host in net.by_rank()[::-1] if host.id not in net.root.grove().head.seats)


def penalised(host: Host, peer: Host) -> list[Code]:
    return [code for who, code, _ in host.penalties if who == peer.id]


@pytest.mark.parametrize("leap", [1, LEAP, 1 << 16])
def test_the_word_of_one_node_deposes_nobody(leap: int) -> None:
    net = running(8, rounds=10**4)
    root, liar = net.root, outsider(net)
    epoch, voter = root.grove().epoch, net.hosts[root.grove().head.seats[1]]
    for host in net.hosts.values():
        host.hear(liar.id, Stale(net.app, epoch + leap))
    for _ in range(9):
        root.hear(voter.id, Stale(net.app, epoch + leap))
        net.run(1 * SECOND)
    assert net.roots() == [root]
    assert net.round() > 5
    assert root.roles.epochs == [epoch]


def test_a_head_that_nobody_committed_changes_nothing_and_is_held_against_who_states_it() -> None:
    net = running(8, rounds=3)
    root, liar = net.root, outsider(net)
    before = root.grove().head
    voters = (liar.me, *before.voters[1:])
    forged = proven(msgspec.structs.replace(before, epoch=9, root=liar.me, voters=voters), [liar.id])
    root.hear(liar.id, Stale(net.app, 9, forged.outline()))
    root.hear(liar.id, Reign(forged.outline()))
    assert len(penalised(root, liar)) == 2
    root.hear(liar.id, TreeJoin(net.app, liar.me, 99, None, forged.outline()))
    assert root.grove().head == before
    assert root.is_root
    member = below(net, root)[0]
    member.hear(root.id, Committed(forged))
    member.hear(root.id, WaveOpen(net.app, WaveId(9, 1, 0), forged.lean(), 0))
    assert len(penalised(member, root)) == 2
    assert member.grove().epoch == before.epoch
    assert not member.forest.heard_of(forged.outline(), net.now)
    done(net, 8)


def test_a_proven_head_of_a_newer_epoch_ends_a_reign() -> None:
    net = running(8, rounds=3)
    root = net.root
    newer = proven(msgspec.structs.replace(root.grove().head, epoch=2, root=outsider(net).me))
    root.hear(outsider(net).id, Stale(net.app, 2, newer.outline()))
    assert not root.is_root


def test_an_answer_that_was_asked_for_proves_its_head_too() -> None:
    net = Net(8, voters=3)
    host, liar = net.by_rank()[0], net.by_rank()[1]
    net.start([host], join=False)
    forged = msgspec.structs.replace(net.genesis.head(), epoch=3, round=9, root=liar.me, voters=(liar.me,))
    host.hear(liar.id, HeadAnswer(net.app, liar.me, proven(forged).outline(), True))
    assert host.grove().head is None
    assert penalised(host, liar) == [Code.UNAUTHORISED]
    host.hear(liar.id, HeadAnswer(net.app, liar.me, None, True))
    assert host.grove().rendezvous.root is None, "whoever says that it is root shows its head"


def test_a_voter_that_hears_the_root_promises_nothing_to_others() -> None:
    net = running(8, rounds=100)
    net.run(2 * CONFIG.voter_check)
    root, liar = net.root, next(host for host in net.by_rank() if not host.is_root)
    for epoch in (2, 3, LEAP):
        for voter in root.grove().head.voters:
            net.hosts[voter.id].hear(liar.id, Prepare(net.app, epoch, liar.me))
    net.run(1 * SECOND)
    assert not [message for _, _, peer, message in net.sent if peer == liar.id and isinstance(message, Promise)]
    assert root.is_root


def test_two_that_cannot_reach_each_other_do_not_depose_each_other() -> None:
    """The two nodes closest to the id; everybody else reaches both."""
    net = running(12, rounds=10**4)
    net.run_until(lambda: net.round() == 2)
    first, second = net.by_rank()[:2]
    net.min_workers = 1
    for src, dst in ((first, second), (second, first)):
        net.lose(Message, src=src, dst=dst)
        src.ring.dead[dst.id] = True
        src.do(lambda now, src=src, dst=dst: src.forest.peer_dead(dst.id, "closed", now))  # type: ignore[misc]
        src.do(src.forest.leaves_changed)
    net.run(60 * SECOND)
    epochs = sorted(epoch for host in net.hosts.values() for epoch in host.roles.epochs)
    assert len(epochs) <= 2, epochs
    before = net.round()
    net.run(10 * SECOND)
    recent = [net.committed[net.app, round_] for round_ in range(before + 1, net.round())]
    assert len(recent) > 5
    assert min(len(head.contributors) for head in recent) >= 11


def test_the_other_of_a_broken_pair_finds_the_root_by_its_voters() -> None:
    net = slow(Net(12, rounds=10**4, min_workers=1), 1 * SECOND)
    closest = net.by_rank()[0]
    net.start([host for host in net.hosts.values() if host is not closest])
    net.run_until(lambda: net.round() == 2)
    root = net.root
    net.run(2 * CONFIG.voter_check)
    net.lose(Message, src=root, dst=closest)
    net.lose(Message, src=closest, dst=root)
    net.start([closest])
    closest.ring.dead[root.id] = True
    net.run(20 * SECOND)
    assert net.roots() == [root]
    assert closest.grove().rendezvous.live_root == root.me
    assert closest.grove().tree.attached


def test_voters_that_notice_a_death_a_moment_later_do_not_hold_up_the_next_root() -> None:
    net = running(10, rounds=10**4)
    net.run(2 * CONFIG.voter_check)
    dead = net.root
    at = net.now
    net.crash(dead)
    successor = next(host for host in net.by_rank() if host is not dead)
    net.run(DETECTION - 400 * MS)
    successor.ring.dead[dead.id] = True
    successor.do(lambda now: successor.forest.peer_dead(dead.id, "closed", now))
    successor.do(successor.forest.leaves_changed)
    net.run_until(lambda: bool(net.roots()))
    assert net.roots() == [successor]
    assert net.now - at < DETECTION + CONFIG.answer_wait


def test_three_deaths_in_one_long_round_lose_nothing() -> None:
    net = running(12, rounds=2, training=120 * SECOND)
    root = net.root
    for _ in range(3):
        head = root.grove().head
        net.crash(next(net.hosts[peer] for peer in head.seats if peer != root.id and net.hosts[peer].started))
        net.run(4 * CONFIG.voter_check)
    head = root.grove().head
    assert (head.round, len(head.voters)) == (0, 5)
    assert head.revision >= 6
    assert all(net.hosts[peer].started for peer in head.seats)
    net.min_workers = 9
    net.run_until(net.finished, 600 * SECOND)
    net.check_sums()


def test_the_result_of_a_round_waits_for_a_change_of_the_voters() -> None:
    net = running(8, rounds=10**4, training=100_000_000)
    root = net.root
    net.run_until(lambda: net.round() == 2)
    throne, head = root.grove().throne, root.grove().head
    net.min_workers = 1
    net.crash(next(net.hosts[peer] for peer in head.seats if peer != root.id))
    root.ring.dead[next(peer for peer in head.seats if not net.hosts[peer].started)] = True
    root.do(throne.on_guard_timer)
    assert root.grove().proposer.busy
    before = net.round()
    net.run_until(lambda: net.round() >= before + 3, 20 * SECOND)
    net.check_sums()


def test_no_right_is_taken_for_granted() -> None:
    """A node that won nothing offers a head: to voters that it did not ask, in an epoch that nobody promised it."""
    net = running(8, rounds=3)
    liar = outsider(net)
    base = net.root.grove().head
    forged = msgspec.structs.replace(base, epoch=2, root=liar.me, proof=type(base.proof)())
    for voter in base.voters:
        net.hosts[voter.id].hear(liar.id, Accept(forged, granted(forged, base, [liar.id])))
        assert Code.UNAUTHORISED in penalised(net.hosts[voter.id], liar)
    done(net, 8)
