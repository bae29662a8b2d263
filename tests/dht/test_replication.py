"""Records reach everyone: by rumour, by anti-entropy, late, after partitions; floods and lies are bounded."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from dht.config import MS, SECOND, RingConfig
from dht.messages import RecordDigests, RecordPush
from protocol.effects import Penalize
from protocol.errors import Code
from protocol.events import Received
from tests.dht.harness import Host, Net, record


def publish(net: Net, host: Host, number: int, version: int = 1, **more: object) -> None:
    host.ring.publish(record(number.to_bytes(16, "big"), version, **more), net.now)  # type: ignore[arg-type]
    net.flush(host)


def equal(net: Net, count: int) -> bool:
    digests = {host.ring.records.digest() for host in net.living()}
    return len(digests) == 1 and all(len(host.ring.records) == count for host in net.living())


def test_news_spreads_by_rumour_in_moments() -> None:
    net = Net(1)
    hosts = net.grow(60)
    net.run(5 * SECOND)
    publish(net, hosts[7], 1)
    net.run(SECOND)
    assert equal(net, 1)
    assert all(len(host.up.records) == 1 for host in hosts)
    assert net.sent["RecordPush"] <= 60 * 6


def test_what_rumours_miss_anti_entropy_finds() -> None:
    net = Net(2)
    hosts = net.grow(16)
    net.run(5 * SECOND)
    net.loss = 0.8
    for number in range(10):
        publish(net, hosts[number], number)
    net.run(100 * MS)
    net.loss = 0.0
    assert not equal(net, 10)
    net.run_until(lambda: equal(net, 10), 120 * SECOND)


def test_a_late_joiner_gets_everything_large_bodies_included() -> None:
    net = Net(3, wire=True)
    hosts = net.grow(5)
    for number in range(300):
        publish(net, hosts[0], number)
    for number in range(300, 304):
        publish(net, hosts[0], number, body=bytes(150 * 1024))
    net.run(20 * SECOND)
    net.add(9, (0,))
    net.run_until(lambda: equal(net, 304), 60 * SECOND)


def test_tables_larger_than_one_exchange_take_several() -> None:
    net = Net(4)
    first = net.add(0)
    for number in range(40):
        publish(net, first, number, body=bytes(100 * 1024))
    net.add(1, (0,))
    net.run_until(lambda: equal(net, 40), 120 * SECOND)


def test_halves_of_a_partition_exchange_what_they_wrote() -> None:
    net = Net(5)
    hosts = net.grow(12)
    net.run(5 * SECOND)
    net.side = lambda node: node[5] & 1
    net.run(60 * SECOND)
    for number, host in enumerate(hosts):
        publish(net, host, 0, version=number)
        publish(net, host, 100 + number)
    net.side = None
    net.run_until(lambda: equal(net, 13), 300 * SECOND)
    newest = hosts[0].ring.records
    assert max(r.version for r in newest) == 11


def test_records_expire_everywhere() -> None:
    net = Net(6)
    hosts = net.grow(5)
    publish(net, hosts[0], 1, expires=60)
    publish(net, hosts[0], 2, expires=600)
    net.run(30 * SECOND)
    assert equal(net, 2)
    net.run(60 * SECOND)
    assert equal(net, 1)


def test_an_own_record_that_is_refused_or_old_is_not_published() -> None:
    net = Net(7)
    host = net.add(0)
    assert host.ring.publish(record(bytes(16)), net.now)
    assert not host.ring.publish(record(bytes(16)), net.now)
    host.up.allowed = lambda one: False
    assert not host.ring.publish(record(b"x" * 16), net.now)
    assert len(host.up.records) == 1


def test_forgeries_are_counted_and_not_passed_on() -> None:
    net = Net(8)
    one, other = net.grow(2)
    net.run(5 * SECOND)
    net.sent.clear()
    forged = msgspec.structs.replace(record(bytes(16)), body=b"forged")
    one.up.allowed = lambda r: r.subject != b"n" * 16
    for bad in (forged, record(b"n" * 16)):
        net.inject(one, Received(other.me.id, RecordPush((bad,))))
    # Whether somebody may say something is for each node to decide, and not for whoever passes it on to know.
    assert [(p.peer, p.code) for p in net.penalties if isinstance(p, Penalize)] == [(other.me.id, Code.BAD_SIGNATURE)]
    assert "RecordPush" not in net.sent
    assert len(one.ring.records) == 0


def test_a_peer_brings_so_many_records_and_no_more() -> None:
    net = Net(8, config=replace(RingConfig.lan(), relay_records=100, relay_rate=10))
    one, other = net.grow(2)
    net.run(5 * SECOND)
    batch = tuple(record(number.to_bytes(16, "big")) for number in range(256))
    net.inject(one, Received(other.me.id, RecordPush(batch)))
    assert len(one.ring.records) == 100
    net.inject(one, Received(other.me.id, RecordPush(batch[100:])))
    assert len(one.ring.records) == 100
    net.now += SECOND
    net.inject(one, Received(other.me.id, RecordPush(batch[100:])))
    assert len(one.ring.records) == 110
    stranger = net.contact(9).id
    net.inject(one, Received(stranger, RecordPush(batch[200:])))
    assert len(one.ring.records) == 166, "each has an allowance of its own"


def test_at_the_rim_of_the_clock_nobody_is_blamed() -> None:
    net = Net(8)
    one, other = net.grow(2)
    net.run(5 * SECOND)
    life = net.config.record_lifetime
    for expires in (1, life + 3600, 1 << 40):
        net.inject(one, Received(other.me.id, RecordPush((record(expires.to_bytes(16, "big"), expires=expires),))))
    assert not net.penalties
    assert len(one.ring.records) == 0


def test_what_is_not_wanted_any_more_goes_and_what_now_is_comes() -> None:
    net = Net(8)
    one, other = net.grow(2)
    net.run(5 * SECOND)
    wanted: dict[bytes, None] = {b"a": None}
    one.up.allowed = lambda r: r.signer in wanted
    for number, signer in enumerate((b"a", b"b")):
        publish(net, other, number, signer=signer)
    net.run(200 * SECOND)
    assert [r.signer for r in one.ring.records] == [b"a"]
    wanted.clear()
    wanted[b"b"] = None
    one.ring.rejudge(net.now)
    assert [r.signer for r in one.up.dropped] == [b"a"]
    net.run_until(lambda: [r.signer for r in one.ring.records] == [b"b"], 20 * SECOND)


def test_asking_again_and_again_brings_one_answer() -> None:
    net = Net(9)
    one, other = net.grow(2)
    net.run(5 * SECOND)
    publish(net, one, 1, body=bytes(100_000))
    net.run(30 * SECOND)
    net.sent.clear()
    for _ in range(1000):
        net.inject(one, Received(other.me.id, RecordDigests(())))
    assert net.sent["RecordPush"] == 1


def test_tables_that_cannot_agree_talk_less_and_less() -> None:
    net = Net(10)
    one, other = net.grow(2)
    net.run(5 * SECOND)
    other.up.allowed = lambda r: False
    publish(net, one, 1)
    net.sent.clear()
    net.run(100 * SECOND)
    early = net.sent["RecordDigests"]
    net.sent.clear()
    net.run(1000 * SECOND)
    assert net.sent["RecordDigests"] < 5 * early
