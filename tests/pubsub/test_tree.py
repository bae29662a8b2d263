"""Getting a place, keeping it, and losing it."""

from __future__ import annotations

import itertools

import pytest

from protocol.errors import Code
from pubsub.config import TreeConfig
from pubsub.messages import Committed, TreeAccept, TreeBeat, TreeJoin, TreeLeave, TreeRefuse, TreeWant, WaveOpen, WaveUp
from tests.pubsub.harness import MS, SECOND, Host, Net


def settled(net: Net) -> Net:
    """Started, and everybody in the tree."""
    net.start()
    net.run_until(net.all_attached, 30 * SECOND)
    return net


def below(net: Net, host: Host) -> list[Host]:
    return [net.hosts[child] for child in host.grove().tree.children]


def interior(net: Net) -> Host:
    """Somebody with a parent and with children."""
    return next(host for host in net.hosts.values() if not host.is_root and below(net, host))


@pytest.mark.parametrize("fan_out", [1, 2, 4])
def test_nobody_takes_more_children_than_the_cap_and_the_tree_stays_shallow(fan_out: int) -> None:
    net = settled(Net(30 if fan_out > 1 else 12, fan_out=fan_out, rounds=10**4))
    trees = [host.grove().tree for host in net.hosts.values()]
    assert max(len(tree.children) for tree in trees) <= fan_out
    assert max(tree.depth for tree in trees) <= {1: 11, 2: 8, 4: 5}[fan_out]


def test_a_refused_joiner_goes_down_to_the_child_that_it_is_pointed_to() -> None:
    net = settled(Net(6, fan_out=4, rounds=10**4))
    last = net.by_rank()[5]
    net.crash(last)
    net.run(5 * SECOND)
    net.restart(last)
    net.run_until(net.all_attached, 10 * SECOND)
    refusals = [message for _, _, dst, message in net.sent if dst == last.id and isinstance(message, TreeRefuse)]
    below_root = [one for one in refusals if one.candidates and net.root.me not in one.candidates]
    assert last.grove().tree.depth == 2 or not below_root


def test_who_came_before_there_was_a_root_hears_of_it_at_once() -> None:
    """Voters write slowly: the joiners have begun to pause for seconds when the root is there."""
    net = Net(12, fan_out=4, rounds=10**4)
    net.disk_delay = 4 * SECOND
    net.start()
    net.run_until(lambda: bool(net.roots()), 60 * SECOND)
    assert net.now > 4 * SECOND
    net.run_until(net.all_attached, 200 * MS)


def test_the_children_of_a_dead_parent_find_another_one() -> None:
    net = settled(Net(20, fan_out=2, rounds=10**4))
    victim = interior(net)
    net.crash(victim)
    net.run_until(net.all_attached, 10 * SECOND)


def test_two_subtrees_that_join_below_each_other_notice_the_loop_and_part() -> None:
    net = settled(Net(12, fan_out=3, rounds=10**4, seed=3))
    first, second = [host for host in net.hosts.values() if not host.is_root and below(net, host)][:2]
    under_first, under_second = below(net, first)[0], below(net, second)[0]
    for host, place in ((first, under_second), (second, under_first)):
        tree = host.grove().tree
        del net.hosts[tree.parent].grove().tree.children[host.id]
        tree.parent, tree.path = None, ()
        tree._attempt += 1
        tree._candidates = []
        host.forest.ring.learn(place.me)
        net.post(host.id, place.id, tree._ask())
    net.run_until(lambda: first.grove().tree.attached and second.grove().tree.attached, 1 * SECOND)
    net.run_until(net.all_attached, 60 * SECOND)
    walked = {host.id for host in net.hosts.values()}
    for host in net.hosts.values():
        path = host.grove().tree.path
        assert len(set(path)) == len(path)
        walked.discard(host.id)
    assert not walked


def test_a_joiner_above_the_one_it_asks_is_refused_and_sent_to_the_root() -> None:
    """The closest node may be below the joiner: then every route leads the joiner there."""
    net = settled(Net(12, fan_out=2, rounds=10**4))
    host = interior(net)
    child = below(net, host)[0]
    net.sent.clear()
    child.hear(host.id, TreeJoin(net.app, host.me, 77))
    answers = [message for _, src, dst, message in net.sent if (src, dst) == (child.id, host.id)]
    assert answers == [TreeRefuse(net.app, 77, (net.root.me,))]
    assert host.id not in child.grove().tree.children


def test_a_lost_acceptance_leaves_a_ghost_that_the_next_beat_clears() -> None:
    net = Net(8, rounds=10**4)
    rule = net.lose(TreeAccept, times=3)
    settled(net)
    assert rule.hits == 3
    net.run(3 * net.config.beat)
    net.check_tree()
    held = list(itertools.chain.from_iterable(host.grove().tree.children for host in net.hosts.values()))
    assert len(held) == len(set(held)) == 7


def test_an_acceptance_of_an_abandoned_attempt_is_declined() -> None:
    net = Net(8, rounds=10**4)
    net.delay(TreeAccept, net.config.join_retry + 50 * MS, times=4)
    settled(net)
    net.run(3 * net.config.beat)
    net.check_tree()


def test_who_was_not_asked_cannot_accept() -> None:
    """Not even by provoking the joiner to name its joins: what it says to strangers is of joins that are over."""
    net = settled(Net(6, rounds=10**4))
    member, stranger = [host for host in net.by_rank() if not host.is_root][:2]
    tree = member.grove().tree
    before = tree._attempt
    net.lose(TreeJoin, src=member)
    member.do(tree.lose_parent)
    assert tree.joining
    net.sent.clear()
    member.hear(stranger.id, TreeBeat(net.app, (), net.wave_of(member), (0, 0, 0)))
    (told,) = [message for _, _, dst, message in net.sent if dst == stranger.id and isinstance(message, TreeLeave)]
    for guess in (0, 1, before, before + 1, told.attempt, told.attempt + 1, tree._attempt - 1, tree._attempt + 1):
        member.hear(stranger.id, TreeAccept(net.app, guess, ()))
        member.hear(stranger.id, TreeRefuse(net.app, guess, (stranger.me,)))
    assert (tree.parent, tree._candidates) == (None, [])
    member.hear(stranger.id, TreeAccept(net.app, tree._attempt, ()))
    assert tree.parent == stranger.id


def test_attempts_grow_by_steps_that_differ_from_life_to_life() -> None:
    net = settled(Net(3, rounds=10**4))
    member = next(host for host in net.by_rank() if not host.is_root)
    drawn = []
    for _ in range(3):
        tree = member.grove().tree
        drawn += [tree._drawn() - tree._attempt]
        net.crash(member)
        net.run(3 * SECOND)
        net.restart(member)
        net.run_until(net.all_attached, 30 * SECOND)
    assert len(set(drawn)) == 3
    assert min(drawn) > 1 << 20


def test_a_leave_that_crosses_with_a_newer_join_undoes_nothing() -> None:
    net = settled(Net(6, rounds=10**4))
    child = below(net, net.root)[0]
    tree, held = child.grove().tree, net.root.grove().tree.children
    tree._attempt += 2
    net.root.hear(child.id, tree._ask())
    net.root.hear(child.id, TreeLeave(net.app, tree._attempt - 1))
    child.hear(net.root.id, TreeAccept(net.app, tree._attempt - 1, ()))
    net.run(SECOND)
    assert tree.parent == net.root.id
    assert child.id in held
    net.root.hear(child.id, TreeLeave(net.app, tree._attempt))
    assert child.id not in held


def test_a_parent_that_forgot_its_child_loses_it_at_the_first_word() -> None:
    net = Net(8, rounds=10**4, min_workers=8)
    for host in net.hosts.values():
        host.training = 2 * SECOND
    settled(net)
    root = net.root
    child = below(net, root)[0]
    root.do(lambda now: root.forest.peer_dead(child.id, "closed", now))
    assert child.grove().tree.parent == root.id
    net.run_until(net.all_attached, 4 * SECOND)


def test_a_parent_without_beats_is_left() -> None:
    config = TreeConfig(beat=1 * SECOND)
    net = settled(Net(6, rounds=10**6, config=config, min_workers=99))
    child = below(net, net.root)[0]
    attempt = child.grove().tree._attempt
    for kind in (TreeBeat, WaveOpen):
        net.lose(kind, src=net.root, dst=child)
    net.run((config.beat_patience + 2) * config.beat)
    assert child.grove().tree._attempt > attempt
    net.rules.clear()
    net.run_until(net.all_attached, 30 * SECOND)


def test_beats_before_the_first_wave_can_be_read() -> None:
    net = Net(3, rounds=1)
    net.start(join=False)
    host = net.by_rank()[0]
    host.join()
    tree = host.grove().tree
    tree.children[net.by_rank()[1].id] = type("Child", (), {"contact": net.by_rank()[1].me, "pushes": 0})()
    tree.parent = net.by_rank()[2].id
    host.do(lambda now: host.grove().on_timer("tree.beat", now))
    assert [message for _, _, _, message in net.sent if isinstance(message, TreeBeat)]


def test_an_outbound_only_member_is_hosted_by_its_gateway() -> None:
    net = Net(6, leaves=3, rounds=4, min_workers=9)
    net.start()
    net.run_until(net.finished, 60 * SECOND)
    net.check_sums()
    assert len(net.committed[net.app, 4].contributors) == 9
    for leaf in net.by_rank()[6:]:
        assert not leaf.grove().tree.children
        assert net.hosts[leaf.grove().tree.parent].me.dialable


def test_a_join_in_the_name_of_another_is_a_counted_penalty() -> None:
    net = settled(Net(4, rounds=10**4))
    root, liar, victim = net.root, *[host for host in net.by_rank() if not host.is_root][:2]
    children = list(root.grove().tree.children)
    root.hear(liar.id, TreeJoin(net.app, victim.me, 5))
    assert root.penalties[-1][:2] == (liar.id, Code.UNAUTHORISED)
    assert list(root.grove().tree.children) == children


def test_a_join_for_an_application_that_nobody_knows_is_refused() -> None:
    net = settled(Net(4, rounds=10**4))
    root, other = net.root, next(host for host in net.by_rank() if not host.is_root)
    net.sent.clear()
    root.hear(other.id, TreeJoin(b"?" * 16, other.me, 1))
    assert [message for _, _, _, message in net.sent] == [TreeRefuse(b"?" * 16, 1, unknown=True)]
    assert b"?" * 16 not in root.forest.groves


def test_a_member_that_leaves_is_not_waited_for_and_its_children_stay() -> None:
    net = settled(Net(12, fan_out=2, rounds=10**4))
    host = interior(net)
    host.do(lambda now: host.forest.leave(net.app, now))
    net.run_until(net.all_attached, 10 * SECOND)
    assert not host.grove().tree.attached
    assert all(host.id not in other.grove().tree.children for other in net.hosts.values())


def test_a_child_that_asks_all_the_time_is_answered_now_and_then() -> None:
    net = settled(Net(5, rounds=10**4))
    root, child = net.root, below(net, net.root)[0]
    net.sent.clear()
    for _ in range(1000):
        root.hear(child.id, TreeWant(net.app))
    assert len([message for _, _, dst, message in net.sent if dst == child.id]) <= 2


def test_what_strangers_say_as_parent_or_child_changes_nothing() -> None:
    net = settled(Net(5, rounds=10**4))
    member = next(host for host in net.by_rank() if not host.is_root)
    stranger = next(
        h for h in net.by_rank() if h.id not in (*member.grove().tree.my_path, *member.grove().tree.children)
    )
    before = (member.grove().tree.parent, member.grove().tree.path, dict(member.grove().tree.children))
    head = net.root.grove().head
    wave = net.wave_of(member)
    for message in (
        TreeBeat(net.app, (stranger.id,), wave, (9, 9, 9)),
        WaveOpen(net.app, wave._replace(wave=9), head, 0),
        WaveUp(net.app, wave, None),
        Committed(head),
        TreeAccept(net.app, 10**6, ()),
        TreeLeave(net.app),
    ):
        member.hear(stranger.id, message)
    assert before == (member.grove().tree.parent, member.grove().tree.path, dict(member.grove().tree.children))
    assert net.wave_of(member) == wave
