"""What a node holds of records, in memory and on disk: whose, how many, and what is left of what it dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
import pytest

from dht.config import RingConfig
from dht.messages import Ping, Pong, Record, RecordPush
from dht.records import Kind, sign_record
from fl import spec as specs
from fl.notices import Bind, Publish, RecordChanged, Start, Trust
from fl.records import voters_version
from node.core import CoreConfig, NodeCore
from protocol import effects as fx
from protocol import events as ev
from protocol.errors import Code
from protocol.ids import ring_id
from protocol.messages import Contact, Value
from pubsub.forest import Forest
from pubsub.heads import Head
from pubsub.messages import Prepare, TreeJoin, TreeRefuse
from simulations.signing import KeyedHashSigner, KeyedHashVerifier

SECOND = 1_000_000_000
DAY = 86400
OWNER, OTHER, ISSUER = (KeyedHashSigner(1, name) for name in ("owner", "other owner", "issuer"))
SIGNER = KeyedHashSigner(1, "me")
ME = Contact(ring_id(0, SIGNER.public_key), ("me:1",), 1)
RELAY = Contact(ring_id(0, b"relay"), ("relay:1",), 1)
SMALL = CoreConfig(ring=RingConfig(records_per_signer=40, record_bytes=20_000, signer_bytes=20_000))


class Node:
    """One core with a disk, and a clock that the test moves."""

    def __init__(self, config: CoreConfig | None = None, disk: dict[str, bytes] | None = None) -> None:
        self.disk: dict[str, bytes] = {} if disk is None else disk
        self.owners: dict[bytes, None] = {OWNER.public_key: None}
        self.now = SECOND
        self.penalties: list[tuple[bytes, Code]] = []
        self.heard: list[Record] = []
        self.core = NodeCore(
            ME, config or CoreConfig(), signer=SIGNER, verifier=KeyedHashVerifier(), seed=1, restored=self.disk,
            owns=lambda key: key in self.owners, authorise=lambda record: record.signer == ISSUER.public_key,
        )  # fmt: skip
        self.feed(ev.Command(Start((RELAY,))))

    def feed(self, event: ev.Event) -> list[fx.Effect]:
        effects = self.core.handle(event, self.now)
        self.core.check_invariants()
        for effect in effects:
            match effect:
                case fx.Store(key, None):
                    self.disk.pop(key, None)
                case fx.Store(key, bytes() as value):
                    self.disk[key] = value
                case fx.Penalize(peer, code, _):
                    self.penalties.append((peer, code))
                case fx.Emit(RecordChanged(record)):
                    self.heard.append(record)
        return effects

    def relay(self, records: Iterable[Record]) -> None:
        for batch in batches(records):
            self.feed(ev.Received(RELAY.id, RecordPush(batch)))

    def on_disk(self) -> set[Record]:
        return {msgspec.msgpack.decode(v, type=Record) for k, v in self.disk.items() if k.startswith("record/")}

    def held(self) -> set[Record]:
        return set(self.core.ring.records)


def batches(records: Iterable[Record]) -> Iterator[tuple[Record, ...]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == 256:
            yield tuple(batch)
            batch = []
    yield tuple(batch)


def descriptor(owner: KeyedHashSigner, number: int, life: int = 90 * DAY) -> Record:
    salt = number.to_bytes(8, "big")
    spec = specs.AppSpec("made up", owner.public_key, salt, 0, (RELAY,), 10, Value(1, b"0"), RELAY, "nobody's data")
    return sign_record(owner, Kind.APP, spec.id, 1, life, specs.encode(spec))


def revocation(number: int = 7) -> Record:
    return sign_record(ISSUER, Kind.REVOCATION, number.to_bytes(16, "big"), 1, 390 * DAY, b"")


def test_made_up_owners_take_nothing_and_the_owner_still_runs() -> None:
    node = Node()
    kept = [descriptor(OWNER, 1), revocation()]
    node.relay(kept)
    strangers = (descriptor(KeyedHashSigner(2, number), number, 399 * DAY) for number in range(4096))
    node.relay(strangers)
    assert node.held() == node.on_disk() == set(kept)
    assert not node.penalties, "the relay cannot know whom this node listens to"
    assert len(node.core.forest.known) == len(node.core.apps.apps) == 1
    node.feed(ev.Command(Publish(descriptor(OWNER, 2))))
    assert len(node.held()) == 3


def test_a_revocation_outlives_a_flood_by_an_owner_and_a_restart() -> None:
    node = Node(SMALL)
    node.relay([revocation()])
    node.relay(descriptor(OWNER, number, 390 * DAY + number) for number in range(500))
    assert revocation() in node.held()
    assert node.on_disk() == node.held()
    again = Node(SMALL, dict(node.disk))
    assert revocation() in again.heard
    assert again.held() == again.on_disk() == node.held()


def test_a_proof_that_fails_is_evaluated_once_and_costs_its_signer(monkeypatch: pytest.MonkeyPatch) -> None:
    node, root = Node(), KeyedHashSigner(3, "root")
    signer = Contact(ring_id(0, root.public_key))
    node.relay([descriptor(OWNER, 1)])
    (app,) = node.core.apps.apps
    head = Head(app, 1, 4, signer, (signer,), Value(1, b"x"))
    asked: list[Head] = []
    proven = Forest.proven

    def counted(forest: Forest, said: Head) -> bool | None:
        asked.append(said)
        return proven(forest, said)

    monkeypatch.setattr(Forest, "proven", counted)
    body = msgspec.msgpack.encode(head.outline())
    node.relay([sign_record(root, Kind.VOTERS, app, voters_version(head), 90 * DAY, body)])
    assert len(asked) == 1
    assert node.penalties == [(signer.id, Code.UNAUTHORISED)]


def test_what_is_evicted_leaves_disk_and_memory() -> None:
    node = Node(SMALL)
    for number in range(500):
        node.relay([descriptor(OWNER, number, DAY + number)])
        assert len(node.disk) <= 41
    assert node.on_disk() == node.held()
    assert len(node.core.apps.apps) == len(node.core.forest.known) == len(node.held())


def test_what_expires_leaves_the_disk() -> None:
    node = Node()
    node.relay([descriptor(OWNER, number, 100 + number) for number in range(10)])
    assert len(node.on_disk()) == 10
    node.now = 105 * SECOND
    node.feed(ev.TimerFired(("ring.care",), node.now))
    assert node.on_disk() == node.held()
    assert len(node.held()) == 4


def test_an_owner_who_is_named_later_is_heard_then_and_one_who_is_not_any_more_is_forgotten() -> None:
    node = Node()
    node.relay([descriptor(OWNER, 1), descriptor(OTHER, 2)])
    assert node.held() == {descriptor(OWNER, 1)}
    node.owners = {OTHER.public_key: None}
    node.feed(ev.Command(Trust(frozenset())))
    assert node.held() == node.on_disk() == set()
    assert not node.core.forest.known
    node.relay([descriptor(OWNER, 1), descriptor(OTHER, 2)])
    assert node.held() == node.on_disk() == {descriptor(OTHER, 2)}


def test_only_its_owner_stops_an_application_and_nothing_is_known_of_what_nobody_has() -> None:
    node = Node()
    app = descriptor(OWNER, 1)
    node.owners[OTHER.public_key] = None
    node.relay([app])
    foreign = sign_record(OTHER, Kind.STOP, app.subject, 1, 90 * DAY, b"")
    unnamed = sign_record(KeyedHashSigner(3, "nobody"), Kind.STOP, b"s" * 16, 1, 90 * DAY, b"")
    node.relay([foreign, unnamed])
    assert node.held() == {app}
    node.relay([sign_record(OWNER, Kind.STOP, app.subject, 1, 90 * DAY, b"")])
    assert len(node.held()) == 2
    assert node.core.apps.outcome(app.subject) == "stopped"


def test_pings_still_carry_one_digest_for_equal_tables() -> None:
    one, other = Node(), Node()
    one.relay([descriptor(OWNER, 1), revocation()])
    other.relay([revocation(), descriptor(OWNER, 1)])
    answers = [
        effect.message
        for node in (one, other)
        for effect in node.feed(ev.Received(RELAY.id, Ping(1)))
        if isinstance(effect, fx.Send) and isinstance(effect.message, Pong)
    ]
    assert len(answers) == 2
    assert answers[0] == answers[1]


def sent(effects: list[fx.Effect], kind: type) -> list[tuple[bytes, object]]:
    return [(e.peer, e.message) for e in effects if isinstance(e, fx.Send) and isinstance(e.message, kind)]


def test_who_is_asked_for_an_application_that_it_does_not_know_is_shown_it_and_then_serves() -> None:
    node, app = Node(), descriptor(OWNER, 1)
    join = TreeJoin(app.subject, RELAY, 1)
    assert sent(node.feed(ev.Received(RELAY.id, join)), TreeRefuse) == [
        (RELAY.id, TreeRefuse(app.subject, 1, unknown=True))
    ]
    prepare = Prepare(app.subject, 1, RELAY)
    assert sent(node.feed(ev.Received(RELAY.id, prepare)), TreeRefuse) == [
        (RELAY.id, TreeRefuse(app.subject, 0, unknown=True))
    ]
    node.relay([app])
    answers = sent(node.feed(ev.Received(RELAY.id, join)), TreeRefuse)
    assert not any(refusal.unknown for _, refusal in answers)  # type: ignore[attr-defined]
    assert app.subject in node.core.forest.groves


def test_a_joiner_shows_the_descriptor_to_whoever_ought_to_know_it_but_not_to_a_flood() -> None:
    node, app = Node(), descriptor(OWNER, 1)
    node.feed(ev.Command(Bind(frozenset({"nobody's data"}))))
    node.feed(ev.Command(Trust(frozenset({OWNER.public_key}))))
    node.relay([app])
    refusal = TreeRefuse(app.subject, 1, unknown=True)
    assert sent(node.feed(ev.Received(RELAY.id, refusal)), RecordPush) == [(RELAY.id, RecordPush((app,)))]
    for _ in range(100):
        assert not sent(node.feed(ev.Received(RELAY.id, refusal)), RecordPush)
    node.now += 60 * SECOND
    assert sent(node.feed(ev.Received(RELAY.id, refusal)), RecordPush)


def tell_time(node: Node, *walls: int) -> None:
    """Peers say what time it is, Unix seconds."""
    for number, wall in enumerate(walls):
        node.core.ring._clock.heard(bytes([number]) * 16, wall, node.now)
    node.core.clock_changed(node.core.ring.clock_error, node.now)
    node.feed(ev.TimerFired(("of", "nobody"), node.now))


def test_what_is_signed_here_is_not_lost_while_two_wrong_clocks_confirm_each_other() -> None:
    node = Node()
    node.core.ring.set_clock(40 * DAY * SECOND, node.now)
    app = descriptor(OWNER, 1, 30 * DAY)
    node.feed(ev.Command(Publish(app)))
    tell_time(node, 40 * DAY, 1)
    assert node.core.ring.clock_confirmed
    assert not node.core.ring.clock_error
    assert not node.held()
    tell_time(node, 40 * DAY, 1, 1, 1)
    assert node.held() == node.on_disk() == {app}


def test_what_nobody_finds_valid_is_given_up_a_minute_after_the_last_news_of_the_time() -> None:
    node = Node()
    old, new = descriptor(OWNER, 1, 1), descriptor(OWNER, 2)
    node.disk["record/1/00"] = msgspec.msgpack.encode(old)
    again = Node(disk=node.disk)
    tell_time(again, 1, 1)
    again.relay([new])
    assert again.on_disk() == {old, new}
    again.feed(ev.TimerFired(("core.shelf",), again.now))
    assert again.on_disk() == again.held() == {new}


def test_giving_up_what_is_over_leaves_the_newer_record_of_the_same_name_on_disk() -> None:
    first, app = Node(), descriptor(OWNER, 1)
    first.relay([app])
    (key,) = [key for key in first.disk if key.startswith("record/")]
    over = sign_record(OWNER, Kind.APP, app.subject, 0, 1, app.body)
    again = Node(disk={key: msgspec.msgpack.encode(over)})
    again.relay([app])
    tell_time(again, 1, 1)
    again.feed(ev.TimerFired(("core.shelf",), again.now))
    assert again.on_disk() == again.held() == {app}
