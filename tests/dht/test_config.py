"""Configuration that cannot work is refused with a remedy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dht.config import RingConfig
from protocol.errors import ConfigError


@pytest.mark.parametrize(
    "change",
    [{"care_period": 0}, {"join_side": 13}, {"leaf_side": 25}, {"max_hops": 65}, {"watch_patience": 1_600_000_000}],
)
def test_bad_values_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"ring\.") as caught:
        replace(RingConfig.lan(), **change)
    assert caught.value.remedy


def test_presets() -> None:
    assert RingConfig.lan() == RingConfig()
    assert RingConfig.local().care_period < RingConfig.lan().care_period
