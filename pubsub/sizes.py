"""How large may an artifact be that somebody names?

Whoever names an artifact says how large it is, and to bring it here may push others out of the store.  So its size is
compared, before a transfer begins, with the one size that an application's owner has signed: that of its initial
model.  Models and sums of updates have the same tensors, so they have the same size but for the text of their headers;
the state of a server has a few numbers for each of the model's, one for momentum, two for an optimiser like Adam.
Contributors, their statements and metrics ride in messages, which have limits of their own, and name no artifact.

What the descriptor itself names is bounded where descriptors are read (``fl.spec``).
"""

from __future__ import annotations

from protocol.messages import Value

from .heads import Head

FACTOR = 4
"""Sizes of the initial model that a model, a sum of updates or a server's state may have."""

SLACK = 1 << 20
"""Bytes beyond that: headers, and state that does not grow with the model."""


def limit(initial: Value) -> int:
    """Bytes that any artifact of an application may have which begins with ``initial``."""
    return FACTOR * initial.size + SLACK


def bounded(head: Head, most: int) -> bool:
    """Are the values of ``head`` within ``most`` bytes each?"""
    return max(head.model.size, head.state.size) <= most
