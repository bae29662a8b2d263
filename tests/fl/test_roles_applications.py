"""What a node makes of descriptors, ends and its operator's wishes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dht.messages import Record
from dht.records import Kind
from fl import applications, records
from fl import spec as specs
from fl.messages import Order, Work, encode
from fl.notices import Declined, RoleChanged, RoundCommitted, StatusChanged
from fl.records import decode_head, decode_spec, voters_version
from fl.tasks import Contribution, Merged
from protocol.effects import CancelCompute, Penalize
from protocol.errors import Code
from protocol.ids import blob_id, ring_id
from protocol.messages import EMPTY, Contact, Value
from pubsub.heads import Head
from pubsub.messages import Partial, WaveId
from pubsub.ports import HandedIn
from tests.fl.roles import ME, OWNER, PEERS, Stage, partial, spec

KEY = b"root's public key"
ROOT = Contact(ring_id(0, KEY), ("10.0.2.1:1",), 1)
TRAIN = encode(Order(Work.TRAIN))
_encode = msgspec.msgpack.encode


def record(kind: Kind, subject: bytes, body: bytes, signer: bytes = OWNER, version: int = 1) -> Record:
    return Record(int(kind), subject, version, 10**9, signer, body)


def app_record(stage: Stage, **changed: Any) -> Record:
    return record(Kind.APP, stage.app, specs.encode(msgspec.structs.replace(stage.spec, **changed)))


def voters_record(stage: Stage, epoch: int = 1, round_: int = 4, *, finished: bool = False) -> Record:
    head = Head(stage.app, epoch, round_, ROOT, stage.spec.voters, EMPTY, finished=finished)
    return record(Kind.VOTERS, stage.app, _encode(head), KEY, voters_version(head))


def stop_record(stage: Stage, signer: bytes = OWNER) -> Record:
    return record(Kind.STOP, stage.app, b"", signer)


def status(stage: Stage) -> str | None:
    said = stage.said(StatusChanged)
    return said[-1].status if said else None


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    stage.roles.bind(frozenset({"digits"}), True, 0)
    stage.roles.trust(frozenset({OWNER}), frozenset(), 0)
    return stage


# ---- records -------------------------------------------------------------------------------------------------------


def test_a_descriptor_speaks_for_itself(stage: Stage) -> None:
    good = app_record(stage)
    assert stage.roles.records.judge(good).sound
    assert not stage.roles.records.judge(msgspec.structs.replace(good, signer=KEY)).sound
    assert not stage.roles.records.judge(msgspec.structs.replace(good, subject=b"?" * 16)).sound
    stage.roles.records.changed(good, 0)
    assert stage.forest.joined == [stage.app]
    assert stage.forest.known[0].voters == stage.spec.voters


@pytest.mark.parametrize(
    "changed",
    [
        {"zone": 1 << 16},
        {"zone": -1},
        {"voters": ()},
        {"voters": PEERS[:1] * 3},
        {"voters": tuple(Contact(bytes([index]) * 16) for index in range(10))},
        {"initial": Value(5, b"four")},
        {"bundle": Value(5, b"", b"not 32")},
        {"initial": Value(specs.MAX_INITIAL + 1, b"", b"M" * 32)},
        {"bundle": Value(specs.MAX_BUNDLE + 1, b"", b"B" * 32)},
        {"quorum": float("nan")},
        {"quorum": 1.5},
        {"fraction": 0.0},
        {"fraction": float("nan")},
    ],
)
def test_a_descriptor_on_which_nobody_could_act_is_none(stage: Stage, changed: dict[str, Any]) -> None:
    bad = app_record(stage, **changed)
    assert decode_spec(bad.body) is None
    assert not stage.roles.records.judge(bad).sound
    stage.roles.records.changed(bad, 0)
    assert stage.forest.known == []


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xa4\xff\xff\xff\xff", b"\x91" * 5000, b"\x9f" + b"\x01" * 15])
def test_bodies_that_cannot_be_read_are_nobodys_words(stage: Stage, body: bytes) -> None:
    assert decode_spec(body) is None
    assert decode_head(body) is None
    for kind in (Kind.APP, Kind.VOTERS, Kind.REVOCATION):
        assert not stage.roles.records.judge(record(kind, stage.app, body)).sound
        stage.roles.records.changed(record(kind, stage.app, body), 0)


def test_heads_are_published_by_the_root_that_they_name(stage: Stage) -> None:
    good = voters_record(stage)
    assert stage.roles.records.judge(good).sound
    assert not stage.roles.records.judge(msgspec.structs.replace(good, signer=OWNER)).sound
    assert not stage.roles.records.judge(msgspec.structs.replace(good, subject=b"?" * 16)).sound
    assert not stage.roles.records.judge(msgspec.structs.replace(good, version=good.version + 1)).sound


def test_a_record_of_a_head_that_nobody_committed_is_its_signers_fault(stage: Stage) -> None:
    stage.forest.proof = False
    assert stage.roles.records.judge(voters_record(stage)) == (False, ROOT.id)
    assert stage.roles.records.judge(msgspec.structs.replace(voters_record(stage), signer=OWNER)) == (False, None)


def test_a_proof_is_evaluated_once_for_each_record(stage: Stage) -> None:
    for proof in (True, False, None):
        stage.forest.proof, stage.forest.asked = proof, 0
        stage.roles.records.judge(voters_record(stage))
        assert stage.forest.asked == 1


def test_a_record_of_an_application_that_is_not_known_is_nobodys_fault(stage: Stage) -> None:
    stage.forest.proof = None
    assert stage.roles.records.judge(voters_record(stage)) == (False, None)


def test_later_heads_have_larger_versions(stage: Stage) -> None:
    orders = [(1, 9), (2, 0), (2, 1), (3, 10**6), (10**6, 1)]
    versions = [voters_version(stage.head(*order)) for order in orders]
    assert versions == sorted(versions)
    assert versions[-1] < 1 << 62


def test_heads_are_handed_down_to_the_forest(stage: Stage) -> None:
    stage.roles.records.changed(voters_record(stage), 0)
    assert [head.order for head in stage.forest.heard] == [(1, 4, 0)]


def test_only_the_owner_stops(stage: Stage) -> None:
    stage.roles.records.changed(app_record(stage), 0)
    assert not stage.roles.records.judge(stop_record(stage, KEY)).sound
    assert stage.roles.records.judge(stop_record(stage)).sound
    stage.roles.records.changed(stop_record(stage), 0)
    assert status(stage) == "stopped"
    assert stage.forest.concluded == [stage.app]


@pytest.mark.parametrize(("signer", "over"), [(OWNER, True), (KEY, False)])
def test_a_stop_may_come_before_the_descriptor(stage: Stage, signer: bytes, over: bool) -> None:
    order = stop_record(stage, signer)
    assert stage.roles.records.judge(order).sound
    stage.roles.records.changed(order, 0)
    stage.roles.records.changed(app_record(stage), 0)
    assert (status(stage) == "stopped") is over
    assert (stage.forest.joined == []) is over


def test_stops_of_unknown_applications_are_bounded(stage: Stage) -> None:
    for index in range(records.MAX_STOPS + 10):
        stage.roles.records.changed(record(Kind.STOP, b"%016d" % index, b""), 0)
    assert len(stage.roles.records._stops) == records.MAX_STOPS


def test_an_end_may_come_before_the_descriptor(stage: Stage) -> None:
    stage.roles.records.changed(voters_record(stage, finished=True), 0)
    stage.roles.records.changed(app_record(stage), 0)
    assert stage.forest.known == []
    assert stage.forest.joined == []


def test_the_end_waits_for_the_head_that_the_rumour_overtook(stage: Stage) -> None:
    stage.roles.records.changed(app_record(stage), 0)
    stage.roles.records.changed(voters_record(stage, finished=True), 0)
    assert status(stage) is None
    stage.roles.committed(stage.app, stage.head(round_=4, finished=True), 5)
    assert [type(notice) for notice in stage.notices if not isinstance(notice, RoleChanged)][-2:] == [
        RoundCommitted,
        StatusChanged,
    ]
    assert status(stage) == "finished"
    assert ("fl.end", stage.app) not in stage.timers


def test_the_end_does_not_wait_for_ever(stage: Stage) -> None:
    stage.roles.records.changed(app_record(stage), 0)
    stage.roles.records.changed(voters_record(stage, finished=True), 0)
    assert stage.roles.timer(("fl.end", stage.app), stage.timers["fl.end", stage.app])
    assert status(stage) == "finished"
    assert stage.roles.timer(("fl.end", stage.app), 0)


def test_outside_the_tree_the_rumour_is_the_end(stage: Stage) -> None:
    stage.roles.records.changed(app_record(stage), 0)
    stage.forest.groves[stage.app].is_root = False
    stage.roles.records.changed(voters_record(stage, finished=True), 0)
    assert status(stage) == "finished"


def test_what_is_over_stays_over(stage: Stage) -> None:
    stage.roles.records.changed(app_record(stage), 0)
    stage.forest.groves[stage.app].is_root = False
    stage.roles.records.changed(voters_record(stage, finished=True), 0)
    assert status(stage) == "finished"
    stage.roles.records.changed(stop_record(stage), 0)
    stage.roles.records.changed(voters_record(stage, 9), 0)
    stage.roles.records.changed(app_record(stage), 0)
    stage.roles.bind(frozenset({"digits"}), True, 0)
    assert status(stage) == "finished"
    assert len(stage.forest.joined) == 1
    assert stage.forest.concluded == [stage.app]
    assert stage.roles.outcome(stage.app) == "finished"


def test_ends_are_remembered_within_bounds(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applications, "MAX_OVER", 8)
    for index in range(20):
        head = Head(b"%016d" % index, 1, 1, ROOT, (), EMPTY, finished=True)
        stage.roles.records._heard(head, 0)
    assert len(stage.roles._over) == 8


def test_what_is_forgotten_below_is_forgotten_here(stage: Stage) -> None:
    stage.roles.records.changed(app_record(stage), 0)
    stage.roles.refuse(stage.app, "no such column", 0)
    stage.roles.records.changed(stop_record(stage), 0)
    stage.roles.forgotten(stage.app)
    assert stage.roles.apps == {}
    assert stage.roles.willingness.objection(stage.spec) == ""
    stage.roles.records.changed(app_record(stage), 0)
    assert stage.roles.apps == {}


def test_a_full_forest_takes_no_more(stage: Stage) -> None:
    stage.forest.room = False
    stage.roles.records.changed(app_record(stage), 0)
    assert stage.roles.apps == {}
    stage.forest.room = True
    stage.roles.records.changed(app_record(stage), 0)
    assert stage.forest.joined == [stage.app]


# ---- taking part ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "works", "owners", "joins", "says"),
    [
        ({"digits"}, True, {OWNER}, True, []),
        ({"digits"}, True, set(), False, ["its owner is not trusted here"]),
        ({"digits"}, False, {OWNER}, False, ["this node does not run workers"]),
        ({"faces"}, True, {OWNER}, False, []),
        (set(), True, {OWNER}, False, []),
    ],
)
def test_who_works_is_the_operators_decision(
    names: set[str], works: bool, owners: set[bytes], joins: bool, says: list[str]
) -> None:
    stage = Stage()
    stage.roles.bind(frozenset(names), works, 0)
    stage.roles.trust(frozenset(owners), frozenset(), 0)
    stage.roles.records.changed(app_record(stage), 0)
    assert bool(stage.forest.joined) is joins
    assert [notice.why for notice in stage.said(Declined)] == says


def test_code_may_be_approved_by_its_hash() -> None:
    code = b"def train(): ..."
    stage = Stage(bundle=Value(len(code), code))
    stage.roles.bind(frozenset({"digits"}), True, 0)
    stage.roles.trust(frozenset(), frozenset({blob_id(code)}), 0)
    stage.roles.records.changed(app_record(stage), 0)
    assert stage.forest.joined == [stage.app]


def test_no_code_is_approved_by_no_hash() -> None:
    stage = Stage()
    stage.roles.bind(frozenset({"digits"}), True, 0)
    stage.roles.trust(frozenset(), frozenset({b"", blob_id(b"")}), 0)
    stage.roles.records.changed(app_record(stage), 0)
    assert stage.forest.joined == []


def test_who_follows_is_a_member_without_data() -> None:
    stage = Stage()
    stage.roles.follow(stage.app, 0)
    stage.roles.records.changed(app_record(stage), 0)
    stage.roles.follow(stage.app, 0)
    assert stage.forest.joined == [stage.app]
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN), 0)
    assert [part for _, part in stage.forest.contributed] == [None]


@pytest.mark.parametrize("how", ["distrusted", "unbound", "idle", "refused"])
def test_an_operator_who_takes_a_permission_back_ends_the_work(stage: Stage, how: str) -> None:
    stage.roles.records.changed(app_record(stage), 0)
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN), 0)
    {
        "distrusted": lambda: stage.roles.trust(frozenset(), frozenset(), 0),
        "unbound": lambda: stage.roles.bind(frozenset(), True, 0),
        "idle": lambda: stage.roles.bind(frozenset({"digits"}), False, 0),
        "refused": lambda: stage.roles.refuse(stage.app, "no such column", 0),
    }[how]()
    assert len(stage(CancelCompute)) == 1
    assert [part for _, part in stage.forest.contributed] == [None]
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN, number=1), 0)
    assert [part for _, part in stage.forest.contributed] == [None, None]


def test_a_kept_contribution_of_a_dismissed_worker_is_released(stage: Stage) -> None:
    big = Value(100_000, b"", b"B" * 32)
    stage.roles.records.changed(app_record(stage), 0)
    stage.roles.wave_opened(stage.app, stage.wave(TRAIN), 0)
    stage.finish(Contribution(big, 1.0, {}))
    stage.roles.trust(frozenset(), frozenset(), 0)
    assert stage.pinned == {big.blob: 0}


# ---- notices -------------------------------------------------------------------------------------------------------


def test_each_round_is_told_once(stage: Stage) -> None:
    stage.roles.records.changed(app_record(stage), 0)
    for order in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3)):
        stage.roles.committed(stage.app, stage.head(*order), 0)
    assert [notice.head.order for notice in stage.said(RoundCommitted)] == [(1, 1, 0), (2, 2, 0), (3, 3, 0)]


def test_roles_are_told_when_they_change(stage: Stage) -> None:
    stage.roles.records.changed(app_record(stage), 0)
    grove = stage.forest.groves[stage.app]
    for root, parent, children in ((True, None, ()), (False, PEERS[0].id, ()), (False, PEERS[0].id, (PEERS[1].id,))):
        grove.is_root, grove.parent, grove.children = root, parent, dict.fromkeys(children, object())
        stage.roles.tree_changed(stage.app, 0)
        stage.roles.tree_changed(stage.app, 0)
    grove.parent = None
    stage.roles.tree_changed(stage.app, 0)
    assert [notice.role for notice in stage.said(RoleChanged)] == ["root", "worker", "aggregator", "none"]


def test_a_status_is_told_once(stage: Stage) -> None:
    stage.roles.records.changed(app_record(stage), 0)
    for _ in range(3):
        stage.roles.status(stage.app, "stalled", "no majority", 0)
    assert len(stage.said(StatusChanged)) == 1


def test_new_voters_are_published(stage: Stage) -> None:
    head = stage.head(1, 4)
    stage.roles.voters_changed(head, 0)
    assert stage.published == [head]


# ---- what comes for applications that are not here -----------------------------------------------------------------


def test_calls_about_unknown_applications_change_nothing() -> None:
    stage = Stage()
    unknown, head = b"?" * 16, msgspec.structs.replace(stage.head(), app=b"?" * 16)
    stage.roles.committed(unknown, head, 0)
    stage.roles.rooted(unknown, head, 0)
    stage.roles.unrooted(unknown, 2, 0)
    stage.roles.tree_changed(unknown, 0)
    stage.roles.status(unknown, "stalled", "", 0)
    stage.roles.wave_closed(unknown, WaveId(1, 1, 0), [], 0, 0)
    stage.roles.refuse(unknown, "", 0)
    stage.roles.forgotten(unknown)
    assert stage.roles.timer(("fl.next", unknown), 0)
    assert not stage.roles.timer(("tree.join", unknown), 0)
    assert stage.notices == []


def test_who_handed_in_what_a_merge_refused_is_blamed_and_nobody_else() -> None:
    stage = Stage().learned(bound=False)
    parts = [HandedIn(peer.id, partial(peer, index)) for index, peer in enumerate(PEERS[:3])]
    stage.roles.combine(stage.app, WaveId(1, 1, 0), parts, 0)
    stage.finish(Merged(Value(1, b"\x01"), rejected=(1,), lost=(2,)))
    assert stage.forest.counted == ["partials_refused"]
    assert [(effect.peer, effect.code) for effect in stage(Penalize)] == [(PEERS[1].id, Code.MALFORMED)]
    assert stage.forest.handed_in == [Partial(1.0, Value(1, b"\x01"), (PEERS[0].id,))]
    assert stage.forest.absent == [2]


def test_specs_of_the_tests_are_sound() -> None:
    assert spec().sound
    assert ME.dialable
