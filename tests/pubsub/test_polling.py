"""A member that asks every voter for a promise, all the time, and does nothing with what it gets."""

from __future__ import annotations

import pytest

from protocol.messages import Message
from pubsub.messages import Prepare, Promise, Withdraw
from tests.pubsub.harness import CONFIG, MS, SECOND, Host, Net
from tests.pubsub.test_grove import running


class Poller:
    """``host``, around its forest; it knows what every voter has promised, which is more than a real one could."""

    every = 50 * MS

    def __init__(self, net: Net, host: Host, *, withdraws: bool = False, until: int = 1 << 62) -> None:
        self.net, self.host, self.withdraws, self.until = net, host, withdraws, until
        self._poll()

    def _poll(self) -> None:
        if self.net.now >= self.until:
            return
        for other in self.net.hosts.values():
            voter = other.forest.voters.get(self.net.app) if other.started else None
            if voter is not None and other is not self.host:
                self.ask(other, voter.ballot.promised)
        self.net.after(self.every, self._poll)

    def ask(self, voter: Host, promised: int) -> None:
        """One question; ``withdraws``: what came of the last one is given back before it."""
        if self.withdraws:
            self.net.post(self.host.id, voter.id, Withdraw(self.net.app, promised))
        self.net.post(self.host.id, voter.id, Prepare(self.net.app, promised + 1, self.host.me))

    @property
    def gains(self) -> int:
        """Promises that it got."""
        return sum(peer == self.host.id and isinstance(message, Promise) for _, _, peer, message in self.net.sent)


def voters(net: Net) -> list[Host]:
    return [net.hosts[peer] for peer in net.root.grove().head.seats]


def restart(net: Net, host: Host) -> None:
    """At once, so that nobody takes it for dead."""
    net.crash(host)
    net.run(10 * MS)
    net.restart(host)


@pytest.mark.parametrize("withdraws", [False, True])
@pytest.mark.parametrize("rank", [4, 7])
def test_it_does_not_keep_an_application_from_having_a_root(rank: int, withdraws: bool) -> None:
    net = running(12, rounds=10**4)
    net.min_workers = 1
    Poller(net, net.by_rank()[rank], withdraws=withdraws)
    for _ in range(3):
        net.crash(net.root)
        before = net.round()
        net.run_until(lambda: len(net.roots()) == 1, 60 * SECOND)
        net.run(10 * SECOND)
        assert net.round() > before + 2
        net.run(2 * CONFIG.voter_check)
    before = net.round()
    net.run(20 * SECOND)
    assert net.round() > before + 10
    net.check_sums()


def test_it_gains_nothing_while_there_is_a_root_although_voters_restart() -> None:
    net = running(12, rounds=10**4)
    net.run_until(lambda: net.round() == 2)
    net.min_workers = 8
    root = net.root
    liar = Poller(net, next(host for host in net.by_rank()[2:] if host not in voters(net)))
    for voter in voters(net):
        if voter is not root:
            restart(net, voter)
            net.run(100 * MS)
    net.run(20 * SECOND)
    assert net.roots() == [root]
    assert liar.gains == 0


def test_what_it_gained_while_a_voter_heard_nobody_is_won_back() -> None:
    net = running(12, rounds=10**4)
    net.run_until(lambda: net.round() == 2)
    root, lost = net.root, voters(net)[-1]
    liar = Poller(net, next(host for host in net.by_rank()[2:] if host not in voters(net)))
    for src, dst in ((root, lost), (lost, root)):
        net.lose(Message, src=src, dst=dst)
    net.run(2 * CONFIG.reign_patience)
    assert liar.gains
    net.rules.clear()
    before = net.round()
    net.run(30 * SECOND)
    assert net.roots() == [root]
    assert net.round() > before + 15
    assert lost.forest.voters[net.app].root == root.me
    held = lost.forest.voters[net.app].ballot.accepted
    assert held is not None
    assert held.round >= net.round() - 1
