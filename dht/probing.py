"""Leaf probes: how nodes learn each other's leaf sets (MSPastry, Castro, Costa & Rowstron 2004, section 3.1).

Two nodes that exchange leaf sets add each other, probe every candidate that would fit, and question everyone whom the
other believes dead.  Candidates enter the leaf set only by their own answer, so a leaf set never holds hearsay; and
because each change makes new candidates known, probing spreads until the neighbourhood agrees.
"""

from __future__ import annotations

from protocol.errors import Code
from protocol.ids import NodeId
from protocol.messages import Contact

from .config import MINUTE
from .messages import LeafProbe, LeafReply
from .view import View

_OUTSTANDING = 64
_FAILED_NAMED = 16


class _Probe:
    __slots__ = ("contact", "due", "tries")

    def __init__(self, contact: Contact, due: int) -> None:
        self.contact = contact
        self.due = due
        self.tries = 1


class Prober:
    """Leaf probes under way, repeated until answered or given up."""

    __slots__ = ("_in_vain", "_outstanding", "_view")

    def __init__(self, view: View) -> None:
        self._view = view
        self._outstanding: dict[NodeId, _Probe] = {}
        self._in_vain = False

    @property
    def busy(self) -> bool:
        return bool(self._outstanding)

    def probe(self, contact: Contact, now: int) -> None:
        """Ask ``contact`` for its leaf set, unless it is being asked."""
        if contact.id in self._outstanding or len(self._outstanding) >= _OUTSTANDING:
            return
        self._view.learn(contact)
        probe = self._outstanding[contact.id] = _Probe(contact, now + self._view.config.probe_retry)
        if contact.id in self._view.ghosts:
            # It is most likely dead: once more, for a lost message, is enough.
            probe.tries = max(self._view.config.probe_tries - 1, 1)
        self._send(contact.id, now)

    def _send(self, peer: NodeId, now: int) -> None:
        view = self._view
        view.out.send(peer, LeafProbe(view.me, view.leaves.snapshot(), self._failed(now)))

    def announce(self, now: int) -> None:
        """Tell all leaves whom we found dead.  A probe that names its own sender only asks for nothing."""
        view = self._view
        notice = LeafProbe(view.me, (view.me,), self._failed(now))
        for contact in view.leaves:
            view.out.send(contact.id, notice)

    def _failed(self, now: int) -> tuple[NodeId, ...]:
        return self._view.ghosts.recent(now - MINUTE, _FAILED_NAMED) if self._view.ghosts else ()

    # ---- messages ----

    def on_probe(self, peer: NodeId, message: LeafProbe, now: int) -> None:
        if not self._absorb(peer, message, now):
            return
        view = self._view
        known = {contact.id for contact in message.leaves}
        if known == {peer} or not (message.sender.dialable or view.ready):
            return
        news = tuple(contact for contact in view.leaves if contact.id not in known)
        view.out.send(peer, LeafReply(view.me, news, self._failed(now)))

    def on_reply(self, peer: NodeId, message: LeafReply, now: int) -> None:
        if self._absorb(peer, message, now):
            self._outstanding.pop(peer, None)

    def _absorb(self, peer: NodeId, message: LeafProbe | LeafReply, now: int) -> bool:
        view = self._view
        if message.sender.id != peer:
            view.out.penalize(peer, Code.UNAUTHORISED, "speaks for another node")
            return False
        view.confirm(message.sender, now)
        self.suggest(message.leaves, now)
        for failed in message.failed:
            if failed in view.leaves and failed != peer:
                view.liveness.question(failed, now)
        return True

    def suggest(self, candidates: tuple[Contact, ...], now: int) -> None:
        """Hearsay of nodes near us: probe those that would be leaves."""
        view = self._view
        if not view.me.dialable:
            return
        leaves, outstanding = view.leaves, self._outstanding
        unknown = [c for c in candidates if c.id not in leaves and c.id not in outstanding]
        plausible = [c for c in unknown if leaves.fits(c.id) and not view.foreign(c)]
        if view.ghosts:
            plausible = [c for c in plausible if not view.barred(c) or self._worth_asking(c, now)]
        if not plausible:
            return
        # Candidates under way count as if they were in already, so that no others are asked in their stead.
        plausible += [probe.contact for probe in outstanding.values()]
        for contact in leaves.missing(plausible):
            self.probe(contact, now)

    def _worth_asking(self, contact: Contact, now: int) -> bool:
        """Somebody still counts a ghost of ours as living: perhaps it does, so ask it now and then."""
        ghost = self._view.ghosts.get(contact.id)
        if ghost is None or ghost.final or now - ghost.asked < self._view.config.near_period:
            return False
        ghost.ask(now)
        return True

    # ---- time and failure ----

    def blocking(self, width: int) -> bool:
        """Is an answer awaited from one of the nearest ``width`` of a side?"""
        return any(self._view.leaves.fits(peer, width) for peer in self._outstanding)

    def tick(self, now: int) -> None:
        """Repeat what is due; give up what was repeated in vain."""
        config = self._view.config
        for peer, probe in list(self._outstanding.items()):
            if probe.due > now:
                continue
            if probe.tries >= config.probe_tries:
                self._give_up(peer, "silent", now)
            else:
                probe.tries += 1
                probe.due = now + config.probe_retry
                self._send(peer, now)

    def failed(self, peer: NodeId, now: int) -> None:
        """A probe could not be delivered."""
        if peer in self._outstanding:
            self._give_up(peer, "refused", now)

    def drop(self, peer: NodeId) -> None:
        """``peer`` is gone."""
        self._outstanding.pop(peer, None)

    def _give_up(self, peer: NodeId, why: str, now: int) -> None:
        view = self._view
        probe = self._outstanding.pop(peer)
        if peer in view.leaves:
            view.bury(peer, why, now)
        elif peer not in view.ghosts:
            # Never heard from: remembered as a ghost so that hearsay does not make us ask again at once.
            view.table.remove(peer)
            view.ghosts.add(probe.contact, now)
            self._in_vain = True

    def in_vain(self) -> bool:
        """Was a stranger asked in vain since this was last called?  Others may have been passed over for it."""
        vain, self._in_vain = self._in_vain, False
        return vain

    def clear(self) -> None:
        self._outstanding.clear()
