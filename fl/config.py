"""Settings of the rounds.  Times in nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

MS = 1_000_000
SECOND = 1_000 * MS


@dataclass(frozen=True, slots=True)
class RoundConfig:
    """How a coordinator paces its rounds."""

    max_waves: int = 3
    """Waves of one round that are opened for the sake of missing members (DESIGN section 7)."""

    patience: float = 1.5
    """The deadline of a wave is this multiple of the slowest of the last complete waves, plus ``slack``."""

    slack: int = 2 * SECOND
    """Added to the deadline: above the time in which a silent death is noticed there is no hurry, and a node whose
    parent died needs it to join again."""

    history: int = 5
    """Waves, complete or missed by most, that the deadline looks back on."""

    reunion: float = 0.9
    """A new root waits for this share of those whom the last head names and who are not known to be dead."""

    calm: int = 1600 * MS
    """When nobody came for so long, a new root waits for nobody else: twice the time after which a member that seeks a
    place asks again (``TreeConfig.join_retry``)."""

    gather: int = 10 * SECOND
    """How long a new root waits, at most, for those whom it does not know to be there yet: above the longest pause of
    a member that found no place (``TreeConfig.join_backoff``)."""

    evaluations: int = 5
    """Times that the closing evaluation is asked for again when fewer than ``min_workers`` gave one; then fewer will
    do, but not nobody."""

    describe: int = 60 * SECOND
    """How long the wave before the first round waits for those who have not answered.  A worker's first answer includes
    importing torch, which takes seconds, on a small board many."""

    wait: int = 1 * SECOND
    """Pause before a wave is opened again when there were fewer contributors than ``min_workers``."""

    farewell: int = 2 * SECOND
    """How long a member that hears of the end by rumour waits for the last head to come down its tree."""

    eager: int = 10
    """So many times in a row; after that the pause doubles, since each wave carries the model to everybody."""

    max_wait: int = 30 * SECOND
    """Upper bound of that pause."""
