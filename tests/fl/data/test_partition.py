"""Shares are disjoint, complete, deterministic, and never empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.data import partition
from protocol.errors import ConfigError


def check(shares: list[partition.Indices], samples: int, parts: int) -> None:
    assert len(shares) == parts
    assert np.sort(np.concatenate(shares)).tolist() == list(range(samples))
    assert min(share.size for share in shares) >= partition.MINIMUM


@given(st.integers(1, 20), st.integers(0, 100), st.integers(0, 2**32))
def test_iid_shares_differ_by_one_at_most(parts: int, extra: int, seed: int) -> None:
    samples = 2 * parts + extra
    shares = partition.iid(samples, parts, seed)
    check(shares, samples, parts)
    assert max(share.size for share in shares) - min(share.size for share in shares) <= 1


@given(st.integers(1, 20), st.integers(0, 200), st.sampled_from([1e-4, 0.05, 0.3, 1.0, 100.0]), st.integers(0, 2**32))
def test_dirichlet_shares_are_complete_and_none_is_poor(parts: int, extra: int, alpha: float, seed: int) -> None:
    labels = np.arange(2 * parts + extra) % 7
    check(partition.dirichlet(labels, parts, alpha, seed), labels.size, parts)


def test_shares_are_the_same_everywhere_and_for_ever() -> None:
    labels = np.arange(40) % 4
    assert [share.tolist() for share in partition.dirichlet(labels, 3, 0.5, 1)] == [
        share.tolist() for share in partition.dirichlet(labels, 3, 0.5, 1)
    ]
    # Nodes with other versions of numpy must agree on these.
    assert partition.iid(10, 3, 7)[0].tolist() == IID
    assert partition.dirichlet(labels, 3, 0.5, 1)[0].tolist() == DIRICHLET
    assert partition.hold_out(20, 0.2, 3)[1].tolist() == HELD_OUT


IID = [1, 3, 6, 9]
DIRICHLET = [0, 2, 6, 8, 10, 14, 18, 21, 22, 28, 38]
HELD_OUT = [0, 1, 11, 19]


def test_skew_follows_alpha() -> None:
    labels = np.arange(1000) % 10

    def skew(alpha: float) -> float:
        shares = partition.dirichlet(labels, 10, alpha, 0)
        return float(np.mean([np.bincount(labels[share], minlength=10).max() / share.size for share in shares]))

    assert skew(0.1) > 0.5 > 0.3 > skew(1000.0)


@given(st.integers(1, 50), st.floats(0, 1))
def test_something_is_held_out_and_something_kept(samples: int, share: float) -> None:
    kept, held = partition.hold_out(samples, share, 0)
    assert np.sort(np.concatenate([kept, held])).tolist() == list(range(samples))
    assert kept.size >= 1
    assert (held.size >= 1) == (share > 0 and samples > 1)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 samples cannot be shared by 3 nodes"):
        partition.iid(5, 3, 0)
    with pytest.raises(ConfigError, match="cannot be shared"):
        partition.dirichlet(np.zeros(5, int), 3, 0.5, 0)
