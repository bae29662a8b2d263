"""What one wave collects, whatever is lost, late, repeated or dead meanwhile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.aggregator import join
from protocol.errors import Code
from protocol.messages import EMPTY, Value
from pubsub.claims import claim
from pubsub.config import TreeConfig
from pubsub.intake import fitting
from pubsub.messages import MAX_CLAIMS, Committed, Partial, TreeBeat, TreeJoin, TreeWant, WaveId, WaveOpen, WaveUp
from pubsub.partials import MAX_WEIGHT
from tests.pubsub.harness import MS, SECOND, Host, Net
from tests.pubsub.roles import IntegerRoles
from tests.pubsub.seals import key, node, proven, sealer, voucher
from tests.pubsub.test_tree import below, interior, settled

QUICK = TreeConfig(beat=1 * SECOND)


CROWD = {node(1000 + index): key(1000 + index) for index in range(MAX_CLAIMS)}
"""Many members, and their keys."""


def slow(net: Net, training: int) -> Net:
    for host in net.hosts.values():
        host.training = training
    return net


def done(net: Net, contributors: int) -> None:
    """Run to the end; the last round holds ``contributors``."""
    net.run_until(net.finished, 300 * SECOND)
    net.check_sums()
    assert len(net.committed[net.app, net.rounds].contributors) == contributors


def test_every_contribution_is_in_the_sum_once() -> None:
    net = settled(Net(25, fan_out=3, rounds=4, min_workers=25))
    done(net, 25)


def test_a_child_whose_parent_dies_before_it_handed_in_hands_in_to_the_next() -> None:
    net = settled(slow(Net(12, fan_out=2, rounds=1, min_workers=12), 5 * SECOND))
    victim = interior(net)
    net.min_workers = 11
    net.crash(victim)
    done(net, 11)


def test_what_a_dead_parent_took_with_it_is_collected_by_the_next_wave() -> None:
    net = settled(slow(Net(12, fan_out=2, rounds=1, min_workers=11), 2 * SECOND))
    victim = interior(net)
    victim.training = 20 * SECOND
    children = below(net, victim)
    net.run_until(lambda: all(child.grove().waves.sent == net.wave_of(child) for child in children))
    assert not victim.grove().waves.collected
    net.crash(victim)
    done(net, 11)
    assert net.wave_of(net.by_rank()[0]).wave > 0
    assert [host.roles.trained for host in net.hosts.values() if host is not victim] == [[1]] * 11


def test_a_child_that_dies_after_it_handed_in_stays_counted() -> None:
    net = settled(slow(Net(12, fan_out=2, rounds=1, min_workers=12), 1 * SECOND))
    parent = interior(net)
    child = below(net, parent)[0]
    parent.training = 4 * SECOND
    net.run_until(lambda: child.grove().waves.sent == net.wave_of(child))
    net.crash(child)
    done(net, 12)


def test_a_late_partial_is_dropped_and_its_sender_is_in_the_next_wave() -> None:
    net = settled(Net(8, rounds=1, min_workers=8))
    straggler = next(host for host in net.by_rank() if not host.is_root and not below(net, host))
    net.delay(WaveUp, 3 * SECOND, src=straggler, times=1)
    done(net, 8)
    assert straggler.roles.trained == [1]


def test_what_comes_twice_counts_once() -> None:
    net = Net(16, fan_out=3, rounds=3, min_workers=16)
    for kind in (WaveUp, WaveOpen, TreeJoin, Committed, TreeBeat, TreeWant):
        net.repeat(kind, copies=3)
    done(settled(net), 16)


@pytest.mark.parametrize("kind", [WaveUp, WaveOpen, Committed])
def test_a_message_that_is_lost_hangs_nothing(kind: type) -> None:
    net = settled(Net(10, fan_out=2, rounds=3, min_workers=10, config=QUICK, quorum=1.0))
    rules = [net.lose(kind, src=host, times=1) for host in net.hosts.values()]
    done(net, 10)
    assert sum(rule.hits for rule in rules) > 1


def test_a_restarted_member_sits_out_the_first_wave_that_it_hears_of() -> None:
    net = settled(slow(Net(6, rounds=2, min_workers=6), 1 * SECOND))
    host = next(host for host in net.by_rank() if not host.is_root)
    assert any(key.startswith("member/") for key in host.disk)
    net.run_until(lambda: host.grove().waves.sent is not None)
    net.crash(host)
    net.run(50 * MS)
    net.restart(host)
    done(net, 6)
    first, *later = host.roles.opened
    assert first in host.roles.sat_out
    assert later


def test_a_member_without_an_earlier_life_counts_at_once() -> None:
    net = settled(slow(Net(6, rounds=2, min_workers=6), 1 * SECOND))
    assert not any(host.grove().waves.amnesia for host in net.hosts.values())
    done(net, 6)
    assert all(not host.roles.sat_out for host in net.hosts.values())


def test_a_wave_after_the_first_collects_only_the_missing() -> None:
    net = settled(slow(Net(10, fan_out=2, rounds=1, min_workers=10), 500 * MS))
    leaf = next(host for host in net.by_rank() if not host.is_root and not below(net, host))
    net.delay(WaveUp, 20 * SECOND, src=leaf, times=1)
    done(net, 10)
    second = [message for _, _, _, message in net.sent if isinstance(message, WaveOpen) and message.wave.wave == 1]
    assert second
    assert all(leaf.id not in message.closed and len(message.closed) > 0 for message in second)


def test_too_few_workers_and_the_round_waits_for_more() -> None:
    net = Net(8, rounds=1, min_workers=8)
    late = net.by_rank()[7]
    net.start([host for host in net.hosts.values() if host is not late])
    net.run(20 * SECOND)
    assert net.round() == 0
    net.start([late])
    done(net, 8)


def test_a_quorum_ends_a_wave_without_history() -> None:
    """And it does so at every level in time for the level above."""
    net = settled(slow(Net(20, fan_out=2, rounds=2, min_workers=19), 1 * SECOND))
    sleeper = next(host for host in net.by_rank() if not host.is_root and below(net, host))
    sleeper.training = 10**6 * SECOND
    net.run_until(lambda: net.round() == 1)
    done(net, 19)
    assert max(wave.wave for host in net.hosts.values() for wave in host.roles.opened if wave.round == 2) <= 2


@pytest.mark.parametrize("latency", [1 * MS, 40 * MS, 250 * MS])
def test_deadlines_nest_however_far_apart_the_nodes_are(latency: int) -> None:
    """A straggler is left out of a wave alone, not with all that its parent had collected."""
    net = Net(12, fan_out=2, rounds=4, min_workers=11)
    net.latency = latency
    settled(slow(net, 100 * MS))
    sleeper = next(host for host in net.by_rank() if not below(net, host) and len(host.grove().tree.path) > 2)
    sleeper.training = 10**6 * SECOND
    for host in net.hosts.values():
        host.roles.remaining = 8 * SECOND
    net.run_until(lambda: net.round() == 3)
    assert len(net.committed[net.app, 3].contributors) == 11
    root = net.root.id
    opened = [m for _, src, _, m in net.sent if src == root and isinstance(m, WaveOpen) and m.wave.round == 3]
    assert all(len(m.closed) in (0, 11) for m in opened)


def test_an_acceptance_by_a_child_does_not_leave_the_wave_waiting_for_it() -> None:
    net = settled(slow(Net(4, fan_out=4, rounds=1, min_workers=1), 1 * SECOND))
    root, one = net.root, next(host for host in net.by_rank() if not host.is_root)
    waves = one.grove().waves
    waves._expected[root.id] = False
    one.grove().tree.children[root.id] = next(iter(root.grove().tree.children.values()))
    one.grove().tree.parent, one.grove().tree._candidates = None, []
    one.do(lambda now: net.post(one.id, root.id, one.grove().tree._ask()))
    done(net, 4)


# ---- what liars send -----------------------------------------------------------------------------------------------


def crooked(net: Net, partial: Partial, absent: int = 0) -> tuple[Host, Host]:
    """A child of the root answers the present wave with ``partial``: (root, child)."""
    root = net.root
    child = below(net, root)[0]
    root.hear(child.id, handed(net, partial, root, absent=absent))
    return root, child


def handed(net: Net, partial: Partial, to: Host, *, absent: int = 0, digest_from: Partial | None = None) -> WaveUp:
    """``partial`` on its way to ``to``, with a good statement of everybody who is named in it."""
    wave = net.wave_of(to)
    stated = tuple(
        claim(
            sealer(CROWD.get(member) or net.keys[member]), voucher(member), net.app, wave, digest_from or partial, to.id
        )
        for member in partial.contributors
    )
    return WaveUp(net.app, wave, partial, absent, stated)


def working() -> Net:
    return settled(slow(Net(6, fan_out=5, rounds=1, min_workers=1), 3 * SECOND))


@pytest.mark.parametrize(
    "change",
    [
        lambda part: Partial(math.nan, part.value, part.contributors),
        lambda part: Partial(math.inf, part.value, part.contributors),
        lambda part: Partial(-1.0, part.value, part.contributors),
        lambda part: Partial(1.0, part.value, part.contributors, {"loss": math.nan}),
        lambda part: Partial(1.0, part.value, part.contributors, {"loss": -math.inf}),
        lambda part: Partial(1e308, part.value, part.contributors),
        lambda part: Partial(1e300, part.value, part.contributors),
        lambda part: Partial(MAX_WEIGHT * 2, part.value, part.contributors),
        lambda part: Partial(0.0, part.value, part.contributors),
        lambda part: Partial(1.0, part.value, part.contributors, {"loss": 1.0, "loss.n": MAX_WEIGHT * 2}),
        lambda part: Partial(1.0, part.value, part.contributors, {"loss": 1.0, "loss.n": 1e-300}),
    ],
)
def test_numbers_that_are_not_finite_are_a_penalty_and_nothing_else_is_lost(
    change: Callable[[Partial], Partial],
) -> None:
    net = working()
    child = below(net, net.root)[0]
    root, child = crooked(net, change(Partial(1.0, IntegerRoles.value(7), (child.id,))))
    assert root.penalties[-1][:2] == (child.id, Code.NON_FINITE)
    assert child.id not in root.grove().waves._intake.parts
    net.run_until(net.finished)
    assert len(net.committed[net.app, 1].contributors) == 6, "a refused partial counts as absent: it is asked again"


@pytest.mark.parametrize("value", [Value(3, b"ab"), Value(9, b"", b"short"), Value(0, b"", b"x" * 32)])
def test_a_value_that_contradicts_itself_is_a_penalty(value: Value) -> None:
    net = working()
    child = below(net, net.root)[0]
    root, child = crooked(net, Partial(1.0, value, (child.id,)))
    assert root.penalties[-1][:2] == (child.id, Code.MALFORMED)
    net.run_until(net.finished)


@pytest.mark.parametrize("metrics", [{"loss.n": 1.0}, {"loss": 1.0, "loss.n": 1.0, "loss.n.n": 1.0}, {"x" * 65: 1.0}])
def test_a_metric_that_does_not_fit_its_weight_is_a_penalty(metrics: dict[str, float]) -> None:
    net = working()
    child = below(net, net.root)[0]
    root, child = crooked(net, Partial(1.0, IntegerRoles.value(7), (child.id,), metrics))
    assert root.penalties[-1][:2] == (child.id, Code.MALFORMED)
    net.run_until(net.finished)


def test_a_value_without_anybody_behind_it_is_a_penalty() -> None:
    net = working()
    root, child = crooked(net, Partial(1.0, IntegerRoles.value(7), ()))
    assert root.penalties[-1][:2] == (child.id, Code.MALFORMED)


def test_a_sum_larger_than_its_application_allows_is_a_penalty_and_is_never_fetched() -> None:
    net = working()
    huge = Value(net.genesis.limit + 1, blob=b"H" * 32)
    root, child = crooked(net, Partial(1.0, huge, (below(net, net.root)[0].id,)))
    assert root.penalties == [(child.id, Code.OVERSIZE, "artifact larger than its application allows")]
    assert not root.forest.holdings.awaits(huge)
    net.run_until(net.finished)
    net.check_sums()


def test_a_wave_on_a_model_larger_than_its_application_allows_is_its_senders_fault() -> None:
    """Voters seal no such head, unless a majority of them lies."""
    net = working()
    root, wave = net.root, net.wave_of(net.root)
    member = below(net, root)[0]
    huge = Value(net.genesis.limit + 1, blob=b"H" * 32)
    head = proven(msgspec.structs.replace(root.grove().head, round=9, model=huge))
    member.hear(root.id, WaveOpen(net.app, WaveId(wave.epoch, 10, 0), head.lean(), 0))
    assert member.penalties == [(root.id, Code.OVERSIZE, "artifact larger than its application allows")]
    assert not member.forest.holdings.awaits(huge)
    assert net.wave_of(member) == wave


def test_a_child_that_names_its_sibling_is_blamed_and_the_sibling_counts() -> None:
    """One liar made three honest nodes collect a thousand penalties when a name was enough."""
    net = working()
    root = net.root
    liar, other = below(net, root)[:2]
    forged = handed(net, Partial(1.0, IntegerRoles.value(7), (liar.id, other.id)), root)
    own, _ = forged.claims
    lie = msgspec.structs.replace(forged, claims=(own, own))
    root.hear(liar.id, lie)
    assert root.penalties == [(liar.id, Code.BAD_SIGNATURE, "a contributor that is not proven")]
    net.run_until(net.finished)
    net.check_sums()
    assert {host for host, *_ in root.penalties} == {liar.id}
    assert other.id in net.committed[net.app, 1].contributors


def test_a_statement_about_another_wave_parent_or_value_proves_nothing() -> None:
    for change in ("wave", "parent", "value", "missing"):
        net = working()
        root, child = net.root, below(net, net.root)[0]
        part = Partial(1.0, IntegerRoles.value(7), (child.id,))
        up = handed(net, part, child if change == "parent" else root)
        if change == "value":
            up = handed(net, part, root, digest_from=Partial(2.0, part.value, part.contributors))
        elif change == "wave":
            old = net.wave_of(root)._replace(epoch=99)
            stated = claim(sealer(net.keys[child.id]), voucher(child.id), net.app, old, part, root.id)
            up = msgspec.structs.replace(up, claims=(stated,))
        elif change == "missing":
            up = msgspec.structs.replace(up, claims=())
        root.hear(child.id, up)
        assert root.penalties[-1][:2] == (child.id, Code.BAD_SIGNATURE), change
        assert not root.grove().waves._intake.parts


def test_who_makes_two_statements_is_the_liar_and_not_those_who_passed_them_on() -> None:
    net = working()
    one, other, liar = below(net, net.root)[:3]
    first = Partial(1.0, IntegerRoles.value(7), tuple(sorted((one.id, liar.id))))
    second = Partial(1.0, IntegerRoles.value(9), tuple(sorted((other.id, liar.id))))
    net.root.hear(one.id, handed(net, first, net.root))
    net.root.hear(other.id, handed(net, second, net.root))
    assert [(peer, code) for peer, code, _ in net.root.penalties] == [(liar.id, Code.OVERLAP)]
    assert list(net.root.grove().waves._intake.parts) == [one.id]
    assert net.root.forest.counters["partials_overlapping"] == 1


def test_a_statement_that_two_children_repeat_is_counted_once_and_blames_nobody() -> None:
    net = working()
    one, other, third = below(net, net.root)[:3]
    part = Partial(1.0, IntegerRoles.value(7), (third.id,))
    up = handed(net, part, net.root)
    net.root.hear(one.id, up)
    net.root.hear(other.id, up)
    assert net.root.penalties == []
    assert list(net.root.grove().waves._intake.parts) == [one.id]


def test_a_child_may_not_speak_for_its_parent() -> None:
    net = working()
    up = handed(net, Partial(1.0, IntegerRoles.value(7), (net.root.id,)), net.root)
    child = below(net, net.root)[0]
    stated = claim(sealer(net.keys[child.id]), voucher(child.id), net.app, up.wave, up.partial, net.root.id)  # type: ignore[arg-type]
    net.root.hear(child.id, msgspec.structs.replace(up, claims=(stated,)))
    assert net.root.penalties[-1][:2] == (child.id, Code.BAD_SIGNATURE)
    net.run_until(net.finished)
    net.check_sums()


def test_who_is_done_with_the_round_cannot_be_handed_in_again() -> None:
    net = working()
    child = below(net, net.root)[0]
    net.root.grove().waves._intake.begin((child.id,), [child.id])
    root, child = crooked(net, Partial(1.0, IntegerRoles.value(7), (child.id,)))
    assert root.penalties[-1][:2] == (child.id, Code.OVERLAP)


def two_below(patience: int = 0) -> tuple[Net, Host, Host, Host]:
    """A parent in the middle, and its two children."""
    config = replace(TreeConfig(), doubt=patience)
    net = settled(slow(Net(8, fan_out=2, rounds=1, min_workers=1, config=config), 3 * SECOND))
    parent = next(host for host in net.hosts.values() if not host.is_root and len(below(net, host)) == 2)
    one, other = below(net, parent)
    return net, parent, one, other


@pytest.mark.parametrize("first", [True, False])
def test_a_child_that_names_as_many_as_fit_keeps_out_none_of_its_siblings(first: bool) -> None:
    """Whoever comes first.  What finds no room is counted, and told."""
    net, parent, one, other = two_below()
    crowd = handed(net, Partial(1.0, EMPTY, tuple(CROWD)), parent)
    single = handed(net, Partial(1.0, IntegerRoles.value(7), (other.id,)), parent)
    for child, up in [(one, crowd), (other, single)] if first else [(other, single), (one, crowd)]:
        parent.hear(child.id, up)
    net.run_until(lambda: parent.grove().waves.sent == net.wave_of(parent))
    handed_on = [up.partial for _, src, _, up in net.sent if src == parent.id and isinstance(up, WaveUp) and up.partial]
    assert other.id in handed_on[-1].contributors
    assert not set(handed_on[-1].contributors) & set(CROWD)
    assert parent.forest.counters["partials_overflow"] == 1
    assert parent.roles.left_out == [len(CROWD)]
    assert parent.penalties == []


@given(st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(1, 400), max_size=8), st.integers(1, 1000))
def test_nobody_is_left_out_who_names_no_more_than_its_share(sizes: dict[bytes, int], room: int) -> None:
    chosen = fitting(sizes, room)
    assert sum(sizes[child] for child in chosen) <= room
    assert all(child in chosen for child, size in sizes.items() if size <= room // len(sizes))
    assert chosen == fitting(dict(reversed(sizes.items())), room), "the order of arrival decides nothing"
    left = room - sum(sizes[child] for child in chosen)
    assert all(sizes[child] > left for child in sizes if child not in chosen), "no room is wasted"


def test_partials_are_added_in_an_order_of_their_own_and_not_as_they_come() -> None:
    """So that rounding does not depend on who answered first."""
    seen = []
    for turn in (1, -1):
        net = working()
        children = below(net, net.root)
        for child in children[::turn]:
            part = Partial(1.0, IntegerRoles.value(7), (child.id,))
            net.root.hear(child.id, handed(net, part, net.root))
        seen.append([one.sender for one in net.root.grove().waves._in_order()])
    assert seen[0] == seen[1] == sorted(seen[0])


def test_invented_contributors_are_the_fault_of_whoever_hands_them_in() -> None:
    net, parent, one, _ = two_below()
    up = handed(net, Partial(1.0, EMPTY, tuple(CROWD)[:3]), parent)
    invented = msgspec.structs.replace(up.claims[1], voucher=up.claims[0].voucher)
    parent.hear(one.id, msgspec.structs.replace(up, claims=(up.claims[0], invented, up.claims[2])))
    assert [penalty[:2] for penalty in parent.penalties] == [(one.id, Code.BAD_SIGNATURE)]
    assert not parent.grove().waves._intake.parts
    assert parent.grove().waves._missing == 3


def test_an_authority_that_is_news_here_is_doubted_for_a_while_and_then_held_against_the_child() -> None:
    for patience, blamed in ((60 * SECOND, False), (0, True)):
        net, parent, one, _ = two_below(patience)
        up = handed(net, Partial(1.0, EMPTY, tuple(CROWD)[:1]), parent)
        strange = msgspec.structs.replace(up.claims[0], voucher=b"elsewhere" * 8)
        parent.hear(one.id, msgspec.structs.replace(up, claims=(strange,)))
        assert not parent.grove().waves._intake.parts
        assert parent.forest.counters["contributors_strange"] == 1
        assert [penalty[:2] for penalty in parent.penalties] == [(one.id, Code.UNAUTHORISED)] * blamed


def test_a_contributor_that_was_revoked_is_not_counted_and_blames_nobody() -> None:
    net, parent, one, _ = two_below()
    gone = next(iter(CROWD))
    parent.forest.inspector._roll.revoke(gone)
    parent.hear(one.id, handed(net, Partial(1.0, EMPTY, (gone,)), parent))
    assert not parent.grove().waves._intake.parts
    assert parent.penalties == []


def test_a_wave_that_ends_while_a_child_is_still_looked_at_ends_without_it() -> None:
    net, parent, one, _ = two_below()
    up = handed(net, Partial(1.0, EMPTY, tuple(CROWD)), parent)
    parent.do(lambda now: parent.forest.received(one.id, up, now))
    waves = parent.grove().waves
    assert one.id in waves._arriving
    parent.do(waves._close)
    assert parent.forest.counters["late_partials"] == 1
    assert waves._lags[one.id] > 0
    net.run(1 * SECOND)
    assert one.id not in waves._intake.parts


def test_no_number_of_absentees_overflows() -> None:
    net = settled(slow(Net(12, fan_out=2, rounds=1, min_workers=1), 3 * SECOND))
    parent = interior(net)
    for child in below(net, parent):
        up = WaveUp(net.app, net.wave_of(parent), None, 1 << 62)
        parent.hear(child.id, up)
    net.run_until(lambda: parent.grove().waves.sent == net.wave_of(parent))


def test_absurd_deadlines_are_borne() -> None:
    for remaining in (-(1 << 63), -1, 1, (1 << 64) - 1):
        net = settled(slow(Net(12, fan_out=2, rounds=1, min_workers=1), 1 * SECOND))
        parent = interior(net)
        above, wave = parent.grove().tree.parent, WaveId(1, 1, 1)
        order = WaveOpen(net.app, wave, net.root.grove().head.lean(), remaining)
        parent.hear(above, order)
        net.run(10 * SECOND)


# ---- laws ----------------------------------------------------------------------------------------------------------


def _partials() -> st.SearchStrategy[Partial]:
    """Integer-valued floats, so that sums do not depend on the order."""
    number = st.integers(-1000, 1000).map(float)
    metrics = st.dictionaries(st.integers(0, 99).map(lambda index: f"metric-{index:02}"), number, max_size=64)
    return st.builds(Partial, number, st.just(EMPTY), st.just(()), metrics)


@given(st.lists(_partials(), min_size=3, max_size=3))
def test_merge_is_associative_and_commutative(parts: list[Partial]) -> None:
    named = [Partial(part.weight, EMPTY, (bytes([index]) * 16,), part.metrics) for index, part in enumerate(parts)]
    whole = join(named, EMPTY)
    for order in itertools.permutations(named):
        left = join([join(order[:2], EMPTY), order[2]], EMPTY)
        right = join([order[0], join(order[1:], EMPTY)], EMPTY)
        assert left == right == whole == join(order, EMPTY)


def test_a_wave_may_work_on_the_model_of_an_earlier_round_under_a_head_that_stays_proven() -> None:
    net = slow(Net(8, rounds=10**4), 2 * SECOND)
    net.start()
    net.run_until(lambda: net.round() == 2)
    root = net.root
    earlier, head, current = Value(3, b"old"), root.grove().head, root.grove().waves.current
    wave = WaveId(current.epoch, current.round, current.wave + 1)
    opening = WaveOpen(net.app, wave, head.lean(), 0, earlier=earlier)
    root.do(lambda now: root.grove().waves.open(opening, now))
    net.run(500 * MS)
    others = [host for host in net.hosts.values() if host is not root]
    assert [host.grove().waves.open_wave.model for host in others] == [earlier] * 7
    assert not [host.penalties for host in net.hosts.values() if host.penalties]
