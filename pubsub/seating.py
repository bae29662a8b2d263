"""Which voters the next head is to have: one step at a time towards a full set of live ones."""

from __future__ import annotations

from protocol.ids import AppId, NodeId
from protocol.messages import Contact

from .ports import Overlay
from .proofs import majority
from .tally import ids


def next_voters(app: AppId, voters: tuple[Contact, ...], size: int, me: NodeId, ring: Overlay) -> tuple[Contact, ...]:
    """The closest live node is added while there are fewer than ``size``, or a dead voter removed.

    Never towards a set without a live majority: once a single voter has accepted such a head nobody can decide anything
    any more, although a majority of the old set may come back.
    """
    alive = {voter.id: True for voter in voters if voter.id == me or ring.alive(voter.id)}
    changed = voters
    if len(voters) < size:
        seats = ids(voters)
        fresh = [contact for contact in ring.closest(app, 2 * len(voters) + 2) if contact.id not in seats]
        changed = (*voters, *fresh[:1])
        alive.update((contact.id, True) for contact in fresh[:1])
    elif len(alive) < len(voters):
        dead = next(voter for voter in voters if voter.id not in alive)
        changed = tuple(voter for voter in voters if voter is not dead)
    return changed if majority(ids(changed), alive) else voters
