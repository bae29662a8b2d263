"""The node closest to an application's id refuses for good to know of it: a voter stands in."""

from __future__ import annotations

from pubsub.messages import Prepare, TreeJoin, TreeRefuse
from tests.pubsub.harness import CONFIG, SECOND, Host, Net


def refusing(*ranks: int, size: int = 10) -> tuple[Net, list[Host]]:
    """A network in which the nodes of ``ranks``, counted from the one closest to the id, take no descriptor."""
    net = Net(size)
    deaf = [net.by_rank()[rank] for rank in ranks]
    for host in deaf:
        host.know = lambda: None  # type: ignore[method-assign]
    net.start()
    return net, deaf


def test_an_application_trains_though_the_closest_node_never_takes_its_descriptor() -> None:
    net, (closest,) = refusing(0)
    net.run_until(net.finished, 60 * SECOND)
    assert closest.forest.groves == {}
    stood = {src for _, src, _, message in net.sent if isinstance(message, Prepare)}
    assert stood == {net.by_rank()[1].id}, "one voter stands, and no other"
    assert net.hosts[net.committed[net.app, 3].root.id] is net.by_rank()[1]
    assert not any(host.penalties for host in net.hosts.values())


def test_when_the_deputy_refuses_too_the_next_voter_stands() -> None:
    net, _ = refusing(0, 1)
    net.run_until(net.finished, 120 * SECOND)
    assert net.hosts[net.committed[net.app, 3].root.id] in net.by_rank()[2:5]


def test_the_descriptor_is_not_shown_again_and_again_to_who_does_not_take_it() -> None:
    net, (closest,) = refusing(0)
    lone = net.by_rank()[-1]
    net.lose(TreeJoin, src=lone, dst=net.by_rank()[1])
    net.run(25 * SECOND)
    assert sum(peer == closest.id for peer, _ in lone.ring.shown) <= 2


def test_nobody_but_a_voter_stands_in_and_not_for_ever() -> None:
    net = Net(10)
    net.start(join=False)
    voter, other, asker = net.by_rank()[1], net.by_rank()[7], net.by_rank()[-1]
    net.lose(Prepare)
    for host in (voter, other):
        host.hear(asker.id, TreeJoin(net.app, asker.me, 1, orphan=True))
    assert voter.grove().rendezvous._is_ours(net.now)
    assert not other.grove().rendezvous._is_ours(net.now)
    assert not voter.grove().rendezvous._is_ours(net.now + CONFIG.deputy_patience)


def test_where_there_is_a_root_a_call_for_a_deputy_makes_no_other() -> None:
    net = Net(10, rounds=1000)
    net.start()
    net.run(2 * SECOND)
    root, liar = net.root, net.by_rank()[-1]
    before = sum(isinstance(message, Prepare) for *_, message in net.sent)
    for voter in net.by_rank()[:5]:
        for attempt in range(20):
            voter.hear(liar.id, TreeJoin(net.app, liar.me, 1 + attempt, orphan=True))
    net.run(10 * SECOND)
    assert net.root is root
    assert sum(isinstance(message, Prepare) for *_, message in net.sent) == before


def test_a_refusal_of_a_join_that_was_not_made_calls_no_deputy() -> None:
    net, (closest,) = refusing(0)
    lone = net.by_rank()[-1]
    net.run(2 * SECOND)
    asked = len(net.sent)
    for _ in range(50):
        lone.hear(closest.id, TreeRefuse(net.app, 1 << 60, unknown=True))
    assert not any(m.orphan for *_, m in net.sent[asked:] if isinstance(m, TreeJoin))
