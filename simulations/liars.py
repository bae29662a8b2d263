"""Nodes that lie: the real core, and around it somebody who adds messages of his own and forges some of the core's.

A liar knows what its node knows: the applications that reached it, its place in their trees, heads that it heard of,
the contacts in its tables, its own key.  It has nobody else's key and sees no message that is not for it.  Beside its
lies it keeps to the protocol, so it is given children, votes and roots like anybody else, and its lies come from where
they can do harm.

Each lie is a function from the liar to what it sends; a few times a second one of them is drawn and told.  What the
node itself hands in is forged now and then on its way out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dht.messages import RecordPush, Replicas
from dht.ports import Verdict
from dht.records import Kind, sign_record
from fl import spec as specs
from fl.records import voters_version
from node.core import NodeCore
from protocol.effects import Effect, Send
from protocol.events import Event, Received
from protocol.ids import AppId, NodeId, app_id, ring_id
from protocol.membership import ISSUER_BYTES, Roll, vouch
from protocol.messages import Contact, Message, Routed, Value
from protocol.signing import Sealer
from protocol.streams import Stream
from pubsub.claims import claim
from pubsub.grove import Grove
from pubsub.heads import Head, Warrant
from pubsub.joins import sealed
from pubsub.messages import (
    Accept,
    Claim,
    Committed,
    HeadAnswer,
    HeadQuery,
    Partial,
    Prepare,
    Stale,
    TreeAccept,
    TreeJoin,
    TreeWant,
    WaveUp,
)

from .clock import MILLISECOND, SECOND
from .signing import SIGNATURE_BYTES, KeyedHashSigner, KeyedHashVerifier

LIE_NS = 300 * MILLISECOND
"""Between two lies."""
FORGED = 0.5
"""Share of its own partials that a liar forges."""
FLOOD = 40
"""Messages in one go."""
OVERHEARD = 64
"""Joins of others that a liar remembers."""
OUTBID_NS = 500 * MILLISECOND
"""Between two answers to a candidacy: other liars answer too."""
POLL = 12
"""Epochs that are asked for at once."""
EARLY_NS = 3 * SECOND
"""For so long a new node behaves: it wants to be let in."""


class Liar(NodeCore):
    """A node that cannot be trusted."""

    def __init__(
        self, *args: Any, signer: KeyedHashSigner, roll: Roll, seed: int, wall_offset: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(*args, signer=signer, roll=roll, seed=seed, wall_offset=wall_offset, **kwargs)
        self._own_key, self._wall, self.roll = signer, wall_offset, roll
        self._whim = Stream(seed, "lies")
        self._next = self._outbids = 0
        self.overheard: deque[TreeJoin] = deque(maxlen=OVERHEARD)
        """Joins of others that passed by."""
        self.told: dict[str, dict[NodeId, int]] = {}
        """Lie → to whom it was told, and how often."""

    def handle(self, event: Event, now: int) -> list[Effect]:
        """What the node does, with its partials forged, and now and then a lie on top."""
        effects = [self._forge(effect) for effect in super().handle(event, now)]
        self._next = self._next or now + EARLY_NS
        if now >= self._next:
            self._next = now + LIE_NS // 2 + self._whim.below(LIE_NS)
            effects += self._lie(now)
        return effects + self._outbid(event, now)

    def intercept(self, key: bytes, relay: NodeId, message: Message, now: int) -> Verdict | NodeId:
        """Like any node; and what passes by can be used later."""
        if isinstance(message, TreeJoin) and message.joiner.id != self.me.id:
            self.overheard.append(message)
        return super().intercept(key, relay, message, now)

    # ---- what it says by itself ----

    def _lie(self, now: int) -> list[Effect]:
        groves = [self.forest.groves[app] for app in sorted(self.forest.groves) if not self.forest.groves[app].finished]
        if not groves:
            return []
        grove, tell = self._whim.choice(groves), self._whim.choice(LIES)
        said = [(peer, message) for peer, message in tell(self, grove, now) if peer != self.me.id]
        for peer in dict.fromkeys(peer for peer, _ in said):
            self._note(name_of(tell), peer)
        return [Send(peer, message) for peer, message in said]

    def _outbid(self, event: Event, now: int) -> list[Effect]:
        """Somebody stands: stand too, in the next epoch, and do nothing with what is promised."""
        if not isinstance(event, Received) or not isinstance(event.message, Prepare) or event.peer == self.me.id:
            return []
        grove = self.forest.groves.get(event.message.app)
        if grove is None or grove.finished or now < self._outbids:
            return []
        self._outbids = now + OUTBID_NS
        asked = [voter.id for voter in grove.base.voters if voter.id != self.me.id]
        for voter in asked:
            self._note(OUTBID, voter)
        return [Send(voter, Prepare(grove.app, event.message.epoch + 1, self.me)) for voter in asked]

    def _note(self, lie: str, peer: NodeId) -> None:
        told = self.told.setdefault(lie, {})
        told[peer] = told.get(peer, 0) + 1

    def victims(self, grove: Grove) -> list[NodeId]:
        """Whom this node knows to have to do with the application: relatives, voters, root, contributors."""
        tree, head = grove.tree, grove.base
        known = [*tree.path, *tree.children, *(voter.id for voter in head.voters), head.root.id, *head.contributors]
        return [peer for peer in dict.fromkeys(known) if peer != self.me.id and self.contact(peer) is not None]

    def some(self, grove: Grove, count: int = 4) -> list[NodeId]:
        """A few of the victims."""
        return self._whim.sample(self.victims(grove), count)

    def forged_head(self, grove: Grove, ahead: int) -> Head:
        """A head that nobody accepted: a model out of nowhere, by this node, guarded by its friends."""
        model = Value(8, self._whim.raw(8))
        round_ = grove.base.round + self._whim.below(3)
        return msgspec.structs.replace(
            grove.base, epoch=grove.epoch + ahead, round=round_, root=self.me, model=model, voters=(self.me,)
        )

    def record(self, kind: Kind, subject: AppId, version: int, body: bytes, now: int) -> RecordPush:
        """A record under this node's own key."""
        expires = (now + self._wall) // SECOND + 24 * 3600
        signed = sign_record(self._own_key, kind=kind, subject=subject, version=version, expires=expires, body=body)
        return RecordPush((signed,))

    def leap(self) -> int:
        """By how far an epoch is ahead: a little, or very much."""
        return self._whim.choice((1, 5, 1000, 1 << 16, 1 << 40))

    def phantom(self, app: AppId) -> TreeJoin:
        """A join of a node that is not there, under a key made for the purpose: its seal is good."""
        key = KeyedHashSigner(self._whim.below(1 << 30), "phantom")
        nobody = Contact(ring_id(0, key.public_key), ("nowhere:1",), 1)
        voucher = self._whim.choice((b"", self.roll.voucher, vouch(self._own_key, nobody.id)))
        return sealed(Sealer(key, KeyedHashVerifier()), voucher, TreeJoin(app, nobody, self.number()))

    def near(self, count: int) -> list[Contact]:
        """Contacts from the ring's tables."""
        return self._whim.sample(list(self.ring.view.leaves.snapshot()), count)

    def number(self) -> int:
        """A guess at somebody's attempt, token or nonce: mostly a small one."""
        return self._whim.choice((1, 2, 3, self._whim.below(100), self._whim.bits() >> 2))

    # ---- what it makes of its own partials ----

    def _forge(self, effect: Effect) -> Effect:
        if not isinstance(effect, Send) or not isinstance(effect.message, WaveUp) or effect.message.partial is None:
            return effect
        grove = self.forest.groves.get(effect.message.app)
        if grove is None or self._whim.uniform() >= FORGED:
            return effect
        forge = self._whim.choice(FORGERIES)
        self._note(name_of(forge), effect.peer)
        return Send(effect.peer, forge(self, effect.message, grove, effect.peer))

    def invented(self, message: WaveUp, parent: NodeId, own: Partial) -> tuple[NodeId, Claim]:
        """A contributor that does not exist, with a statement that its key has sealed."""
        key = KeyedHashSigner(self._whim.bits() >> 1, "invented")
        node = ring_id(0, key.public_key)
        voucher = vouch(self._own_key, node)
        if self._whim.below(4):
            voucher = self.roll.voucher[:ISSUER_BYTES] + self._whim.raw(SIGNATURE_BYTES)
        return node, claim(Sealer(key, KeyedHashVerifier()), voucher, message.app, message.wave, own, parent)


def name_of(lie: Callable[..., object]) -> str:
    """A lie is named after its function."""
    return lie.__name__.strip("_")


Said = Sequence[tuple[NodeId, Message | Routed]]


def _stale(liar: Liar, grove: Grove, now: int) -> Said:
    """There is a newer epoch."""
    return [(peer, Stale(grove.app, grove.epoch + liar.leap())) for peer in liar.some(grove)]


def _unsigned_head(liar: Liar, grove: Grove, now: int) -> Said:
    """There is a newer head: down the tree, as an answer, in a join."""
    head = liar.forged_head(grove, liar.leap())
    join = TreeJoin(grove.app, liar.me, liar.number(), None, head.outline())
    messages: list[Message] = [Committed(head), HeadAnswer(grove.app, liar.me, head.outline()), join]
    return [(peer, message) for peer in liar.some(grove) for message in messages]


def _voters_record(liar: Liar, grove: Grove, now: int) -> Said:
    """The same in a record."""
    head = liar.forged_head(grove, 1).outline()
    version = voters_version(head)
    push = liar.record(Kind.VOTERS, grove.app, version, msgspec.msgpack.encode(head), now)
    return [(peer, push) for peer in liar.some(grove)]


def _uninvited(liar: Liar, grove: Grove, now: int) -> Said:
    """You are my child."""
    return [(peer, TreeAccept(grove.app, liar.number(), (liar.me.id,))) for peer in liar.some(grove)]


def _in_others_names(liar: Liar, grove: Grove, now: int) -> Said:
    """Others ask for a place: who has one already, under an attempt, an address and a life that were made up."""
    said: list[tuple[NodeId, Routed]] = []
    for victim in liar.some(grove):
        known = liar.contact(victim)
        assert known is not None
        life = known.incarnation + liar.leap() - 1
        join = TreeJoin(grove.app, Contact(victim, ("nowhere:1",), life), liar.number(), orphan=True)
        forged = sealed(liar.forest.sealer, liar.roll.voucher, join)
        said += [(peer, Routed(grove.app, known, 2, forged)) for peer in liar.some(grove)]
    return said


def _repeated_joins(liar: Liar, grove: Grove, now: int) -> Said:
    """Others ask for a place again: joins that passed by, at whom they were not meant for; and nobody does."""
    joins = [liar.phantom(grove.app), *liar._whim.sample(list(liar.overheard), 4)]  # noqa: SLF001 - the liar's own
    return [(peer, Routed(join.app, join.joiner, 2, join)) for join in joins for peer in liar.some(grove)]


def _leap(liar: Liar, grove: Grove, now: int) -> Said:
    """Vote for me, in an epoch that is far away."""
    prepare = Prepare(grove.app, grove.epoch + liar.leap(), liar.me)
    return [(voter.id, prepare) for voter in grove.base.voters]


def _far_leap(liar: Liar, grove: Grove, now: int) -> Said:
    """The same, in an epoch that no history explains."""
    prepare = Prepare(grove.app, grove.epoch + (1 << 40), liar.me)
    return [(voter.id, prepare) for voter in grove.base.voters]


def _false_news(liar: Liar, grove: Grove, now: int) -> Said:
    """To its own children, who listen to it: the next round is over."""
    head = liar.forged_head(grove, liar.leap())
    return [(child, Committed(head)) for child in grove.tree.children]


def _poll(liar: Liar, grove: Grove, now: int) -> Said:
    """Vote for me, in one of the epochs that are just ahead: as if there were no root, and nothing comes of it."""
    prepares = [Prepare(grove.app, grove.epoch + ahead, liar.me) for ahead in range(1, POLL)]
    return [(voter.id, prepare) for voter in grove.base.voters for prepare in prepares]


def _made_up(liar: Liar, grove: Grove, now: int) -> Said:
    """Descriptors by an owner whom nobody knows, and the end of an application in the name of another owner."""
    app = liar.apps.apps.get(grove.app)
    if app is None:
        return []
    key, salt = liar._own_key.public_key, liar._whim.raw(8)  # noqa: SLF001 - the liar's own
    spec = msgspec.structs.replace(app.spec, owner=key, salt=salt, name="mine", zone=0)
    mine = liar.record(Kind.APP, app_id(0, "mine", key, salt), 1, specs.encode(spec), now)
    stop = liar.record(Kind.STOP, grove.app, 1, b"", now)
    return [(peer, message) for peer in liar.some(grove) for message in (mine, stop)]


def _replicas(liar: Liar, grove: Grove, now: int) -> Said:
    """Those closest to what you look for are my friends and I."""
    contacts = (liar.me, *liar.near(2))
    return [(contact.id, Replicas(liar.number(), contacts)) for contact in liar.near(3)]


def _proposal(liar: Liar, grove: Grove, now: int) -> Said:
    """Accept my head: sealed by this node, in an epoch that nobody granted it."""
    head = liar.forged_head(grove, liar.leap())
    statement = head.statement()
    if statement is None:
        return []
    warrant = Warrant(liar.forest.proofs.propose(statement.digest()))
    return [(voter.id, Accept(head, warrant)) for voter in grove.base.voters]


def _flood(liar: Liar, grove: Grove, now: int) -> Said:
    """Many questions at once."""
    message = liar._whim.choice((TreeWant(grove.app), HeadQuery(grove.app)))  # noqa: SLF001 - the liar's own
    return [(peer, message) for peer in liar.some(grove, 1) for _ in range(FLOOD)]


LIES: tuple[Callable[[Liar, Grove, int], Said], ...] = (
    _stale, _unsigned_head, _voters_record, _uninvited, _in_others_names, _repeated_joins, _leap, _far_leap, _poll,
    _false_news, _made_up, _replicas, _proposal, _flood,
)  # fmt: skip


def _changed(message: WaveUp, **fields: Any) -> WaveUp:
    """``message`` with another partial."""
    assert message.partial is not None
    return msgspec.structs.replace(message, partial=msgspec.structs.replace(message.partial, **fields))


def _junk(liar: Liar, message: WaveUp, grove: Grove, parent: NodeId) -> WaveUp:
    """Four bytes instead of a model."""
    return _changed(message, value=Value(4, liar._whim.raw(4)))  # noqa: SLF001 - the liar's own


def _siblings(liar: Liar, message: WaveUp, grove: Grove, parent: NodeId) -> WaveUp:
    """Others are in it, whose own contributions are then refused."""
    assert message.partial is not None
    framed = dict.fromkeys([*message.partial.contributors, *liar.some(grove)])
    return _changed(message, contributors=tuple(sorted(framed)))


def _lonely_weight(liar: Liar, message: WaveUp, grove: Grove, parent: NodeId) -> WaveUp:
    """The weight of a metric that is not there."""
    return _changed(message, metrics={"accuracy.n": 1.0})


def _inventions(liar: Liar, message: WaveUp, grove: Grove, parent: NodeId) -> WaveUp:
    """Contributors that nobody has ever seen, each with its key and its seal."""
    partial = message.partial
    assert partial is not None
    stated = dict(zip(partial.contributors, message.claims, strict=True))
    stated.update(liar.invented(message, parent, partial) for _ in range(FLOOD))
    members = tuple(sorted(stated))
    claims = tuple(stated[member] for member in members)
    return msgspec.structs.replace(_changed(message, contributors=members), claims=claims)


FORGERIES: tuple[Callable[[Liar, WaveUp, Grove, NodeId], WaveUp], ...] = (
    _junk, _siblings, _lonely_weight, _inventions,
)  # fmt: skip

OUTBID = "outbid"
"""The lie that answers a candidacy; the others come of themselves."""

KINDS = (*map(name_of, LIES), *map(name_of, FORGERIES), OUTBID)
"""All lies by name."""

PROVABLE: dict[str, tuple[str, ...]] = {
    "voters_record": ("record of a head that nobody committed",),
    "in_others_names": ("join that its joiner did not make",),
    "far_leap": ("epoch out of reach",),
    "false_news": ("head that nobody committed",),
    "proposal": ("head without a right to propose it", "two heads of one order"),
    "junk": ("a contributor that is not proven", "a value that cannot be added"),
    "siblings": ("a contributor that is not proven",),
    "lonely_weight": ("partial",),
    "inventions": ("a contributor that is not proven", "contributors of an authority that nobody knows"),
}
"""Lies that convict whoever tells them → for what.  The others are ignored, and may be somebody's mistake."""
