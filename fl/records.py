"""What the federated roles make of signed records.

A descriptor (APP) tells of an application, its owner's STOP ends it, and VOTERS, signed by the root that it names, says
who guards its head and, with the last head, that all is over.  Records come in any order, and more than once; whether
one agrees with itself is judged here, before it is held and passed on.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from dht.messages import Record
from dht.records import Kind, said_by
from protocol.ids import AppId, NodeId
from protocol.wire import UNREADABLE
from pubsub.heads import Head

from . import spec as specs
from .ports import RecordsHost
from .spec import AppSpec

MAX_STOPS = 1024
"""STOP records that may wait for their descriptor."""

_heads = msgspec.msgpack.Decoder(Head)


def decode_head(body: bytes) -> Head | None:
    """The outline in a VOTERS record; None when it is not one."""
    try:
        return _heads.decode(body)
    except UNREADABLE:
        return None


def decode_spec(body: bytes) -> AppSpec | None:
    """The descriptor in an APP record; None when it is not one, or one on which nobody could act."""
    try:
        spec = specs.decode(body)
    except UNREADABLE:
        return None
    return spec if spec.sound else None


def voters_version(head: Head) -> int:
    """Version of the VOTERS record about ``head``: a later head replaces an earlier one."""
    return head.epoch << 32 | head.round << 8 | min(head.revision, 255)


class Judgement(NamedTuple):
    """What a record is worth."""

    sound: bool
    liar: NodeId | None = None
    """Who claims that a head was committed which nobody committed; that it really is the signer is still to be checked.
    Not whoever passed it on: only who knows the descriptor can judge a head."""


class Records:
    """Of the applications of one node."""

    __slots__ = ("_host", "_stops")

    def __init__(self, host: RecordsHost) -> None:
        self._host = host
        self._stops: dict[tuple[AppId, bytes], bool] = {}
        """(application, signer) of STOP records without a descriptor."""

    def judge(self, record: Record) -> Judgement:
        """Does the record agree with itself, and a head in it prove that it was committed?  Who may own applications is
        for the core to say."""
        if record.kind == Kind.APP:
            spec = decode_spec(record.body)
            return Judgement(spec is not None and spec.id == record.subject and spec.owner == record.signer)
        if record.kind == Kind.STOP:
            # Of an application that is not known here (any more) nobody can say who owns it: judged when it is learned.
            app = self._host.apps.get(record.subject)
            return Judgement(app is None or app.spec.owner == record.signer)
        head = decode_head(record.body) if record.kind == Kind.VOTERS else None
        if head is None or not said_by(head.root.id, record):
            return Judgement(False)
        proven = self._host.forest.proven(head)
        if proven is False:
            self._host.forest.count("heads_unproven")
            return Judgement(False, head.root.id)
        agrees = head.app == record.subject and voters_version(head) == record.version
        return Judgement(bool(proven) and agrees)

    def dropped(self, record: Record) -> None:
        """Nothing is kept of an application whose descriptor is gone, unless this node has a part in it."""
        if record.kind == Kind.APP and record.subject in self._host.apps and self._host.forest.drop(record.subject):
            self._host.forgotten(record.subject)

    def changed(self, record: Record, now: int) -> None:
        if record.kind == Kind.APP:
            spec = decode_spec(record.body)
            if spec is not None:
                self._learn(spec, now)
        elif record.kind == Kind.STOP:
            self._stop(record, now)
        elif record.kind == Kind.VOTERS:
            head = decode_head(record.body)
            if head is not None:
                self._heard(head, now)

    def _learn(self, spec: AppSpec, now: int) -> None:
        host = self._host
        if spec.id in host.apps or host.outcome(spec.id) is not None or not host.learn(spec, now):
            return
        if self._stops.pop((spec.id, spec.owner), False):
            host.end(spec.id, "stopped", "by its owner", now)
        else:
            host.consider(spec.id, now)

    def _stop(self, record: Record, now: int) -> None:
        """A STOP record; remembered when it comes before the descriptor that says whether its signer may say so."""
        if record.subject in self._host.apps:
            self._host.end(record.subject, "stopped", "by its owner", now)
        elif self._host.outcome(record.subject) is None:
            self._stops[record.subject, record.signer] = True
            if len(self._stops) > MAX_STOPS:
                del self._stops[next(iter(self._stops))]

    def _heard(self, head: Head, now: int) -> None:
        """A VOTERS record: who guards the head; and, when it is the last one, that all is over."""
        if self._host.outcome(head.app) is not None:
            return
        self._host.forest.heard_of(head, now)
        if head.finished:
            self._host.concluded(head, now)
