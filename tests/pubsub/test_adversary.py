"""Members near an id, and voters, that do what they can to keep an application from having a root."""

from __future__ import annotations

import msgspec
import pytest

from protocol.messages import Message
from pubsub.heads import UNPROVEN
from pubsub.messages import LEAP, Accept, Committed, Prepare, Stale, TreeJoin, WaveOpen, Withdraw
from tests.pubsub.harness import CONFIG, MS, SECOND, Host, Net
from tests.pubsub.test_grove import running
from tests.pubsub.test_polling import Poller
from tests.pubsub.test_waves import slow


class Climber(Poller):
    """A member that asks for as high an epoch as a voter grants, and may give it back in the same breath."""

    every = 1 * SECOND
    step = LEAP

    def ask(self, voter: Host, promised: int) -> None:
        epoch = promised + self.step
        self.net.post(self.host.id, voter.id, Prepare(self.net.app, epoch, self.host.me))
        if self.withdraws:
            self.net.post(self.host.id, voter.id, Withdraw(self.net.app, epoch))


class Stepper(Climber):
    """The same, one by one."""

    step = 1


class Refuser:
    """A voter that tells whoever proposes that it follows another."""

    def __init__(self, net: Net, host: Host) -> None:
        arrive = net._arrive

        def refuse(src: bytes, dst: bytes, message: Message) -> None:
            if dst == host.id and isinstance(message, Prepare | Accept):
                epoch = message.epoch if isinstance(message, Prepare) else message.head.epoch
                net.post(host.id, src, Stale(net.app, epoch + 1))
            else:
                arrive(src, dst, message)

        net._arrive = refuse  # type: ignore[method-assign]


def guards(net: Net) -> list[Host]:
    """The voters but for the root."""
    return [net.hosts[peer] for peer in net.root.grove().head.seats if peer != net.root.id]


@pytest.mark.parametrize("rank", [4, 7])
@pytest.mark.parametrize("climber", [Stepper, Climber])
@pytest.mark.parametrize("gives_back", [False, True])
def test_leaps_keep_no_application_without_a_root(rank: int, climber: type[Climber], gives_back: bool) -> None:
    net = running(12, rounds=10**4)
    net.min_workers = 1
    climber(net, net.by_rank()[rank], withdraws=gives_back)
    net.crash(net.root)
    before = net.round()
    net.run_until(lambda: net.round() > before + 2, 60 * SECOND)


@pytest.mark.parametrize("seconds", [5, 20])
def test_what_was_leapt_over_is_made_good_at_once(seconds: int) -> None:
    net = running(12, rounds=10**4)
    net.min_workers = 1
    net.crash(net.root)
    Climber(net, net.by_rank()[7], withdraws=True, until=net.now + seconds * SECOND)
    before = net.round()
    net.run_until(lambda: net.round() > before + 2, (seconds + 30) * SECOND)


@pytest.mark.parametrize("gives_back", [False, True])
def test_voters_that_heard_nobody_one_after_the_other_are_won_back(gives_back: bool) -> None:
    net = running(12, rounds=10**5)
    net.run_until(lambda: net.round() == 2)
    net.min_workers = 1
    root, seats = net.root, guards(net)
    Climber(net, next(host for host in net.by_rank()[2:] if host not in seats), withdraws=gives_back)
    for lost in seats[:3]:
        for src, dst in ((root, lost), (lost, root)):
            net.lose(Message, src=src, dst=dst)
        net.run(2 * CONFIG.reign_patience)
        net.rules.clear()
        net.run(60 * SECOND)
    before = net.round()
    net.run(300 * SECOND)
    assert net.round() > before + 100


@pytest.mark.parametrize("disk", [600, 900])
def test_one_voter_that_refuses_deposes_nobody_although_disks_are_slow(disk: int) -> None:
    net = running(12, rounds=10**5)
    net.run_until(lambda: net.round() == 2)
    net.min_workers = 1
    net.disk_delay = disk * MS
    Refuser(net, guards(net)[-1])
    before = net.round()
    net.run(300 * SECOND)
    assert net.round() > before + 50


def test_late_copies_of_what_was_accepted_do_not_count_against_the_root() -> None:
    net = slow(running(12, rounds=10**5), 1 * SECOND)
    root = net.root
    for voter in guards(net)[:3]:
        at = net.round()
        net.run_until(lambda at=at: net.round() >= at + 2)  # type: ignore[misc]
        old = next(
            message for _, src, dst, message in net.sent[::-1]
            if isinstance(message, Accept) and (src, dst) == (root.id, voter.id) and message.head.round < net.round()
        )  # fmt: skip
        voter.hear(root.id, old)
        net.run(100 * MS)
    assert net.roots() == [root]
    assert not root.roles.deposed


def interior(net: Net) -> tuple[Host, Host]:
    """A node between the root and another that has children, and that other."""
    for host in net.by_rank():
        for child in host.grove().tree.children:
            if host is not net.root and net.hosts[child].grove().tree.children:
                return host, net.hosts[child]
    raise AssertionError("the tree is too flat")


def test_nobody_is_led_to_show_others_a_proof_that_is_none() -> None:
    """Its child has seen the proof of a head; the liar sends it the same head without."""
    net = running(40, rounds=10**4)
    net.run_until(lambda: net.round() == 3)
    net.min_workers = 1
    liar, child = interior(net)
    post = net.post

    def bad(src: bytes, dst: bytes, message: Message) -> None:
        if (src, dst) == (liar.id, child.id) and isinstance(message, Committed | WaveOpen):
            post(src, dst, TreeJoin(net.app, liar.me, 1 << 50, None, message.head.outline()))
            message = msgspec.structs.replace(message, head=msgspec.structs.replace(message.head, proof=UNPROVEN))
        post(src, dst, message)

    net.post = bad  # type: ignore[method-assign]
    net.run(20 * SECOND)
    blamed = {peer for host in net.hosts.values() if host is not liar for peer, _, _ in host.penalties}
    assert blamed == {liar.id}


def test_a_wave_of_a_round_that_nobody_has_reached_is_its_senders_fault() -> None:
    net = running(12, rounds=10**4)
    net.run_until(lambda: net.round() == 3)
    root = net.root
    child = net.hosts[next(iter(root.grove().tree.children))]
    wave, head = child.grove().waves.current, root.grove().head
    child.hear(root.id, WaveOpen(net.app, wave._replace(round=head.round + 2), head.lean(), 0))
    child.hear(root.id, WaveOpen(net.app, wave._replace(round=250), head.lean(), 0))
    assert [peer for peer, _, _ in child.penalties] == [root.id] * 2
    assert child.grove().waves.current == wave


@pytest.mark.parametrize("stagger", [0, 500])
def test_after_a_blackout_nobody_waits_for_a_root_of_an_earlier_life(stagger: int) -> None:
    net = running(8, rounds=10**4)
    net.run_until(lambda: net.round() == 3)
    net.min_workers = 1
    old = net.root
    net.crash(old)
    net.run(8 * SECOND)
    net.restart(old)
    net.run(10 * SECOND)
    assert net.root is not net.by_rank()[0]
    before = net.round()
    for host in net.hosts.values():
        net.crash(host)
    net.run(3 * SECOND)
    for host in net.hosts.values():
        net.restart(host)
        net.run(stagger * MS)
    net.run_until(lambda: net.round() > before, CONFIG.reign_patience)
