"""Links between hosts: delay, loss, duplication, order, partitions."""

from __future__ import annotations

from typing import Any

import pytest

from dht.messages import Ping, Pong
from protocol import effects as fx
from protocol import events as ev
from protocol.messages import Contact
from simulations.clock import SECOND
from simulations.network import Noise

from .toy import Lab


def nonces(lab: Lab, index: int) -> list[int]:
    return [event.message.nonce for event in lab.toy(index).events(ev.Received) if isinstance(event.message, Ping)]


def failures(lab: Lab, index: int) -> list[int]:
    return [event.message.nonce for event in lab.toy(index).events(ev.SendFailed)]


def downs(lab: Lab, index: int) -> list[str]:
    return [event.why for event in lab.toy(index).events(ev.PeerDown)]


def linked(**config: Any) -> Lab:
    lab = Lab(3, **config)
    lab.send(0, 1)
    lab.run(SECOND)
    assert len(lab.toy(0).events(ev.PeerUp)) == len(lab.toy(1).events(ev.PeerUp)) == 1
    return lab


def test_order_is_kept_and_a_link_is_announced_before_its_first_message() -> None:
    lab = Lab(2, jitter=5.0)
    lab.send(0, 1, range(50))
    lab.run(SECOND)
    lab.send(0, 1, range(50, 100))
    lab.run(SECOND)
    assert nonces(lab, 1) == list(range(100))
    assert [type(event) for _, event in lab.toy(1).seen[:2]] == [ev.PeerUp, ev.Received]
    assert len(lab.toy(0).events(ev.Received)) == 100


def test_two_dials_at_once_make_one_link_and_lose_nothing() -> None:
    lab = Lab(2)
    lab.send(0, 1, (1, 2, 3))
    lab.send(1, 0, (4, 5, 6))
    lab.run(SECOND)
    assert (nonces(lab, 0), nonces(lab, 1)) == ([4, 5, 6], [1, 2, 3])
    for index in (0, 1):
        assert len(lab.toy(index).events(ev.PeerUp)) == 1
        assert not downs(lab, index)
        assert not failures(lab, index)
    assert lab.host(0).links[lab.host(1).id] is lab.host(1).links[lab.host(0).id]


def test_a_dial_to_a_dead_process_is_refused_at_once() -> None:
    lab = Lab(2)
    lab.engine.crash(lab.host(1))
    lab.send(0, 1)
    lab.run(SECOND)
    assert failures(lab, 0) == [1]
    assert not downs(lab, 0)
    assert not lab.host(0).links


def test_a_dial_into_silence_fails_after_the_timeout() -> None:
    lab = Lab(2, dial_timeout_ns=3 * SECOND)
    lab.engine.crash(lab.host(1), power=True)
    lab.send(0, 1)
    lab.run(2 * SECOND)
    assert not failures(lab, 0)
    lab.run(2 * SECOND)
    assert failures(lab, 0) == [1]


def test_a_peer_without_address_cannot_be_dialled_but_can_be_answered() -> None:
    lab = Lab(2)
    inward = lab.host(1)
    lab.book[inward.id] = inward.contact = Contact(inward.id)
    lab.send(0, 1)
    lab.run(SECOND)
    assert failures(lab, 0) == [1]
    lab.send(1, 0)
    lab.run(SECOND)
    assert len(lab.toy(1).events(ev.Received)) == 1
    lab.send(0, 1, (2,))
    lab.run(SECOND)
    assert nonces(lab, 1) == [2]


def test_a_crashed_process_is_heard_of_after_one_latency() -> None:
    lab = linked()
    lab.engine.crash(lab.host(1))
    lab.run(SECOND)
    assert downs(lab, 0) == ["closed"]
    lab.engine.start(lab.host(1))
    lab.send(0, 1, (9,))
    lab.run(SECOND)
    assert nonces(lab, 1) == [9]


def test_a_message_in_flight_to_a_process_that_dies_comes_back() -> None:
    lab = linked()
    lab.send(0, 1, (9,))
    lab.run(1)
    lab.engine.crash(lab.host(1))
    lab.run(SECOND)
    assert failures(lab, 0) == [9]
    assert downs(lab, 0) == ["closed"]


def test_a_machine_without_power_is_silent_until_the_kernel_gives_up() -> None:
    lab = linked(link_timeout_ns=30 * SECOND)
    lab.engine.crash(lab.host(1), power=True)
    lab.send(0, 1, (9,))
    lab.run(29 * SECOND)
    assert not downs(lab, 0)
    assert not failures(lab, 0)
    lab.run(2 * SECOND)
    assert downs(lab, 0) == ["closed"]
    assert failures(lab, 0) == [9]


def test_a_machine_that_comes_back_resets_its_old_links() -> None:
    lab = linked(late_share=1.0)
    lab.engine.crash(lab.host(1), power=True)
    lab.send(0, 1, (9,))
    lab.run(5 * SECOND)
    lab.engine.start(lab.host(1))
    lab.run(SECOND)
    assert downs(lab, 0) == ["closed"]
    assert failures(lab, 0) == [9]
    assert not nonces(lab, 1)


def test_a_new_process_that_dials_replaces_the_half_open_link() -> None:
    lab = linked()
    lab.engine.crash(lab.host(1), power=True)
    lab.run(SECOND)
    lab.engine.start(lab.host(1))
    lab.send(1, 0, (4,))
    lab.run(SECOND)
    assert [type(event) for _, event in lab.toy(0).seen[-3:]] == [ev.PeerDown, ev.PeerUp, ev.Received]


@pytest.mark.parametrize("late_share", [0.0, 1.0])
def test_a_cut_holds_what_is_sent_until_it_heals(late_share: float) -> None:
    lab = linked(late_share=late_share)
    cut = lab.network.cut([1])
    lab.send(0, 1, (5, 6))
    lab.run(10 * SECOND)
    assert nonces(lab, 1) == [1]
    lab.network.cuts.remove(cut)
    lab.engine.heal()
    lab.send(0, 1, (7,))
    lab.run(5 * SECOND)
    if late_share:
        assert nonces(lab, 1) == [1, 5, 6, 7]
        assert not downs(lab, 0)
    else:
        assert failures(lab, 0)[:2] == [5, 6]
        assert downs(lab, 0) == downs(lab, 1) == ["closed"]


def test_a_dial_that_succeeds_late_is_not_undone_by_its_first_packet() -> None:
    lab = Lab(2, dial_timeout_ns=3 * SECOND)
    cut = lab.network.cut([1])
    lab.send(0, 1, (5,))
    lab.run(SECOND)
    lab.network.cuts.remove(cut)
    lab.engine.heal()
    lab.send(0, 1, (6,))
    lab.run(5 * SECOND)
    assert nonces(lab, 1) == [6]
    assert failures(lab, 0) == [5]
    assert not downs(lab, 0)


def test_a_one_way_cut_lets_the_other_way_through() -> None:
    lab = linked()
    lab.network.cut([1], inward=False)
    lab.send(0, 1, (5,))
    lab.run(SECOND)
    assert nonces(lab, 1) == [1, 5]
    assert len(lab.toy(0).events(ev.Received)) == 1
    lab.send(2, 1, (6,))
    lab.run(5 * SECOND)
    assert failures(lab, 2) == [6]


def test_a_crash_behind_a_cut_is_heard_of_when_it_heals() -> None:
    lab = linked(late_share=1.0)
    cut = lab.network.cut([1])
    lab.engine.crash(lab.host(1))
    lab.run(5 * SECOND)
    assert not downs(lab, 0)
    lab.network.cuts.remove(cut)
    lab.engine.heal()
    lab.run(SECOND)
    assert downs(lab, 0) == ["closed"]


def test_a_frozen_process_takes_no_new_link_and_keeps_its_old_ones() -> None:
    lab = linked()
    lab.engine.freeze(lab.host(1))
    lab.send(2, 1, (6,))
    lab.send(0, 1, (7,))
    lab.run(10 * SECOND)
    assert failures(lab, 2) == [6]
    assert not failures(lab, 0)
    lab.engine.thaw(lab.host(1))
    lab.run(SECOND)
    assert nonces(lab, 1) == [1, 7]


def test_disconnect_is_no_death() -> None:
    lab = linked()
    lab.do(0, fx.Disconnect(lab.host(1).id, "idle"))
    lab.run(SECOND)
    assert downs(lab, 0) == downs(lab, 1) == ["idle"]
    lab.send(1, 0, (3,))
    lab.run(SECOND)
    assert nonces(lab, 0) == [3]


def test_idle_links_are_closed_and_no_death() -> None:
    lab = linked(idle_close_ns=10 * SECOND)
    lab.run(5 * SECOND)
    lab.send(1, 0)
    lab.run(8 * SECOND)
    assert not downs(lab, 0)
    lab.run(20 * SECOND)
    assert downs(lab, 0) == downs(lab, 1) == ["idle"]
    assert not lab.host(0).links
    assert not lab.host(1).links


def test_connect_dials_ahead_or_says_that_it_cannot() -> None:
    lab = Lab(3)
    lab.engine.crash(lab.host(2))
    lab.do(0, fx.Connect(lab.host(1).id), fx.Connect(lab.host(2).id))
    lab.run(SECOND)
    assert [event.peer for event in lab.toy(0).events(ev.PeerUp)] == [lab.host(1).id]
    assert lab.toy(0).events(ev.PeerDown) == [ev.PeerDown(lab.host(2).id, "closed")]


def test_noise_loses_doubles_and_reorders() -> None:
    lab = linked()
    lab.network.noise = Noise(loss=0.2, duplicate=0.2, reorder=0.2)
    lab.send(0, 1, range(1000, 2000))
    lab.run(10 * SECOND)
    got = nonces(lab, 1)[1:]
    assert 700 < len(set(got)) < 900
    assert 100 < len(got) - len(set(got)) < 300
    assert got != sorted(got)
    assert not failures(lab, 0)
    assert 500 < sum(isinstance(event.message, Pong) for event in lab.toy(0).events(ev.Received)) < 1000
