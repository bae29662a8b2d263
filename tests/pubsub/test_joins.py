"""Joins that others carry: nobody asks in another's name, and what was carried takes no place."""

from __future__ import annotations

import msgspec
import pytest

from dht.ports import Verdict
from protocol.errors import Code
from protocol.messages import Contact
from pubsub import joins as module
from pubsub.joins import sealed
from pubsub.messages import HeadQuery, TreeAccept, TreeJoin, TreeLeave, TreeRefuse
from tests.pubsub.harness import MS, SECOND, Host, Net, contact
from tests.pubsub.seals import key, sealer, voucher
from tests.pubsub.test_tree import below, settled

STRANGER = contact(390)
"""Somebody with a key of its own."""


def asked(host: Host, joiner: Host, attempt: int = 1 << 50, **fields: object) -> TreeJoin:
    """What ``joiner`` would send into the ring."""
    join = TreeJoin(host.net.app, joiner.me, attempt)
    return sealed(joiner.forest.sealer, voucher(joiner.id), msgspec.structs.replace(join, **fields))


def carry(host: Host, relay: Host, join: TreeJoin) -> Verdict:
    """``relay`` hands ``join`` to ``host``."""
    verdicts: list[object] = []
    host.do(lambda now: verdicts.append(host.forest.intercept(relay.id, join, now)))
    (verdict,) = verdicts
    assert isinstance(verdict, Verdict)
    return verdict


def deliver(host: Host, relay: Host, join: TreeJoin) -> None:
    """The same at the rendezvous."""
    if carry(host, relay, join) is Verdict.CONTINUE:
        host.do(lambda now: host.forest.deliver(relay.id, join, now))


def told(net: Net, host: Host) -> list[object]:
    """What was said to ``host`` since ``net.sent`` was cleared."""
    return [message for _, _, dst, message in net.sent if dst == host.id]


def stage(size: int = 8, *, fan_out: int = 8) -> tuple[Net, Host, Host, Host]:
    """(net, its root, a child of the root, another child)."""
    net = settled(Net(size, fan_out=fan_out, rounds=10**6, min_workers=99))
    one, other = below(net, net.root)[:2]
    net.sent.clear()
    return net, net.root, one, other


def place(root: Host, child: Host) -> object:
    """All that the root remembers of one child, and all that it waits for."""
    grove = root.grove()
    held = grove.tree.children.get(child.id)
    return (held.attempt, held.contact) if held else None, sorted(grove.tree.children), dict(grove.waves._expected)


@pytest.mark.parametrize(
    "lie",
    [
        {"attempt": (1 << 50) + 1},
        {"joiner": contact(3, incarnation=1 << 40)},
        {"joiner": Contact(contact(3).id, ("10.9.9.9:1",), 1)},
        {"app": b"?" * 16},
        {"seal": None},
    ],
    ids=["attempt", "incarnation", "address", "application", "no seal"],
)
def test_a_join_that_its_joiner_did_not_make_goes_no_further_and_costs_whoever_handed_it_over(
    lie: dict[str, object],
) -> None:
    net, root, liar, _ = stage()
    victim = net.hosts[contact(3).id]
    before = place(root, victim)
    join = msgspec.structs.replace(asked(root, victim), **lie)
    assert carry(root, liar, join) is Verdict.CONSUME
    assert root.penalties == [(liar.id, Code.BAD_SIGNATURE, "join that its joiner did not make")]
    assert root.forest.counters["joins_unproven"] == 1
    assert place(root, victim) == before
    assert told(net, victim) == []


def test_nobody_seals_for_another() -> None:
    net, root, liar, victim = stage()
    join = sealed(liar.forest.sealer, voucher(victim.id), TreeJoin(net.app, victim.me, 1 << 50))
    assert carry(root, liar, join) is Verdict.CONSUME
    assert root.penalties[-1][:2] == (liar.id, Code.BAD_SIGNATURE)


def test_whoever_has_no_part_in_an_application_passes_on_only_what_is_sealed() -> None:
    net, root, liar, victim = stage()
    net.start([], join=False)
    passer = next(host for host in net.hosts.values() if host not in (root, liar, victim))
    passer.do(lambda now: passer.forest.leave(net.app, now))
    before = len(passer.penalties)
    assert carry(passer, liar, msgspec.structs.replace(asked(passer, victim), attempt=1 << 60)) is Verdict.CONSUME
    assert len(passer.penalties) == before + 1
    assert carry(passer, liar, asked(passer, victim)) is Verdict.CONTINUE
    assert len(passer.penalties) == before + 1


def test_a_join_that_was_carried_takes_no_place_and_changes_nothing() -> None:
    """A relay may repeat what a child once asked, at a parent that never saw it: the child is told, and ignores it."""
    net, root, liar, child = stage()
    parent, attempt = child.grove().tree.parent, child.grove().tree._attempt
    before = place(root, child)
    for old in (asked(root, child, 5), asked(root, child, attempt), asked(root, child, 1 << 60)):
        assert carry(root, liar, old) is Verdict.CONSUME
    assert place(root, child) == before
    other = next(host for host in net.hosts.values() if host not in (root, child, liar))
    nothing = place(other, child)
    carry(other, liar, asked(other, child, 5))
    assert place(other, child) == nothing
    assert {type(message) for message in told(net, child)} == {TreeRefuse}
    net.run(SECOND)
    assert not any(isinstance(message, TreeAccept | TreeLeave) for _, _, _, message in net.sent)
    assert (child.grove().tree.parent, child.grove().tree._attempt) == (parent, attempt)
    assert not any(host.penalties for host in net.hosts.values())


def test_who_was_told_whom_to_ask_asks_there_and_has_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    net, root, relay, child = stage()
    routed: list[TreeJoin] = []
    monkeypatch.setattr(net, "route", lambda origin, app, join: routed.append(join))
    root.do(lambda now: root.grove().tree.drop_child(child.id, now))
    child.do(child.grove().tree.lose_parent)
    net.run(10 * MS)
    net.sent.clear()
    carry(root, relay, routed[-1])
    assert told(net, child) == [TreeRefuse(net.app, routed[-1].attempt, (root.me,))]
    assert child.id not in root.grove().tree.children
    net.run_until(lambda: child.grove().tree.parent == root.id, SECOND)


def phantom(net: Net, index: int, vouched: bytes | None = None) -> TreeJoin:
    """A join that is well sealed, by a key that is not of ``net``; a member's unless ``vouched`` says otherwise."""
    shown = voucher(contact(index).id) if vouched is None else vouched
    return sealed(sealer(key(index)), shown, TreeJoin(net.app, contact(index), 1))


def test_who_was_never_endorsed_is_not_answered() -> None:
    """A liar may make keys, and joins that are well sealed, for as many nodes as it likes."""
    net, root, liar, other = stage()
    for index, vouched in enumerate((b"", b"elsewhere" * 8), 100):
        assert carry(root, liar, phantom(net, index, vouched)) is Verdict.CONSUME
    assert not root.penalties, "perhaps the news of another authority is under way"
    for index, vouched in enumerate((voucher(liar.id), voucher(contact(99).id)[:40]), 200):
        assert carry(root, other, phantom(net, index, vouched)) is Verdict.CONSUME
    assert {peer for peer, _, _ in root.penalties} == {other.id}
    root.forest.roll.revoke(contact(300).id)
    assert carry(root, liar, phantom(net, 300)) is Verdict.CONSUME
    assert {dst for _, _, dst, _ in net.sent} <= set(net.hosts)
    assert root.forest.counters["joins_unproven"] == 5


def test_members_that_are_not_there_take_no_slots() -> None:
    net, root, liar, _ = stage()
    before = sorted(root.grove().tree.children)
    for index in range(100, 300):
        deliver(root, liar, phantom(net, index))
    assert sorted(root.grove().tree.children) == before
    assert root.grove().tree._has_slot(STRANGER)
    assert not root.penalties


def test_a_rendezvous_asks_the_root_in_whose_name_a_join_was_carried_and_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, root, liar, rendezvous = stage()
    rendezvous.do(lambda now: rendezvous.forest.leave(net.app, now))
    monkeypatch.setattr(rendezvous.ring, "is_closest", lambda key: True)
    rendezvous.do(rendezvous.grove().rendezvous.serve)
    net.run_until(lambda: rendezvous.grove().rendezvous.live_root == root.me, 10 * SECOND)
    net.run(SECOND)
    net.sent.clear()
    for attempt in range(50):
        deliver(rendezvous, liar, asked(rendezvous, root, (1 << 50) + attempt, orphan=True))
        assert rendezvous.grove().rendezvous.live_root == root.me
    net.run(SECOND)
    assert rendezvous.grove().rendezvous.live_root == root.me
    assert sum(isinstance(message, HeadQuery) for message in told(net, root)) == 1
    assert not rendezvous.grove().rendezvous._deputy
    deliver(rendezvous, root, asked(rendezvous, root, 1 << 51))
    assert rendezvous.grove().rendezvous.root is None, "what it says on its own link counts at once"


def test_the_same_join_is_answered_once() -> None:
    net, root, liar, child = stage()
    join = asked(root, child)
    for _ in range(1000):
        carry(root, liar, join)
    assert told(net, child) == [TreeRefuse(net.app, join.attempt, (root.me,))]


def test_who_carries_keeps_a_pace_and_costs_no_other_relay_its_own() -> None:
    net, root, liar, honest = stage()
    burst = net.config.relay_burst
    for attempt in range(10_000):
        carry(root, liar, asked(root, liar, 1 + attempt))
    assert root.forest.counters["joins_paced"] >= 10_000 - burst
    assert len(told(net, liar)) <= 2 * burst
    net.sent.clear()
    carry(root, honest, asked(root, honest, 1 << 50))
    assert any(isinstance(message, TreeAccept) for message in told(net, honest))


def test_who_joins_all_the_time_leaves_an_honest_relay_its_pace() -> None:
    net, root, relay, liar = stage()
    for attempt in range(10_000):
        carry(root, relay, asked(root, liar, (1 << 50) + attempt))
        net.now += net.config.relay_pause
    most = net.config.joiner_burst + 10_000 * net.config.relay_pause // net.config.joiner_pause + 1
    assert 0 < len(told(net, liar)) <= most
    child = next(host for host in net.hosts.values() if host not in (root, relay, liar))
    net.sent.clear()
    net.now += net.config.relay_pause
    carry(root, relay, asked(root, child))
    assert told(net, child) == [TreeRefuse(net.app, 1 << 50, (root.me,))]


def test_a_child_that_joins_all_the_time_is_answered_now_and_then() -> None:
    net, root, child, other = stage()
    for attempt in range(10_000):
        root.hear(child.id, TreeJoin(net.app, child.me, (1 << 50) + attempt))
    accepted = [message for message in told(net, child) if isinstance(message, TreeAccept)]
    assert 0 < len(accepted) <= net.config.join_burst
    net.sent.clear()
    root.hear(other.id, TreeJoin(net.app, other.me, 1 << 50))
    assert any(isinstance(message, TreeAccept) for message in told(net, other))


def test_a_gateway_becomes_a_member_only_for_whom_it_is_the_gateway() -> None:
    net = Net(6, leaves=1, rounds=10**4, min_workers=99)
    net.start(join=False)
    leaf = net.by_rank()[6]
    passer, gateway, liar = net.by_rank()[1:4]
    join = asked(passer, leaf)
    assert carry(passer, liar, join) is Verdict.CONTINUE
    assert not passer.forest.groves
    assert carry(gateway, leaf, join) is Verdict.CONSUME
    assert gateway.grove().tree.wanted


def test_what_is_remembered_of_joins_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SEEN", 5)
    net, root, liar, _ = stage()
    for index in range(100, 120):
        carry(root, liar, phantom(net, index))
    assert len(root.forest._joins._seen) == 5
