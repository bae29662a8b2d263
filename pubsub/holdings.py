"""Fetching what a value names, once, for however many parts of the node want it.

A message may name an artifact instead of carrying it.  Whoever needs the content says so here; the transfer is asked
of the driver at once (it answers ``TransferDone`` immediately when the artifact is present), and the continuations run
when it is complete and verified.  A failed transfer goes on from another source if one was named; when none is left
the waiting parts are told, and whoever still cares asks again: at the next beat, wave or ``Accept``.

Nobody asks for anything without saying how large it may be (``sizes``).  A value beyond that is refused before a
transfer begins, and counted against the one who named it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protocol.effects import Outbox, StartTransfer
from protocol.errors import Code
from protocol.events import Event, TransferDone, TransferFailed
from protocol.ids import BlobId, NodeId
from protocol.messages import Value

Continuation = Callable[[int], None]

MAX_SOURCES = 8
MAX_WAITERS = 64


class _Wanted:
    __slots__ = ("failures", "size", "sources", "waiters")

    def __init__(self, size: int) -> None:
        self.size = size
        self.sources: list[NodeId] = []
        self.waiters: list[tuple[Continuation, Continuation | None]] = []
        self.failures = 0


class Holdings:
    """The artifacts that this node is waiting for."""

    __slots__ = ("_out", "_wanted")

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._wanted: dict[BlobId, _Wanted] = {}

    def ensure(
        self,
        value: Value,
        limit: int,
        sources: Sequence[NodeId],
        then: Continuation,
        now: int,
        *,
        failed: Continuation | None = None,
    ) -> bool:
        """Run ``then`` as soon as the content of ``value`` is here: at once for an inline value.

        ``limit``: bytes that it may have; False when it has more.  ``sources``: who holds it, best first; the first
        named it.  ``failed`` runs instead of ``then`` when it is too large, or none of them could give it.
        """
        if value.size > limit:
            self._out.penalize(sources[0], Code.OVERSIZE, "artifact larger than its application allows")
            if failed is not None:
                failed(now)
            return False
        if not value.blob:
            then(now)
            return True
        wanted = self._wanted.get(value.blob)
        if wanted is None:
            wanted = self._wanted[value.blob] = _Wanted(value.size)
            self._out.effects.append(StartTransfer(sources[0], value.blob, value.size))
        for source in sources:
            if source not in wanted.sources and len(wanted.sources) < MAX_SOURCES:
                wanted.sources.append(source)
        if len(wanted.waiters) < MAX_WAITERS:
            wanted.waiters.append((then, failed))
        elif failed is not None:
            failed(now)
        return True

    def handle(self, event: Event, now: int) -> bool:
        """True when the event was the end of a transfer that was asked for here."""
        if isinstance(event, TransferDone):
            wanted = self._wanted.pop(event.blob, None)
            if wanted is None:
                return False
            for then, _ in wanted.waiters:
                then(now)
            return True
        if isinstance(event, TransferFailed):
            return self._failed(event, now)
        return False

    def _failed(self, event: TransferFailed, now: int) -> bool:
        wanted = self._wanted.get(event.blob)
        if wanted is None:
            return False
        wanted.failures += 1
        if wanted.failures >= 2 * len(wanted.sources):
            del self._wanted[event.blob]
            for _, failed in wanted.waiters:
                if failed is not None:
                    failed(now)
            return True
        source = wanted.sources[wanted.failures % len(wanted.sources)]
        self._out.effects.append(StartTransfer(source, event.blob, wanted.size))
        return True

    def awaits(self, value: Value) -> bool:
        """Is the content of ``value`` on its way here?"""
        return value.blob in self._wanted

    def __len__(self) -> int:
        return len(self._wanted)
