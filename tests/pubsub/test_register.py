"""The head as a register, under every interleaving that Hypothesis finds.

Messages are lost, repeated, overtaken and late from dead lives; voters and candidates crash with what was not stored;
voters are added and removed; two believe that they lead.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.effects import Outbox, Penalize, Send, Store
from protocol.ids import NodeId, closeness
from protocol.messages import Contact, Message, Value
from protocol.streams import Stream
from pubsub.config import SECOND, TreeConfig
from pubsub.heads import Head
from pubsub.holdings import Holdings
from pubsub.messages import Accept, Accepted, Prepare, Promise, Stale
from pubsub.proposer import Phase, Proposer
from pubsub.seating import next_voters
from pubsub.voter import Ballot, Voter
from tests.pubsub.quiet import QuietRing
from tests.pubsub.seals import node, proofs

APP = b"application-id-1"
CONTACTS = tuple(Contact(node(index), (f"10.0.0.{index}:1",), 1) for index in range(5))
CONFIG = TreeConfig(epoch_burst=1 << 30, candidacy=-1, reign_patience=-1, sit_out_limit=0)
"""Safety is without patience: everybody may have a promise at any time."""
SEATS = 4
MAX_FLYING = 100
NODES = st.integers(0, len(CONTACTS) - 1)
STEPS = st.integers(1, 6)


class Peer:
    """A node that votes and may stand."""

    def __init__(self, world: RegisterMachine, me: Contact, disk: bytes | None) -> None:
        self.world, self.me = world, me
        self.out = Outbox()
        self.disk = disk
        self.writes: list[bytes] = []
        self.committed: list[Head] = []
        self.known = world.genesis
        self.judge = proofs(me.id)
        holdings = Holdings(self.out)
        self.voter = Voter(
            APP, me.id, config=CONFIG, ring=world.ring, out=self.out, holdings=holdings, proofs=proofs(me.id),
            genesis=lambda app: world.genesis, newest=lambda app: self.newest, limit=lambda app: 4,
            count=lambda name: None,
        )  # fmt: skip
        if disk is not None:
            self.voter.restore(disk)
        self.proposer = Proposer(
            APP, me, CONFIG, ring=world.ring, out=self.out, stream=Stream(0, me.id), genesis=world.genesis,
            holdings=holdings, proofs=proofs(me.id), on_rooted=self._commit, on_committed=self._commit,
            status=lambda *_: None,
        )  # fmt: skip

    def _commit(self, head: Head, now: int) -> None:
        self.known = head
        self.world.committed.append(head)

    @property
    def newest(self) -> Head | None:
        return self.known if self.known is not self.world.genesis else None

    def hear(self, peer: NodeId, message: Message) -> None:
        now = self.world.now
        if isinstance(message, Prepare):
            self.voter.on_prepare(peer, message, now)
        elif isinstance(message, Accept):
            self.voter.on_accept(peer, message, now)
        elif isinstance(message, Promise):
            self.proposer.on_promise(peer, message, now)
        elif isinstance(message, Accepted):
            self.proposer.on_accepted(peer, message, now)
        elif isinstance(message, Stale):
            if message.head is not None:
                self.learn(message.head)
            if self.proposer.on_stale(peer, message.epoch, now):
                self.proposer.retire(message.epoch)

    def learn(self, head: Head) -> None:
        """``head`` is stated to be committed: in these worlds nobody lies."""
        assert self.judge.committed(self.world.genesis, head)
        if head.order > self.known.order:
            self.known = head
            if head.epoch > self.proposer.epoch:
                self.proposer.retire(head.epoch)
            else:
                self.proposer.rebase(head, self.world.now)

    def settle(self) -> None:
        for effect in self.out.drain():
            if isinstance(effect, Send):
                assert isinstance(effect.message, Message)
                self.world.flying.append((self.me.id, effect.peer, effect.message))
            elif isinstance(effect, Penalize):
                self.world.blamed.append(effect)
            elif isinstance(effect, Store):
                assert effect.value is not None
                self.writes.append(effect.value)


class RegisterMachine(RuleBasedStateMachine):
    """All peers, what is under way between them, and what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.ring = QuietRing(tuple(sorted(CONTACTS, key=lambda contact: closeness(APP, contact.id))))
        self.models = 0
        self.genesis = Head(APP, 0, 0, CONTACTS[0], CONTACTS[:SEATS], Value(1, b"0"))
        self.flying: list[tuple[NodeId, NodeId, Message]] = []
        self.past: deque[tuple[NodeId, NodeId, Message]] = deque(maxlen=100)
        self.side: list[NodeId] = []
        self.committed: list[Head] = []
        self.blamed: list[Penalize] = []
        self.peers: dict[NodeId, Peer | None] = {}
        self.disks: dict[NodeId, bytes | None] = {}
        for contact in CONTACTS:
            self.peers[contact.id] = Peer(self, contact, None)

    # ---- what happens ----

    def _do(self, index: int, action: Callable[[Peer], object]) -> None:
        peer = self.peers[CONTACTS[index].id]
        if peer is not None:
            action(peer)
            peer.settle()

    @initialize()
    def somebody_leads(self) -> None:
        self.campaign(0, 6, True)
        self.write(6, True)

    @rule(index=NODES)
    def give_up(self, index: int) -> None:
        self._do(index, lambda peer: peer.proposer.retire(0))

    @rule(side=st.frozensets(NODES))
    def divide(self, side: frozenset[int]) -> None:
        """Nothing passes between ``side`` and the rest until the next division."""
        self.side = [CONTACTS[index].id for index in sorted(side)]

    @rule(index=NODES, steps=STEPS, durable=st.booleans())
    def campaign(self, index: int, steps: int, durable: bool) -> None:
        self._stand(index)
        self.talk(steps, durable)

    @rule(one=NODES, other=NODES, steps=STEPS)
    def race(self, one: int, other: int, steps: int) -> None:
        """Two that know the same stand at once."""
        self._stand(one)
        self._stand(other)
        self.talk(steps, True)

    def _stand(self, index: int) -> None:
        self.now += SECOND
        self._do(index, lambda peer: peer.proposer.on_timer(self.now) and peer.proposer.retire(0))
        self._do(index, lambda peer: peer.proposer.stand(peer.known, self.now))

    @rule(steps=STEPS, durable=st.booleans())
    def write(self, steps: int, durable: bool) -> None:
        """Whoever believes that it leads goes on; there may be several."""
        for index in range(len(CONTACTS)):
            self._do(index, self._propose)
        self.talk(steps, durable)

    def _propose(self, peer: Peer) -> None:
        proposer = peer.proposer
        if proposer.leading and not proposer.busy and proposer.head is not None:
            self.models += 1
            head, model = proposer.head, Value(4, self.models.to_bytes(4, "big"))
            voters = head.voters
            if not proposer.settled:
                voters = next_voters(APP, voters, SEATS, peer.me.id, self.ring)
            next_ = msgspec.structs.replace(head, round=head.round + 1, revision=0, model=model, voters=voters)
            if self.models % 3 == 0 and voters != head.voters:  # between rounds
                next_ = msgspec.structs.replace(head, revision=head.revision + 1, voters=voters)
            proposer.propose(next_, self.now)

    @rule(steps=STEPS, durable=st.booleans())
    def talk(self, steps: int, durable: bool) -> None:
        """Those on one side exchange what is under way, ``steps`` times; disks keep up or do not."""
        for _ in range(steps):
            for index in range(len(CONTACTS)) if durable else ():
                self.flush(index)
            batch, self.flying = self.flying[-MAX_FLYING:], []
            for src, dst, message in batch:
                if (src in self.side) == (dst in self.side):
                    self._arrive(src, dst, message)
                else:
                    self.flying.append((src, dst, message))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), fate=st.sampled_from(["arrives", "is lost", "is repeated"]))
    def one_message(self, data: st.DataObject, fate: str) -> None:
        index = data.draw(st.integers(0, len(self.flying) - 1))
        if fate == "is repeated":
            self.flying.append(self.flying[index])
        elif fate == "is lost":
            del self.flying[index]
        else:
            self._arrive(*self.flying.pop(index))

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """A copy of something old arrives after all."""
        if self.past:
            self._arrive(*self.past[data.draw(st.integers(0, len(self.past) - 1))])

    @rule()
    def replay_all(self) -> None:
        """Everything old arrives once more, in order."""
        for src, dst, message in list(self.past):
            if (src in self.side) == (dst in self.side):
                self._arrive(src, dst, message)

    @rule(away=st.frozensets(NODES, min_size=1))
    def power_cut(self, away: frozenset[int]) -> None:
        """Several lose what was not durable, and start again at once."""
        for index in sorted(away):
            contact = CONTACTS[index]
            peer = self.peers[contact.id]
            if peer is not None:
                self.disks[contact.id] = peer.disk
                self._boot(contact)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), lost=st.booleans())
    def lose_or_repeat(self, data: st.DataObject, lost: bool) -> None:
        index = data.draw(st.integers(0, len(self.flying) - 1))
        if lost:
            del self.flying[index]
        elif len(self.flying) < 200:
            self.flying.append(self.flying[index])

    def _arrive(self, src: NodeId, dst: NodeId, message: Message) -> None:
        self.past.append((src, dst, message))
        peer = self.peers[dst]
        if peer is not None:
            peer.hear(src, message)
            peer.settle()

    @rule(index=NODES)
    def flush(self, index: int) -> None:
        self._do(index, self._sync)

    def _sync(self, peer: Peer) -> None:
        peer.settle()
        for value in peer.writes:
            peer.disk = value
            peer.voter.on_stored()
        peer.writes = []

    @rule(index=NODES)
    def crash(self, index: int) -> None:
        peer = self.peers[CONTACTS[index].id]
        if peer is not None and sum(one is not None for one in self.peers.values()) > 3:
            self.disks[peer.me.id] = peer.disk
            self.peers[peer.me.id] = None
            self.ring.dead.append(peer.me.id)

    @rule(index=NODES)
    def restart(self, index: int) -> None:
        contact = CONTACTS[index]
        if self.peers[contact.id] is None:
            self._boot(contact)

    def _boot(self, contact: Contact) -> None:
        self.lives = getattr(self, "lives", 1) + 1
        reborn = msgspec.structs.replace(contact, incarnation=self.lives)
        self.peers[contact.id] = Peer(self, reborn, self.disks[contact.id])
        self.ring.dead = [peer for peer in self.ring.dead if peer != contact.id]

    @rule(index=NODES, data=st.data())
    def hear_of_a_commit(self, index: int, data: st.DataObject) -> None:
        if self.committed:
            head = data.draw(st.sampled_from(self.committed)).outline()
            self._do(index, lambda peer: peer.learn(head))

    # ---- what must hold ----

    @invariant()
    def what_is_committed_is_proven_to_anybody(self) -> None:
        checked = self.__dict__.setdefault("checked", [])
        for head in self.committed[len(checked) :]:
            assert proofs(CONTACTS[0].id).committed(self.genesis, head)
            checked.append(head)

    @invariant()
    def nobody_is_blamed(self) -> None:
        assert not self.blamed

    @invariant()
    def one_model_for_each_round(self) -> None:
        models: dict[int, Value] = {}
        for head in self.committed:
            assert models.setdefault(head.round, head.model) == head.model, f"round {head.round} was committed twice"

    @invariant()
    def history_goes_on(self) -> None:
        ordered = sorted(self.committed, key=lambda head: head.order)
        for before, after in itertools.pairwise(ordered):
            assert after.round - before.round in (0, 1), f"{before.order} is followed by {after.order}"
            one, other = ({voter.id for voter in head.voters} for head in (before, after))
            moved = (after.round, after.revision) > (before.round, before.revision)
            assert len(one ^ other) <= (1 if moved else 0)

    @invariant()
    def what_is_promised_never_shrinks(self) -> None:
        seen = self.__dict__.setdefault("promised", {})
        for peer in self.peers.values():
            if peer is not None and peer.disk is not None:
                ballot = msgspec.msgpack.decode(peer.disk, type=Ballot)
                assert ballot.promised >= seen.get(peer.me.id, 0)
                seen[peer.me.id] = ballot.promised

    def teardown(self) -> None:
        """When everybody is up and one node stands, it leads and commits, whatever happened before."""
        for contact in CONTACTS:
            if self.peers[contact.id] is None:
                self._boot(contact)
            self._do(CONTACTS.index(contact), lambda peer: peer.proposer.retire(0))
        peer = self.peers[CONTACTS[0].id]
        assert peer is not None
        before = len(self.committed)
        self.side = []
        for _ in range(40):
            self._stand(0)
            self._do(0, self._propose)
            self.talk(4, True)
            if len(self.committed) > before + 1:
                break
        assert peer.proposer.leading, peer.proposer.phase
        assert len(self.committed) > before + 1
        assert peer.proposer.phase is Phase.LEADING
        self.one_model_for_each_round()
        self.history_goes_on()


RegisterMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRegister = RegisterMachine.TestCase
