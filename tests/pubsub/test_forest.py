"""Many applications on one node: dispatch, bounds, restarts, and models that do not fit into a message."""

from __future__ import annotations

import msgspec
import pytest

from dht.messages import Ping
from dht.ports import Verdict
from protocol.ids import app_id, blob_id
from protocol.messages import Value
from pubsub import forest as module
from pubsub.joins import sealed
from pubsub.messages import Accept, Prepare, Promise, TreeJoin, TreeRefuse
from pubsub.ports import Genesis
from pubsub.voter import Voter
from tests.pubsub.harness import MS, SECOND, Host, Net
from tests.pubsub.seals import granted, proven
from tests.pubsub.test_tree import below, settled
from tests.pubsub.test_waves import done, slow

ALIEN = Ping(1)
"""A message of the ring."""


def genesis(net: Net, index: int) -> Genesis:
    app = app_id(0, f"app {index}", b"owner", b"salt")
    return Genesis(app, net.genesis.voters, 4, 0.5, net.genesis.initial, net.genesis.home)


def quiet(size: int = 3) -> tuple[Net, Host, Host]:
    """Hosts that know no application: (net, closest, another)."""
    net = Net(size)
    for host in net.hosts.values():
        host.boot()
    closest, other = net.by_rank()[:2]
    return net, closest, other


def test_it_takes_its_own_messages_timers_and_stores_and_no_others() -> None:
    _, host, other = quiet()
    assert not host.forest.received(other.id, ALIEN, 0)
    assert not host.forest.timer(("ring.live",), 0)
    assert not host.forest.timer((7,), 0)
    assert not host.forest.stored("record/1/aa", 0)
    assert host.forest.timer(("tree.join", b"?" * 16), 0)
    assert host.forest.stored("member/" + "00" * 16, 0)
    assert host.forest.stored("voter/" + "00" * 16, 0)


def test_applications_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_APPS", 5)
    net, host, _ = quiet()
    taken = [host.forest.know(genesis(net, index), 0) for index in range(8)]
    assert taken == [True] * 5 + [False] * 3
    host.forest.conclude(genesis(net, 0).app, 0)
    assert host.forest.know(genesis(net, 9), 0)


def test_heads_of_unknown_applications_are_not_kept() -> None:
    net, host, _ = quiet()
    head = proven(msgspec.structs.replace(genesis(net, 1).head(), epoch=2, round=3))
    assert not host.forest.heard_of(head, 0)
    assert not host.forest.heads
    host.forest.know(genesis(net, 1), 0)
    assert host.forest.heard_of(head, 0)
    grove = host.forest.grove(genesis(net, 1).app, 0)
    assert grove is not None
    assert grove.head == head


def test_votes_on_what_is_over_make_room_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VOTES", 3)
    net, host, other = quiet()
    host.ring.ready = False
    big = Value(100_000, b"", b"B" * 32)
    host.blobs[big.blob] = True
    for index in range(4):
        told = msgspec.structs.replace(genesis(net, index), initial=big)
        host.forest.know(told, net.now)
        head = msgspec.structs.replace(told.head(), epoch=1, root=other.me)
        host.hear(other.id, Accept(head, granted(head)))
        net.run(50 * MS)
    assert len(host.forest.voters) == 3
    assert host.forest.counters["voters_refused"] == 1
    assert host.pins[big.blob] == 1
    first, last = genesis(net, 0).app, genesis(net, 3).app
    host.do(lambda now: host.forest.conclude(first, now))
    host.hear(other.id, Prepare(last, 1, other.me))
    net.run(50 * MS)
    assert first not in host.forest.voters
    assert Voter.key(first) not in host.disk
    assert host.pins[big.blob] == 1, "two applications still guard the same model"
    assert any(isinstance(message, Promise) and message.app == last for _, _, _, message in net.sent)


def test_a_vote_survives_a_restart_and_a_mark_of_membership_too() -> None:
    net = settled(slow(Net(5, rounds=10**4, min_workers=5), 100 * MS))
    net.run_until(lambda: net.round() == 2)
    for host in net.hosts.values():
        before = host.forest.voters[net.app].ballot
        net.crash(host)
        assert before.accepted is not None
    for host in net.hosts.values():
        host.boot()
        accepted = host.forest.voters[net.app].ballot.accepted
        assert accepted is not None
        assert accepted.round >= 1
        assert f"member/{net.app.hex()}" in host.disk
        host.started = False
    net.start()
    before_restart = net.round()
    net.run_until(lambda: net.round() >= before_restart + 2, 60 * SECOND)
    net.check_sums()


def test_a_fabric_that_lost_its_power_goes_on_where_it_was() -> None:
    net = settled(slow(Net(10, rounds=6, min_workers=10), 200 * MS))
    net.run_until(lambda: net.round() == 3)
    for host in net.hosts.values():
        net.crash(host)
    net.run(10 * SECOND)
    net.start()
    done(net, 10)
    assert sorted({round_ for _, round_ in net.committed}) == [0, 1, 2, 3, 4, 5, 6]


def test_joins_pass_by_who_has_no_place_to_give() -> None:
    net, host, other = quiet()
    join = sealed(other.forest.sealer, other.forest.roll.voucher, TreeJoin(net.app, other.me, 1))
    assert host.forest.intercept(other.id, join, 0) is Verdict.CONTINUE
    assert host.forest.intercept(other.id, ALIEN, 0) is Verdict.CONTINUE
    host.forest.deliver(other.id, ALIEN, 0)
    host.do(lambda now: host.forest.deliver(other.id, join, now))
    assert [message for _, _, _, message in net.sent] == [TreeRefuse(net.app, 1, unknown=True)]


def test_leaving_what_one_never_joined_is_nothing() -> None:
    net, host, _ = quiet()
    host.forest.leave(net.app, 0)
    host.forest.join(net.app, 0)
    host.forest.conclude(net.app, 0)
    host.forest.forget(net.app)
    assert host.out.drain() == []
    assert host.forest.groves == {}


# ---- large models --------------------------------------------------------------------------------------------------


def large(size: int, **more: int) -> Net:
    """The first model does not fit into a message; it is at the submitter's daemon."""
    content = b"x" * 100_000
    first = Value(len(content), b"", blob_id(content))
    net = Net(size, initial=first, rounds=2, **more)  # type: ignore[arg-type]
    net.hosts[net.genesis.home.id].blobs[first.blob] = True
    return net


def test_a_large_model_reaches_voters_and_members() -> None:
    net = settled(slow(large(12, min_workers=12), 500 * MS))
    blob = net.genesis.initial.blob
    net.run(2 * SECOND)
    for host in net.hosts.values():
        assert blob in host.blobs
    for voter in net.genesis.voters:
        assert net.hosts[voter.id].pins[blob] >= 0
    net.run_until(net.finished)


def test_the_first_root_waits_until_the_submitter_is_there() -> None:
    net = large(8, min_workers=1)
    home = net.hosts[net.genesis.home.id]
    rest = [host for host in net.hosts.values() if host is not home]
    net.start(rest)
    net.run(20 * SECOND)
    assert not net.roots()
    assert any("stalled" in host.roles.said for host in rest)
    net.start([home])
    net.run_until(lambda: bool(net.roots()), 60 * SECOND)


def test_when_the_root_dies_while_the_model_travels_another_holder_gives_it() -> None:
    net = settled(slow(large(10, min_workers=9), 2 * SECOND))
    root = net.root
    child = below(net, root)[0]
    child.blobs.clear()
    net.crash(root)
    net.run_until(lambda: bool(net.roots()), 60 * SECOND)
    net.run_until(net.finished, 60 * SECOND)


def without_data(net: Net) -> Host:
    """The closest node, root of a tree in which it has not asked for a place."""
    first, *others = net.by_rank()
    net.start(others)
    net.start([first], join=False)
    net.run_until(lambda: first.started and net.app in first.forest.groves and first.is_root)
    return first


def test_a_root_that_takes_part_later_sits_out_until_its_membership_is_written_down() -> None:
    """Without the mark its next life would not know that this one may have handed in."""
    net = slow(Net(6, rounds=3, min_workers=1), 1 * SECOND)
    root, mark = without_data(net), f"member/{net.app.hex()}"
    assert mark not in root.disk
    waves = root.grove().waves
    root.held = []
    root.join()
    assert waves.amnesia, "nothing durable says yet that it takes part"
    assert (mark, b"1") in root.held
    root.flush()
    root.held = None
    assert not waves.amnesia
    assert mark in root.disk
    net.run_until(net.finished, 300 * SECOND)
    net.check_sums()


def test_a_life_after_the_mark_sits_out_the_first_wave_that_it_hears_of() -> None:
    net = slow(Net(6, rounds=4, min_workers=1), 1 * SECOND)
    root = without_data(net)
    root.join()
    net.run_until(lambda: f"member/{net.app.hex()}" in root.disk)
    net.crash(root)
    net.run(100 * MS)
    net.restart(root)
    assert root.grove().waves.amnesia
    net.run_until(lambda: bool(root.roles.opened), 60 * SECOND)
    assert root.roles.sat_out[:1] == root.roles.opened[:1]
    net.run_until(net.finished, 300 * SECOND)
    net.check_sums()
