"""Planted protocol bugs, each of which the checkers must find: who checks the checkers.

A mutant replaces one method (or a small group of them) of the real machines by what a tired programmer might have
written.  If a hundred seeds of heavy weather do not show it, either the checkers are blind or the rule that it breaks
is not needed.
"""

from __future__ import annotations

from . import believing, blaming, counting, growing, keeping, patience, ringing, telling, voting
from .planting import (
    Hunt,
    Mutant,
    Plant,
    Weather,
    desertion,
    drizzle,
    hunt,
    lies,
    revolving,
    siege,
    skew,
    storm,
    strictly,
)  # fmt: skip

__all__ = [
    "ALL",
    "WEATHERS",
    "Hunt",
    "Mutant",
    "desertion",
    "drizzle",
    "hunt",
    "lies",
    "revolving",
    "siege",
    "skew",
    "storm",
    "strictly",
]

_STORM: tuple[Plant, ...] = (
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
    counting.closed_ignored,
    counting.stale_contribution,
    counting.contributor_forgotten,
    growing.no_fan_out_cap,
    keeping.server_state_lost,
    patience.contributors_truncated,
    ringing.suspicion_never_ends,
    blaming.sleeper_blamed,
    blaming.epochs_skipped,
)
"""Looked for where everything goes wrong."""

_DRIZZLE: tuple[Plant, ...] = (
    growing.short_path,
    growing.stale_path,
    keeping.accepted_without_model,
    keeping.code_kept_at_home_alone,
    keeping.dead_voters_stay,
    keeping.stop_kept_to_the_tree,
    patience.deadline_ignored,
    patience.no_grace,
    patience.one_wave_only,
    patience.nobody_is_gathered,
    ringing.leaf_set_never_repaired,
)
"""Looked for where nodes die and the network is calm, so that it can be said what ought to have been done."""

_SKEW: tuple[Plant, ...] = (
    telling.skew_is_believed,
    telling.rim_is_blamed,
    telling.unfit_is_dropped,
    telling.nobody_stands_in,
)
"""Looked for where clocks are wrong, and the nodes nearest to an id are of no use."""

_LIES: tuple[Plant, ...] = (
    believing.blame_without_proof,
    believing.uninvited_accept_believed,
    believing.every_key_is_a_member,
    believing.join_in_anothers_name,
    believing.place_for_a_carried_join,
    believing.forgers_unblamed,
)
"""Looked for among liars."""


_SIEGE: tuple[Plant, ...] = (voting.promise_taken_back, voting.root_forgotten_at_restart)
"""Looked for among liars while nodes die."""

_REVOLVING: tuple[Plant, ...] = (counting.no_amnesia, patience.child_lost_with_its_partial)
"""Looked for where nodes that die are back before the wave is over."""

_DESERTION: tuple[Plant, ...] = (patience.evaluated_by_nobody,)
"""Looked for where the one node that could do the work is away."""

_QUICK: dict[str, tuple[int, ...]] = {
    "lost-candidate": (20,),
    "short-path": (4,),
    "stale-path": (4,),
    "accepted-without-model": (4,),
    "dead-voters-stay": (16,),
    "stop-kept-to-the-tree": (7,),
    "deadline-ignored": (4,),
    "no-grace": (4,),
    "one-wave-only": (4,),
    "leaf-set-never-repaired": (9,),
    "no-amnesia": (1,),
    "child-lost-with-its-partial": (5,),
    "no-epoch-fence": (10,),
    "accept-from-anyone": (10,),
    "adopt-own-head": (10,),
}
"""Seeds that have caught a bug which needs many.  When the protocol changes they mean nothing, and cost little."""

WEATHERS: dict[str, Weather] = {
    weather.__name__: weather for weather in (storm, drizzle, skew, revolving, lies, desertion, siege)
}


def _mutant(plant: Plant, weather: Weather) -> Mutant:
    """Named after its function, told by its docstring."""
    name = plant.__name__.replace("_", "-")
    return Mutant(name, (plant.__doc__ or "").strip(), plant, weather, _QUICK.get(name, ()))


ALL: dict[str, Mutant] = {
    mutant.name: mutant
    for plants, weather in (
        (_STORM, storm),
        (_DRIZZLE, drizzle),
        (_SKEW, skew),
        (_REVOLVING, revolving),
        (_LIES, lies),
        (_DESERTION, desertion),
        (_SIEGE, siege),
    )
    for mutant in (_mutant(plant, weather) for plant in plants)
}
