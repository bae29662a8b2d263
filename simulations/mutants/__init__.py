"""Planted protocol bugs, each of which the checkers must find: who checks the checkers.

A mutant replaces one method (or a small group of them) of the real machines by what a tired programmer might have
written.  If a hundred seeds of heavy weather do not show it, either the checkers are blind or the rule that it breaks
is not needed.
"""

from __future__ import annotations

from . import counting, growing, voting
from .planting import Hunt, Mutant, Plant, hunt, storm

__all__ = ["ALL", "Hunt", "Mutant", "hunt", "storm"]

_PLANTS: tuple[Plant, ...] = (
    voting.no_epoch_fence,
    voting.accept_older_head,
    voting.accept_from_anyone,
    voting.lost_promise,
    voting.lost_candidate,
    voting.promise_before_stored,
    voting.accepted_before_stored,
    voting.no_majority,
    voting.root_without_prepare,
    voting.adopt_own_head,
    voting.two_voters_at_once,
    counting.double_merge,
    counting.resend_after_send,
    counting.late_partial_forwarded,
    counting.handed_to_a_stranger,
    counting.no_amnesia,
    counting.closed_ignored,
    counting.stale_contribution,
    counting.contributor_forgotten,
    growing.short_path,
    growing.no_fan_out_cap,
)


def _mutant(plant: Plant) -> Mutant:
    """Named after its function, told by its docstring."""
    return Mutant(plant.__name__.replace("_", "-"), (plant.__doc__ or "").strip(), plant)


ALL: dict[str, Mutant] = {mutant.name: mutant for mutant in map(_mutant, _PLANTS)}
