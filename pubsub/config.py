"""Settings of the forest.  Times in nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

MS = 1_000_000
SECOND = 1_000 * MS


@dataclass(frozen=True, slots=True)
class TreeConfig:
    """One object, shared by all trees of a node (and by all nodes of a simulation)."""

    join_retry: int = 800 * MS
    """How long a join may stay unanswered before the next candidate, or the route, is tried.  Above the round trip of
    a routed join in a wide network, far below what a person would notice."""

    join_backoff: int = 8 * SECOND
    """Upper bound of the doubling pause between routed joins that found no place."""

    join_tries: int = 32
    """Candidates tried in one descent.  A tree of fan-out 4 that is 32 levels deep does not exist; the bound is for
    liars that refuse in circles."""

    join_burst: int = 8
    """Joins of one application that a node answers one peer in quick succession."""

    join_pause: int = 250 * MS
    """Time after which it answers one more.  An honest joiner asks the same node at most twice in ``join_retry``."""

    relay_burst: int = 256
    """Joins that one peer may hand over in quick succession, of whatever joiner and application: as many as reach a
    root by one way when a fabric of a thousand nodes starts at once."""

    relay_pause: int = 16 * MS
    """Time after which it may hand over one more.  To check them costs a node 1 % of its time."""

    joiner_burst: int = 128
    """Joins of one joiner, of whatever application, that a node passes on in quick succession: a node that starts again
    joins all its applications at once."""

    joiner_pause: int = 125 * MS
    """Time after which it passes one more on: an eighth of what a relay may carry."""

    deputy_tries: int = 4
    """Joins for which a node turns to the same deputy, when the node closest to the id does not take the descriptor."""

    deputy_after: int = 8 * SECOND
    """How long a node looks for a place before it turns to a deputy, whatever the closest node says.  Above what an
    honest candidate needs whose voters take 2 s for each write."""

    deputy_pause: int = 4 * SECOND
    """Least time between two such calls: refusals, which anybody may send who was asked, do not make them faster."""

    deputy_patience: int = 30 * SECOND
    """How long a deputy stands in after somebody last asked it to."""

    beat: int = 5 * SECOND
    """Pause between a parent's beats.  Beats repair lost messages; death is detected by the ring's liveness, so they
    may be rare: 5 s costs 24 bytes/s per edge."""

    beat_patience: int = 4
    """Beats that may be missing before a child looks for another parent."""

    leaf_slots: int = 16
    """Children without an address (outbound-only) that a node takes beyond the application's fan-out."""

    answer_wait: int = 700 * MS
    """How long a rendezvous waits for answers about the present root, and a proposer before it repeats itself."""

    repeat_wait: int = 250 * MS
    """Pause before a rendezvous asks again those who still hear a root that it does not hear.  Nodes notice a closed
    socket within some 100 ms of each other, a silence within a second."""

    stall_after: int = 5 * SECOND
    """Without a majority for this long an application is reported ``stalled``."""

    yield_after: int = 15 * SECOND
    """A root without a majority for this long steps down: another node may reach the voters that it cannot."""

    hold_limit: int = 3600 * SECOND
    """How long a root waits for voters that say that the content is on its way to them.  10 GB at 22 Mbit/s."""

    reign_patience: int = 10 * SECOND
    """How long a voter goes on believing in a root that does not say any more that it reigns.  A root that is dead,
    rather than silent about it, is noticed by the ring's liveness."""

    candidacy: int = 3 * SECOND
    """How long a promise binds a voter to a candidate that has not shown yet that it won: four ``answer_wait``."""

    climb: int = 8
    """Epochs that a voter promises to a candidate within one lease, before it has won: the first, and some more to lead
    up to the present one a voter that has missed many."""

    sit_out_limit: int = 20 * SECOND
    """Upper bound of the growing time for which a voter promises nothing to a candidate that won nothing with the
    promises that it got."""

    standing: int = 8
    """A node to which a voter knows this many live nodes that are closer to the application's id may not stand for
    root: views of the ring differ by a few nodes, not by eight."""

    epoch_burst: int = 16
    """Questions for a promise that one candidate may ask a voter in quick succession."""

    epoch_pause: int = 1 * SECOND
    """Time after which it may ask for one more.  An honest candidate pauses longer."""

    retry_limit: int = 8 * SECOND
    """Upper bound of the doubling pause between candidacies."""

    voter_check: int = 4 * SECOND
    """How often a root looks at its voters, asks one of them whether it is still the root, and plans a replacement."""

    grace: int = 500 * MS
    """Least time that is granted to stragglers once a quorum of the answers is in and no history sets a deadline."""

    last_patience: int = 60 * SECOND
    """Least time that is granted to the others once half of the answers, but no quorum, is in and no history sets a
    deadline.  Above what a worker that has not trained before may need longer than others, to import and to load."""

    hop_margin: int = 30 * MS
    """What a node keeps of the time that it hands down, beyond what it needs itself to merge: for the way to a near
    child and back.  Children that are further away teach it by being late."""

    doubt: int = 60 * SECOND
    """How long a child may go on naming contributors of an authority that is not known here.  A newer document of the
    fabric has reached everybody who can be reached by then."""

    deposit_limit: int = 60 * SECOND
    """Upper bound of the doubling pause after which a voter tries again to fetch code or a first model that nobody
    could give it."""

    linger: int = 20 * SECOND
    """How long a member of a finished application stays, so that the news reaches its whole subtree."""
