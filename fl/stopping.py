"""Early stopping: is the model still getting better?

The metric of a round is a mean over those who measured it.  If the hardest site is away for some rounds the mean rises
although no model is better, and when it is back the best value is out of reach: a run would end for that alone.  So
values are compared only when the same *population* measured them.

A population is the set of contributors, kept as a sketch: the 256 smallest of their ids, which are hashes (a bottom-k
sketch, Cohen & Kaplan 2007).  Two are the same when the sketches agree in 99 of 100, so below a hundred nodes all have
to be the same, and a large application does not start afresh whenever one of thousands comes or goes.  Where only a
``fraction`` is asked in each round, every round is a sample of the whole, and all are compared.

Beside the population that the best value belongs to, one *rival* is followed.  Rounds that it measured count neither
for nor against; when it has measured ``patience`` rounds in a row the other one is history, and its own best value
counts from then on.  If the population changes in every round the run goes on to its last one.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.ids import ZONE_BYTES, NodeId

from .messages import SKETCH, Report, Track
from .spec import Stop

_PART = 8
"""Bytes of an id's hash in a sketch: 256 of them are told apart."""
SAME = 0.99
"""Share of two sketches that has to agree."""


def population(members: Sequence[NodeId], fraction: float) -> bytes:
    """The sketch of ``members``; empty, and comparable with all, when they are a sample."""
    if fraction < 1:
        return b""
    parts = sorted(member[ZONE_BYTES : ZONE_BYTES + _PART] for member in members)
    return b"".join(parts[:SKETCH])


def comparable(one: bytes, other: bytes) -> bool:
    """Do two sketches belong to the same population?"""
    if not one or not other or one == other:
        return True
    mine, others = _parts(one), _parts(other)
    union = sorted({**mine, **others})[: max(len(mine), len(others))]
    return sum(part in mine and part in others for part in union) >= SAME * len(union)


def better(value: float, best: float, rule: Stop) -> bool:
    """Is ``value`` an improvement that counts?"""
    return (value - best) * (1 if rule.maximise else -1) > rule.delta


def judged(report: Report, rule: Stop, round_: int, value: float, who: bytes) -> Report:
    """``report`` after the model of ``round_`` was measured by the population ``who``."""
    now = Track(report.best, report.best_round, report.stale_rounds, report.population)
    if comparable(now.population, who):
        now = _advanced(now, rule, round_, value, who)
        rival = None
    elif report.rival is not None and comparable(report.rival.population, who):
        rival = _advanced(report.rival, rule, round_, value, who)
    else:
        rival = _advanced(Track(), rule, round_, value, who)
    if rival is not None and rival.rounds >= rule.patience:
        now, rival = rival, None
    return Report(
        now.best, now.best_round, now.stale_rounds, report.closing, population=now.population or who, rival=rival
    )


def _advanced(track: Track, rule: Stop, round_: int, value: float, who: bytes) -> Track:
    rounds = track.rounds + 1
    if track.best is None or better(value, track.best, rule):
        return Track(value, round_, 0, who, rounds)
    return Track(track.best, track.best_round, track.stale_rounds + 1, track.population or who, rounds)


def _parts(sketch: bytes) -> dict[bytes, None]:
    return dict.fromkeys(sketch[start : start + _PART] for start in range(0, len(sketch), _PART))
