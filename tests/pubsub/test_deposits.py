"""Code and first model on the disks of the voters: until when the submitter is needed, and by whom they are kept."""

from __future__ import annotations

import msgspec
import pytest

from protocol.ids import BlobId
from protocol.messages import EMPTY, Value
from pubsub.deposits import MAX_SILENCE, Deposits
from pubsub.messages import Held, Hold, TreeRefuse
from tests.pubsub.harness import SECOND, Host, Net, Rule

CODE = Value(50_000, b"", b"C" * 32)
MODEL = Value(100_000, b"", b"M" * 32)


def network(bundle: Value = CODE, initial: Value = MODEL, *, rounds: int = 1000) -> Net:
    """Eleven nodes; home is the last of them, and alone has what the descriptor names."""
    net = Net(11, voters=5, initial=initial, rounds=rounds)
    home = net.by_rank()[-1]
    net.genesis = msgspec.structs.replace(net.genesis, bundle=bundle, home=home.me)
    for value in (bundle, initial):
        if value.blob:
            home.blobs[value.blob] = True
    return net


def voters(net: Net) -> list[Host]:
    return [net.hosts[voter.id] for voter in net.genesis.voters]


def keeps(host: Host, *blobs: BlobId) -> bool:
    return all(blob in host.blobs and host.pins.get(blob, 0) > 0 for blob in blobs)


def confirm(net: Net) -> Host:
    home = net.hosts[net.genesis.home.id]
    home.do(lambda now: home.forest.confirm(net.app, now))
    return home


def accepted(net: Net, home: Host) -> bool:
    return bool(home.roles.deposits) and 2 * len(home.roles.deposits[-1][0]) > len(net.genesis.voters)


def test_voters_fetch_and_pin_what_the_descriptor_names() -> None:
    net = network()
    net.start(join=False)
    net.run(2 * SECOND)
    assert all(keeps(host, CODE.blob, MODEL.blob) for host in voters(net))
    others = [host for host in net.hosts.values() if host not in voters(net) and host.id != net.genesis.home.id]
    assert not any(host.pins for host in others)


def test_the_submitter_hears_from_each_voter_once_it_is_durable() -> None:
    net = network()
    net.start(join=False)
    for host in voters(net):
        host.held = []
    home = confirm(net)
    net.run(2 * SECOND)
    assert home.roles.deposits[-1][0] == ()
    assert set(home.roles.deposits[-1][1]) == {voter.id for voter in net.genesis.voters}
    for host in voters(net)[:3]:
        host.flush()
    net.run(SECOND // 10)
    assert accepted(net, home)


def test_an_application_without_artifacts_is_accepted_when_its_descriptor_is_durable() -> None:
    net = network(EMPTY, Value(1, b"\0"))
    net.start(join=False)
    home = confirm(net)
    net.run_until(lambda: accepted(net, home), SECOND)


def test_a_question_or_an_answer_that_is_lost_is_repeated() -> None:
    net = network()
    net.start(join=False)
    net.rules += [Rule(Hold, times=5, lose=True), Rule(Held, times=5, lose=True)]
    home = confirm(net)
    net.run_until(lambda: any(len(held) == 5 for held, _ in home.roles.deposits), 30 * SECOND)


def test_a_submitter_does_not_ask_for_ever() -> None:
    net = network()
    net.start([net.hosts[net.genesis.home.id]], join=False)
    confirm(net)
    net.run(600 * SECOND)
    asked = [message for _, _, _, message in net.sent if isinstance(message, Hold)]
    assert len(asked) == MAX_SILENCE * 5
    assert not net.hosts[net.genesis.home.id].roles.deposits


@pytest.mark.parametrize("rank", [0, 2, -1])
def test_once_accepted_the_machine_of_the_submitter_may_burn(rank: int) -> None:
    """It is gone for good, disk and all, in the step after; also when it was a voter itself."""
    net = network()
    home = net.by_rank()[rank]
    net.genesis = msgspec.structs.replace(net.genesis, home=home.me)
    home.blobs.update({CODE.blob: True, MODEL.blob: True})
    if rank != -1:
        net.by_rank()[-1].blobs.clear()
    net.start(join=False)
    confirm(net)
    net.run_until(lambda: accepted(net, home), 5 * SECOND)
    net.crash(home)
    home.blobs.clear()
    home.disk.clear()
    for host in net.hosts.values():
        if host.started:
            host.join()
    net.run_until(lambda: (net.app, 3) in net.committed, 120 * SECOND)
    assert sum(keeps(host, CODE.blob) for host in net.hosts.values() if host.started) >= 3


def test_a_voter_that_missed_the_submitter_gets_it_from_another_voter() -> None:
    net = network()
    *_, late = voters(net)
    net.start([host for host in net.hosts.values() if host is not late], join=False)
    net.run(SECOND)
    net.crash(net.hosts[net.genesis.home.id])
    net.start([late], join=False)
    net.run(5 * SECOND)
    assert keeps(late, CODE.blob, MODEL.blob)


def test_a_voter_goes_on_trying_until_somebody_has_it() -> None:
    net = network()
    home = net.hosts[net.genesis.home.id]
    (late, *_) = voters(net)
    net.start([late], join=False)
    net.run(30 * SECOND)
    assert not keeps(late, CODE.blob)
    net.start([home], join=False)
    net.run(net.config.deposit_limit + SECOND)
    assert keeps(late, CODE.blob, MODEL.blob)


def test_a_restarted_voter_still_keeps_it_and_says_so() -> None:
    net = network()
    net.start(join=False)
    net.run(SECOND)
    host = voters(net)[0]
    net.crash(host)
    host.pins.clear()
    net.restart(host, join=False)
    net.run(SECOND)
    assert keeps(host, CODE.blob, MODEL.blob)
    confirm(net)
    home = net.hosts[net.genesis.home.id]
    net.run_until(lambda: any(host.id in held for held, _ in home.roles.deposits), 5 * SECOND)


def test_it_is_let_go_when_the_application_is_over() -> None:
    net = network()
    net.start(join=False)
    net.run(SECOND)
    host = voters(net)[0]
    host.do(lambda now: host.forest.conclude(net.app, now))
    net.run(SECOND)
    assert not host.pins[CODE.blob]
    assert Deposits.key(net.app) not in host.disk
    assert len(host.forest.deposits) == 0


def test_a_voter_that_is_elected_later_keeps_the_code_too() -> None:
    net = network()
    net.start()
    net.run_until(lambda: (net.app, 1) in net.committed)
    net.crash(next(host for host in voters(net) if not host.is_root))
    first = {voter.id for voter in net.genesis.voters}

    def elected() -> list[Host]:
        head = max(net.committed.values(), key=lambda one: one.order)
        news = net.news if net.news is not None and net.news.order > head.order else head
        return [net.hosts[seat] for seat in news.seats if seat not in first]

    net.run_until(lambda: any(keeps(host, CODE.blob) for host in elected()), 60 * SECOND)


def test_what_nobody_asked_for_and_who_is_no_voter_count_for_nothing() -> None:
    net = network()
    net.start(join=False)
    home, stranger = net.hosts[net.genesis.home.id], net.by_rank()[7]
    home.hear(stranger.id, Held(net.app, True))
    confirm(net)
    home.hear(stranger.id, Held(net.app, True))
    assert home.forest.counters["answers_unasked"] == 2
    assert not home.roles.deposits
    stranger.hear(home.id, Hold(net.app))
    assert not stranger.pins
    assert stranger.forest.counters["deposits_elsewhere"] == 1
    stranger.hear(home.id, Hold(b"x" * 16))
    net.run(SECOND // 10)
    assert any(isinstance(message, TreeRefuse) and message.unknown for _, _, _, message in net.sent)
