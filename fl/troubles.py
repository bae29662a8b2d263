"""What goes wrong with an application, and how everybody who has a part in it hears of it.

A node that cannot contribute says so in a *complaint*: what, in which round, the traceback of the user's code where
there is one.  It travels up the tree to the root; a node outside of the tree, which refuses to work, routes it towards
the application's id, where the first member on the way takes it up.  The root puts what it heard beside its own status
(``waiting``, `2 of 9 workers are there`) into a *condition*, and sends that down when it changes and to whoever
attaches.  So ``mycelia ls`` says the same on all members, the node that submitted the run among them.

Nothing here decides about rounds.  A wave waits for nobody because of a complaint, and none is needed for progress: all
of it may be lost, which costs people an explanation.

*Failing.*  The root calls an application ``failing`` when nobody is left who could succeed: some waves in a row to
which everybody answered and nobody contributed anew, while complaints say why; or steps in a row that could not be
taken.  Whoever is merely absent could succeed, so a wave with absentees proves nothing, and neither does one without
complaint (nobody has come yet), nor one that is short of nodes even if those that complain were well (it waits for
others).  A single contribution ends it.  A complaint that somebody made up fails no run that gets on.

*Lies.*  A complaint is sealed by the node that it names, and checked by every relay; a condition by the root of its
epoch, whom the committed head names.  A member can invent nodes that complain, since a key proves no membership: each
peer has a few places per second and in the root's book, and fills its own with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from protocol.effects import Outbox
from protocol.errors import Code
from protocol.ids import AppId, NodeId
from protocol.messages import Message
from protocol.signing import Sealer
from pubsub.heads import Head
from pubsub.messages import WaveId
from pubsub.ports import HandedIn

from .board import FAILING_STEPS, PER_PEER, Board, chosen, nobody_left, who, words
from .messages import (
    MAX_DETAIL,
    MAX_NAME,
    MAX_SENTENCE,
    MAX_TRACE,
    Ailment,
    Complaint,
    Condition,
    Trouble,
)
from .notices import Troubled
from .ports import TroublesHost

MS = 1_000_000
SECOND = 1_000 * MS

GATHER = 200 * MS
"""The root waits so long for more news before it tells what it has."""
WINDOW = 1 * SECOND
"""Time for which a peer's messages are counted together."""
MAX_PEERS = 64
"""Peers from which complaints are taken in one window."""
_COMPLAINT, _CONDITION = "trouble", "condition"
_encoder = msgspec.msgpack.Encoder()


class Troubles:
    """For all applications of one node; see the module."""

    __slots__ = ("_boards", "_brought", "_host", "_label", "_me", "_out", "_sealer", "_window")

    def __init__(self, me: NodeId, host: TroublesHost, *, out: Outbox, sealer: Sealer, label: str) -> None:
        """``label`` is this node's name for people."""
        self._me, self._host, self._out = me, host, out
        self._sealer, self._label = sealer, label[:MAX_NAME]
        self._boards: dict[AppId, Board] = {}
        self._window, self._brought = 0, dict[NodeId, int]()

    # ---- this node's own --------------------------------------------------------------------------------------------

    def failed(self, app: AppId, round_: int, error: str, now: int) -> None:
        """The local work failed.  ``error``: a sentence, and on further lines the traceback."""
        self._complain(app, Ailment.FAILED, round_, error, now)

    def refused(self, app: AppId, why: str, now: int) -> None:
        """This node does not work for ``app``; said again and again, at growing intervals."""
        self._complain(app, Ailment.REFUSED, 0, why, now)
        self._out.set_timer(("fl.refused", app), now + self._board(app).pause(again=False))

    def willing(self, app: AppId) -> None:
        """It works for it after all."""
        board = self._boards.get(app)
        if board is not None and board.own is not None and board.own.complaint.kind is Ailment.REFUSED:
            board.recover()
            self._out.cancel_timer(("fl.refused", app))

    def _repeat(self, app: AppId, now: int) -> None:
        board = self._boards.get(app)
        if board is not None and board.own is not None:
            self._pass_on(board.own, self._me, now)
            self._out.set_timer(("fl.refused", app), now + board.pause(again=True))

    def stumbled(self, app: AppId, round_: int, error: str, now: int) -> None:
        """At the root: the step to the next model could not be taken."""
        self._board(app).stumbled()
        self._complain(app, Ailment.STEP, round_, error, now)

    def crowded(self, app: AppId, round_: int, why: str, now: int) -> None:
        """Some of those below this node were left out of the round for want of room."""
        self._complain(app, Ailment.CROWDED, round_, why, now)

    def _complain(self, app: AppId, kind: Ailment, round_: int, error: str, now: int) -> None:
        sentence, _, trace = error.partition("\n")
        cut = sentence if len(sentence) <= MAX_SENTENCE else sentence[: MAX_SENTENCE - 1] + "…"
        complaint = Complaint(self._me, kind, round_, self._label, cut, trace[-MAX_TRACE:])
        board = self._board(app)
        own = board.own
        if own is None or own.complaint != complaint:
            own = Trouble(app, complaint, self._sealer.seal(_COMPLAINT, _sealed(app, complaint)))
            board.complain(own)
        self._pass_on(own, self._me, now)

    # ---- on the way up ----------------------------------------------------------------------------------------------

    def on_trouble(self, peer: NodeId, message: Trouble, now: int) -> None:
        """From a member below; from nobody in particular (``peer`` empty) when it came along the ring, where its
        origin is a mere claim.  Counted before it is checked: checking a seal is what a flood would cost."""
        if not self._room(peer, now):
            self._host.forest.count("troubles_flooded")
        elif message.app not in self._host.apps:
            self._host.forest.count("unknown_app")
        elif not self._sealer.check(
            message.complaint.node, message.seal, _COMPLAINT, _sealed(message.app, message.complaint)
        ):
            self._host.forest.count("troubles_forged")
            if peer:
                self._out.penalize(peer, Code.BAD_SIGNATURE, "complaint")
        else:
            self._pass_on(message, peer, now)

    def _room(self, peer: NodeId, now: int) -> bool:
        if now - self._window >= WINDOW:
            self._window, self._brought = now, {}
        count = self._brought.get(peer, 0)
        if count >= PER_PEER or (not count and len(self._brought) >= MAX_PEERS):
            return False
        self._brought[peer] = count + 1
        return True

    def _pass_on(self, trouble: Trouble, peer: NodeId, now: int) -> None:
        """To the parent; into the book at the root; and from outside of the tree by the ring."""
        tree = self._host.tree(trouble.app)
        if tree is not None and tree.is_root:
            self._enter(trouble.app, trouble.complaint, peer, now)
        elif tree is not None and tree.parent is not None and tree.parent != peer:
            self._out.send(tree.parent, trouble)
        elif trouble.complaint.node == self._me:
            self._host.forest.ring.route(trouble.app, trouble, now)
        elif (root := self._host.live_root(trouble.app)) is not None and root.id != peer:
            self._out.send(root.id, trouble)

    def takes(self, message: Message) -> bool:
        """Is this a complaint on its way along the ring for which this node, as a member, knows a shorter one?"""
        if not isinstance(message, Trouble) or message.complaint.node == self._me:
            return False
        tree = self._host.tree(message.app)
        return tree is not None and tree.attached

    # ---- at the root ------------------------------------------------------------------------------------------------

    def _enter(self, app: AppId, complaint: Complaint, source: NodeId, now: int) -> None:
        board, head = self._board(app), self._host.apps[app].head
        if complaint.kind is not Ailment.REFUSED and head is not None and complaint.round < head.round:
            return
        news = board.enter(complaint, source)
        if news is None:
            self._host.forest.count("troubles_flooded")
        elif news:
            self._restate(app, now)

    def closed(self, app: AppId, wave: WaveId, parts: Sequence[HandedIn], absent: int, now: int) -> None:
        """At the root: what a wave brought.  Whoever contributed is well."""
        board = self._boards.get(app)
        well = [member for part in parts for member in part.partial.contributors]
        if board is not None and board.brought(well, absent, wave.round, now):
            self._restate(app, now)

    def committed(self, app: AppId, head: Head, now: int) -> None:
        """A round is decided: old complaints are history, and the root that a condition waits for may be known."""
        board = self._boards.get(app)
        if board is None:
            return
        if board.decided(head.round):
            self._restate(app, now)
        pending = board.take_pending()
        if pending is not None:
            self._heard(pending, now)

    def speaks(self, app: AppId, status: str, detail: str, now: int) -> tuple[str, str]:
        """What the coordinator's word becomes with what is known of troubles; the tree is told."""
        board = self._board(app)
        if board.say(status, detail):
            self._out.set_timer(("fl.tell", app), now + GATHER)
        return self._verdict(app, board, now)

    def _restate(self, app: AppId, now: int) -> None:
        host = self._host.apps.get(app)
        if host is not None and host.rooted:
            self._host.status(app, *self._board(app).said, now)

    def _verdict(self, app: AppId, board: Board, now: int) -> tuple[str, str]:
        status, detail = board.said
        if status != "waiting":
            return status, detail
        if board.stumbles >= FAILING_STEPS or nobody_left(board, self._host.apps[app].spec, now):
            status = "failing"
        those = [one for one, _ in board.book.values() if one.kind in (Ailment.FAILED, Ailment.REFUSED)]
        if not those:
            return status, detail
        count, first = len(those), those[0]
        many = f"{count} nodes cannot contribute, the first is" if count > 1 else "cannot contribute:"
        return status, f"{detail}; {many} {who(first)}: {first.sentence}"[:MAX_DETAIL]

    def _announce(self, app: AppId, now: int) -> None:
        """At the root: say how things stand, if that has changed."""
        board, host = self._boards.get(app), self._host.apps.get(app)
        if board is None or host is None:
            return
        board.told_all()
        if not host.rooted or host.head is None:
            return
        status, detail = self._verdict(app, board, now)
        complaints = chosen([complaint for complaint, _ in board.book.values()])
        before = board.condition
        epoch = self._host.epoch(app)
        if before is not None and before.epoch == epoch:
            same = [words(one) for one in before.complaints] == [words(one) for one in complaints]
            if same and (before.status, before.detail) == (status, detail):
                return
        content = app, epoch, board.number(), status, detail, complaints
        self._take(board, Condition(*content, self._sealer.seal(_CONDITION, _encoder.encode(content))))

    # ---- on the way down --------------------------------------------------------------------------------------------

    def on_condition(self, peer: NodeId, message: Condition, now: int) -> None:
        """From the parent, or it is ignored: it may cross with a change of parents, so nobody is to blame."""
        tree = self._host.tree(message.app)
        if tree is None or tree.parent != peer:
            self._host.forest.count("conditions_strange")
            return
        self._heard(message, now, peer)

    def _heard(self, message: Condition, now: int, peer: NodeId = b"") -> None:
        app = self._host.apps.get(message.app)
        if app is None or app.rooted:
            return
        board = self._board(message.app)
        if board.condition is not None and _order(message) < _order(board.condition):
            return
        if app.head is None or app.head.epoch < message.epoch:
            board.await_root(message)
        elif app.head.epoch == message.epoch:
            *content, seal = msgspec.structs.astuple(message)
            if self._sealer.check(app.head.root.id, seal, _CONDITION, _encoder.encode(content)):
                if board.condition != message:
                    self._take(board, message)
                self._host.status(message.app, message.status, message.detail, now)
            elif peer:
                self._out.penalize(peer, Code.BAD_SIGNATURE, "condition")

    def _take(self, board: Board, condition: Condition) -> None:
        before = board.condition.complaints if board.condition is not None else ()
        board.take(condition)
        self._tell(condition.app, board)
        if [words(one) for one in before] != [words(one) for one in condition.complaints]:
            self._out.emit(Troubled(condition.app, condition.complaints))

    def _tell(self, app: AppId, board: Board) -> None:
        tree = self._host.tree(app)
        if tree is None or board.condition is None:
            return
        for child in board.hand_to(tree.children):
            self._out.send(child, board.condition)

    def tree_changed(self, app: AppId, now: int) -> None:
        """Children that are new here have not heard how things stand."""
        board = self._boards.get(app)
        if board is not None:
            self._tell(app, board)

    def rooted(self, app: AppId, now: int) -> None:
        """A new root begins with what its predecessor had told everybody."""
        self._board(app).succeed(self._me)

    def knows(self, app: AppId, epoch: int) -> bool:
        """Has the root of ``epoch`` said how things stand?"""
        board = self._boards.get(app)
        return board is not None and board.condition is not None and board.condition.epoch >= epoch

    def on_timer(self, name: str, app: AppId, now: int) -> None:
        if name == "fl.refused":
            self._repeat(app, now)
        elif name == "fl.tell":
            self._announce(app, now)

    def forget(self, app: AppId) -> None:
        """The application is over."""
        if self._boards.pop(app, None) is not None:
            self._out.cancel_timer(("fl.refused", app))
            self._out.cancel_timer(("fl.tell", app))

    # ---- helpers ----------------------------------------------------------------------------------------------------

    def _board(self, app: AppId) -> Board:
        """Only for applications that are known: as many as there are descriptors."""
        return self._boards.setdefault(app, Board())


def _sealed(app: AppId, complaint: Complaint) -> bytes:
    return _encoder.encode((app, complaint))


def _order(condition: Condition) -> tuple[int, int]:
    return condition.epoch, condition.serial
