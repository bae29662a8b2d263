"""Members among liars: a tree in the middle of a round, and one of its nodes hears whatever its peers make up.

A fabric of whole cores runs until a round is under way.  Then one node, the root, an aggregator, a worker or one that
only votes, is taken out (its life so far is replayed), and peers send it messages of every kind that are well-formed
and *nearly right*: real ids, the present epoch, round and wave or one beside it, real voters, orders that can be read,
records and statements that are signed, with the keys of those who send them.  Random messages alone never come past the
first comparison.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dht.messages import RecordPush
from dht.records import Kind, sign_record
from fl import spec as specs
from fl.messages import Order, Report, Work, encode
from node.core import NodeCore
from protocol.ids import NodeId, ring_id
from protocol.membership import vouch
from protocol.messages import EMPTY, Contact, Message, Routed, Value
from protocol.signing import Sealer
from protocol.streams import Stream
from pubsub import claims
from pubsub.heads import MAX_METRICS, Head
from pubsub.messages import FAR, Claim, Partial, TreeJoin, WaveId, WaveOpen, WaveUp
from simulations.signing import AUTHORITY, KeyedHashSigner, KeyedHashVerifier, endorsed
from tests.node.cores import CONFIG, OWNER, Fabric, Machine
from tests.node.lab import Lab
from tests.protocol.instances import example, messages, registered

ROLES = ("root", "aggregator", "worker", "voter")
SIZE = 9
EXAMPLES, STEPS = 40, 30
"""Of each role, and in each example."""
OUTSIDER = KeyedHashSigner(7, "outsider")
STRANGE = Contact(ring_id(0, OUTSIDER.public_key, OUTSIDER.nonce), ("outsider:1",), 1)
"""A member of the fabric that has no part in the application."""
INVENTED = {ring_id(0, key.public_key): key for key in (KeyedHashSigner(7, "invented", index) for index in range(3))}
"""Nobody: a liar can make as many keys as it likes."""


@functools.cache
def stage() -> tuple[specs.AppSpec, dict[str, Machine]]:
    """An application whose round is under way, and who is what in it."""
    fabric = Fabric(SIZE)
    fabric.start()
    stop = specs.Stop("loss", patience=10**6, maximise=False)
    spec = fabric.submit(rounds=10**5, fan_out=2, min_workers=1, stop=stop)
    machines = fabric.machines
    by_role: dict[str, Machine] = {}

    def cast() -> bool:
        groves = {machine: core.forest.groves.get(spec.id) for machine in machines if (core := machine.core)}
        ready = {machine: grove for machine, grove in groves.items() if grove is not None and grove.tree.attached}
        if len(ready) < SIZE or any(grove.waves.collected for grove in ready.values()):
            return False
        if len({grove.waves.current for grove in ready.values()}) > 1:
            return False
        for machine, grove in ready.items():
            kind = "root" if grove.tree.is_root else "aggregator" if grove.tree.children else "worker"
            by_role.setdefault(kind, machine)
            votes = machine.core is not None and spec.id in machine.core.forest.voters
            if votes and machine not in by_role.values():
                by_role["voter"] = machine
        return set(by_role) == set(ROLES) and next(iter(ready.values())).waves.current.round > 2

    fabric.run_until(cast)
    return spec, by_role


def taken_out(role: str) -> tuple[Lab, list[Contact]]:
    """That node, alive again at the moment when the others were taken away from it; and who can speak to it."""
    _, by_role = stage()
    machine = by_role[role]
    core = NodeCore(
        machine.me,
        CONFIG,
        signer=machine.signer,
        verifier=KeyedHashVerifier(),
        roll=endorsed(machine.me.id),
        seed=machine.life,
        restored={},
        label=machine.name,
        owns=OWNER.public_key.__eq__,
    )
    lab = Lab(core)
    lab.replay(machine.log)
    others = [one.me for one in machine.fabric.machines if one is not machine]
    return lab, [*others, STRANGE]


# ---- messages that are nearly right -------------------------------------------------------------------------------

NAMES = ["loss", "loss.n", "x.n", "x.n.n", "data.n", ".n", ""]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e300, -1e300, float("inf"), float("-inf"), float("nan")]


class Fitting:
    """Turns any message into one that concerns the present moment of ``lab``.  ``draw`` takes one of several."""

    def __init__(self, lab: Lab, peers: list[Contact], draw: Callable[[int], int]) -> None:
        self._lab, self._peers, self._draw = lab, peers, draw
        self._spec, _ = stage()
        grove = lab.core.forest.groves.get(self._spec.id)
        self._wave = grove.waves.current if grove is not None else WaveId(1, 1, 0)
        self._epoch = grove.epoch if grove is not None else 1
        self._head = grove.head if grove is not None else None
        self._attempt = grove.tree._attempt if grove is not None else 0
        self._ids = [lab.core.me.id, *(peer.id for peer in peers), self._spec.id]
        machines = next(iter(stage()[1].values())).fabric.machines
        self._keys = {one.me.id: one.signer for one in machines} | {STRANGE.id: OUTSIDER} | INVENTED
        """Of everybody but the node itself: they may all lie, and help each other."""
        del self._keys[lab.core.me.id]

    def one_of(self, *options: Any) -> Any:
        return options[self._draw(len(options))]

    def near(self, number: int) -> int:
        """Mostly the number itself: a message has several, and one that is wrong is enough."""
        by: int = self.one_of(1, -1, 2, FAR, FAR + 1) if not self._draw(12) else 0
        return max(0, number + by)

    def number(self) -> float:
        return float(self.one_of(*NUMBERS)) if not self._draw(6) else 1.0

    def some(self, items: list[Any], count: int) -> tuple[Any, ...]:
        return tuple(items[self._draw(len(items))] for _ in range(self._draw(count + 1)))

    def message(self, message: Any, sender: Contact) -> Any:
        fields = {name: self.field(name, getattr(message, name), sender) for name in message.__struct_fields__}
        made = msgspec.structs.replace(message, **fields)
        return self.stated(made, sender) if isinstance(made, WaveUp) and made.partial and self._draw(8) else made

    def stated(self, message: WaveUp, sender: Contact) -> WaveUp:
        """The same with a statement of each contributor who can make one, so that it comes past the check of claims."""
        assert message.partial is not None
        members = tuple(sorted(self._keys.keys() & set(message.partial.contributors))) or (sender.id,)
        partial = msgspec.structs.replace(message.partial, contributors=members)
        claimed = [self.claim(member, partial, message.wave, sender) for member in members]
        if not self._draw(12):
            del claimed[-1]
        return msgspec.structs.replace(message, partial=partial, claims=tuple(claimed))

    def claim(self, member: NodeId, partial: Partial, wave: WaveId, sender: Contact) -> Claim:
        """To this node, about what is handed in; of others now and then to somebody else, or about something else."""
        digest, parent = claims.digest_of(partial), self._lab.core.me.id
        if member != sender.id and not self._draw(3):
            digest, parent = self.one_of(digest, bytes(32)), self.one_of(parent, sender.id)
        statement = claims.statement(self._spec.id, wave, digest, parent)
        sealer = Sealer(self._keys[member], KeyedHashVerifier())
        voucher = self.one_of(b"", bytes(40)) if member in INVENTED else vouch(AUTHORITY, member)
        return Claim(digest, parent, sealer.seal(claims.DOMAIN, statement), voucher)

    def field(self, name: str, value: Any, sender: Contact) -> Any:
        made = self._MAKERS.get(name)
        if isinstance(value, Head):
            return self.message(self.one_of(value, self._head or value), sender)
        if made is not None and self._draw(8):
            return made(self, sender)
        if isinstance(value, msgspec.Struct) and not isinstance(value, Contact | Value):
            return self.message(value, sender)
        return value

    _MAKERS: dict[str, Callable[[Fitting, Contact], Any]] = {
        "app": lambda self, sender: self._spec.id,
        "wave": lambda self, sender: WaveId(
            self.near(self._wave.epoch), self.near(self._wave.round), self.near(self._wave.wave)
        ),
        "epoch": lambda self, sender: self.near(self._epoch),
        "round": lambda self, sender: self.near(self._wave.round),
        "attempt": lambda self, sender: self.near(self._attempt),
        "committed": lambda self, sender: (self.near(self._epoch), self.near(self._wave.round)),
        "joiner": lambda self, sender: self.one_of(sender, self.one_of(*self._peers)),
        "root": lambda self, sender: self.one_of(sender, *self._peers),
        "candidate": lambda self, sender: self.one_of(sender, *self._peers),
        "voters": lambda self, sender: self.one_of(self._spec.voters, self.some(self._peers, 5)),
        "path": lambda self, sender: self.some(self._ids, 6),
        "closed": lambda self, sender: self.some(self._ids, 4),
        "contributors": lambda self, sender: self.one_of(
            (sender.id,), (sender.id, STRANGE.id), self.some([*self._ids, *INVENTED], 4)
        ),
        "metrics": lambda self, sender: self.one_of(
            {}, {name: self.number() for name in self.some(NAMES, 4)},
            {f"m{index:02}": self.number() for index in range(MAX_METRICS)},
        ),
        "weight": lambda self, sender: self.number(),
        "value": lambda self, sender: self.one_of(EMPTY, Value(8, bytes(8)), Value(1, b"1"), Value(9, blob=bytes(32))),
        "model": lambda self, sender: self.one_of(EMPTY, Value(8, bytes(8)), Value(10**6, blob=bytes(32))),
        "order": lambda self, sender: encode(Order(self.one_of(*Work), bytes(self.one_of(0, 32)))),
        "report": lambda self, sender: encode(
            Report(self.one_of(None, *NUMBERS), self.near(1), self.near(1), self.one_of(False, True))
        ),
        "finished": lambda self, sender: not self._draw(20),
        "remaining": lambda self, sender: self.one_of(0, 1, 10**9, 1 << 62),
        "absent": lambda self, sender: self.one_of(0, 1, 1 << 62),
        "awaits": lambda self, sender: bool(self._draw(2)),
    }  # fmt: skip

    def record(self, sender: Contact) -> RecordPush:
        """Signed by somebody, about something that matters here."""
        spec = self._spec
        head = self.message(self._head, sender) if self._head is not None else None
        other = msgspec.structs.replace(spec, owner=OUTSIDER.public_key, rounds=1 + self._draw(3))
        kind, subject, body = self.one_of(
            (Kind.APP, other.id, specs.encode(other)),
            (Kind.APP, spec.id, specs.encode(msgspec.structs.replace(spec, rounds=1))),
            (Kind.STOP, self.one_of(spec.id, other.id), b""),
            (Kind.VOTERS, spec.id, msgspec.msgpack.encode(head)),
            (Kind.VOTERS, spec.id, b"junk"),
        )
        version = self.one_of(1, self.near(self._epoch) << 32 | self.near(self._wave.round))
        expires = int(self._lab.now // 10**9) + self.one_of(60, 10**6)
        return RecordPush((sign_record(OUTSIDER, kind, subject, version, expires, body),))


def neighbours(lab: Lab, peers: list[Contact]) -> list[Contact]:
    """Whoever is above or below it in the tree."""
    grove = lab.core.forest.groves.get(stage()[0].id)
    return [peer for peer in peers if grove and peer.id in (grove.tree.parent, *grove.tree.children)]


def awaited(lab: Lab, peers: list[Contact]) -> list[Contact]:
    """Those whose answers it waits for: what others hand in is late."""
    grove = lab.core.forest.groves.get(stage()[0].id)
    return [peer for peer in peers if grove and peer.id in grove.waves.awaited]


def act(lab: Lab, peers: list[Contact], message: Message, draw: Callable[[int], int]) -> None:
    """One thing that happens."""
    happenings = LIES + LIFE
    kind = happenings[draw(len(happenings))]
    close = neighbours(lab, peers) if draw(4) else []
    sender = (close or peers)[draw(len(close or peers))]
    fitting = Fitting(lab, peers, draw)
    match kind:
        case "hostile":
            lab.message(sender, fitting.message(message, sender))
        case "typical":
            message = TYPICAL[draw(len(TYPICAL))]
            if isinstance(message, WaveUp) and draw(8):
                sender = next(iter(awaited(lab, peers)), sender)
            lab.message(sender, fitting.message(message, sender))
        case "routed":
            made = fitting.message(message, sender)
            lab.message(sender, Routed(fitting.one_of(*fitting._ids), sender, draw(64), made))
        case "record":
            lab.message(sender, fitting.record(sender))
        case "echo":
            lab.echo(sender, draw(50))
        case "undelivered":
            lab.undelivered(draw(50))
        case "down":
            lab.down(sender, ("closed", "idle", "revoked")[draw(3)])
        case "computed" | "transferred":
            getattr(lab, kind)(bool(draw(2)))
        case _:
            getattr(lab, kind)()


OFTEN: list[type[Message]] = [WaveUp] * 20 + [WaveOpen] * 5 + [TreeJoin] * 3
TYPICAL = [example(kind) for kind in [*registered(), *OFTEN] if kind.KIND >= 48]
"""Messages of the forest, nothing optional left out: what random ones seldom are.  Those often that may do most."""
LIES = ["hostile"] * 5 + ["typical"] * 10 + ["routed", "record", "record", "echo"]
LIFE = ["undelivered", "down", "computed", "transferred", "timer", "stored"]
told = st.tuples(st.integers(0, 1 << 32), st.lists(messages([STRANGE.id, bytes(16)]), min_size=4, max_size=6))
"""The seed that decides what happens, and messages to start from: few, since to draw one takes long."""


def test_everybody_plays_its_part() -> None:
    """Otherwise the attacks below would be on an idle node."""
    spec, by_role = stage()
    assert set(by_role) == set(ROLES)
    for role, machine in by_role.items():
        lab, _ = taken_out(role)
        grove = lab.core.forest.groves[spec.id]
        assert grove.tree.is_root == (role == "root")
        assert (grove.tree.parent is None) == (role == "root")
        assert role == "voter" or bool(grove.tree.children) == (role in ("root", "aggregator"))
        assert not grove.waves.collected
        assert machine.core is not None
        assert grove.waves.current == machine.core.forest.groves[spec.id].waves.current


@pytest.mark.parametrize("role", ROLES)
@settings(max_examples=EXAMPLES, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate))
@given(told)
def test_no_lie_breaks_a_member(role: str, lies: tuple[int, list[Message]]) -> None:
    lab, peers = taken_out(role)
    draw = Stream(lies[0], "lie").below
    for step in range(STEPS):
        act(lab, peers, lies[1][step % len(lies[1])], draw)
    lab.settle(40)
