"""The node closest to an application's id does not serve it: a voter stands in."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest

from dht.ports import Verdict
from protocol.ids import NodeId
from protocol.messages import Contact, Message
from pubsub.messages import HeadAnswer, HeadQuery, Prepare, TreeAccept, TreeJoin, TreeRefuse
from tests.pubsub.harness import CONFIG, MS, SECOND, Host, Net
from tests.pubsub.test_waves import slow


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


class Idler:
    """``host``, which takes part in nothing and answers joins, and what is asked about the root, in one ``way``."""

    def __init__(self, net: Net, host: Host, way: str) -> None:
        self.net, self.host, self.way = net, host, way
        self.joins: dict[NodeId, int] = {}
        self.turn = 0
        host.know = lambda: None  # type: ignore[method-assign]
        host.join = lambda: None  # type: ignore[method-assign]

    def begin(self) -> None:
        """The host has started."""
        forest = self.host.forest
        forest.received = self._received  # type: ignore[method-assign]
        forest.intercept = self._passing  # type: ignore[method-assign]
        forest.deliver = lambda relay, message, now: None  # type: ignore[method-assign]
        self._repeat()

    def _passing(self, relay: NodeId, message: Message, now: int) -> Verdict:
        if isinstance(message, TreeJoin):
            self._join(message)
        return Verdict.CONSUME

    def _received(self, peer: NodeId, message: Message, now: int) -> bool:
        if isinstance(message, TreeJoin):
            self._join(message)
        elif isinstance(message, HeadQuery) and self.way in ("hears", "names"):
            self.joins[peer] = 0
            self._hears(peer)
        return True

    def _join(self, join: TreeJoin) -> None:
        joiner, net = join.joiner.id, self.net
        if self.way == "circles":
            self.joins[joiner] = join.attempt
            self._send_round(joiner, join.attempt)
        elif self.way in ("refuses", "hears", "names"):
            net.post(self.host.id, joiner, TreeRefuse(net.app, join.attempt))
        elif self.way == "accepts":
            net.post(self.host.id, joiner, TreeAccept(net.app, join.attempt, (self.host.id,)))

    def _send_round(self, joiner: NodeId, attempt: int) -> None:
        others = [host.me for host in self.net.by_rank() if host.id != joiner]
        self.turn += 1
        places = tuple(others[(self.turn + step) % len(others)] for step in range(3))
        self.net.post(self.host.id, joiner, TreeRefuse(self.net.app, attempt, places))

    def _hears(self, peer: NodeId) -> None:
        self.turn += 1
        root = Contact(self.host.id[:4] + self.turn.to_bytes(12, "big"), ("10.9.9.9:1",), 1)
        self.net.post(self.host.id, peer, HeadAnswer(self.net.app, root, None, True))

    def _repeat(self) -> None:
        """It does not wait to be asked again."""
        for peer, attempt in self.joins.items():
            if self.way == "circles":
                self._send_round(peer, attempt)
            elif self.way == "names":
                self._hears(peer)
        self.net.after(300 * MS, self._repeat)


def advanced(net: Net, round_: int) -> bool:
    return net.round() >= round_


def calls(net: Net) -> int:
    """Joins by which a deputy was asked, and voters that stand in."""
    asked = sum(isinstance(message, TreeJoin) and message.orphan for *_, message in net.sent)
    groves = [host.grove() for host in net.hosts.values() if host.started and net.app in host.forest.groves]
    return asked + len([grove for grove in groves if grove.rendezvous._deputy])


@pytest.mark.parametrize("voter", [True, False])
@pytest.mark.parametrize("way", ["refuses", "silent", "circles", "hears", "names", "accepts"])
def test_a_closest_node_that_does_nothing_keeps_no_application_from_its_root(way: str, voter: bool) -> None:
    net = slow(Net(12, rounds=10**4), 1 * SECOND)
    if not voter:
        net.genesis = msgspec.structs.replace(net.genesis, voters=tuple(net.near(6)[1:]))
    idler = Idler(net, net.by_rank()[0], way)
    patience = 30 * SECOND
    if way == "accepts":  # whoever was taken in waits for beats first
        patience += CONFIG.beat_patience * CONFIG.beat
    net.start(join=False)
    idler.begin()
    for host in net.hosts.values():
        host.join()
    net.run_until(lambda: net.round() == 1, patience)
    for _ in range(2):
        net.run(3 * CONFIG.voter_check)
        net.crash(net.root)
        net.run_until(partial(advanced, net, net.round() + 2), patience)
    assert len(net.roots()) == 1
    net.check_sums()


@pytest.mark.parametrize("disk", [1 * MS, 2 * SECOND])
def test_where_the_closest_node_serves_no_deputy_is_asked(disk: int) -> None:
    net = slow(Net(12, rounds=10**4), 1 * SECOND)
    net.disk_delay = disk
    net.start()
    net.run_until(lambda: net.round() == 2, 60 * SECOND)
    assert net.root is net.by_rank()[0]
    for _ in range(2):
        root = net.root
        net.crash(root)
        net.run_until(partial(advanced, net, net.round() + 2), 60 * SECOND)
        net.restart(root)
        net.run(30 * SECOND)
    assert not calls(net)


def test_who_was_refused_by_all_asks_one_deputy_at_a_time_however_often_it_is_refused() -> None:
    net = Net(12)
    lone, closest = net.by_rank()[-1], net.by_rank()[0]
    net.start([lone, closest])
    net.lose(Prepare)
    net.run(CONFIG.deputy_after)
    before = calls(net)
    for _ in range(50):
        net.run(100 * MS)
        tree = lone.grove().tree
        lone.hear(closest.id, TreeRefuse(net.app, tree._attempt, (net.by_rank()[3].me,)))
    assert calls(net) - before <= 3
