"""The systemd unit: what keeps a node running whatever ends it."""

from __future__ import annotations

from pathlib import Path

UNIT = Path(__file__).resolve().parents[1] / "deploy" / "mycelia.service"


def settings() -> dict[str, str]:
    lines = [line.strip() for line in UNIT.read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def seconds(time: str) -> float:
    for unit, factor in (("min", 60), ("s", 1)):
        if time.endswith(unit):
            return float(time.removesuffix(unit)) * factor
    return float(time)


def test_a_crash_loop_backs_off_and_never_gives_up() -> None:
    unit = settings()
    assert unit["Restart"] == "on-failure"
    assert unit["StartLimitIntervalSec"] == "0"
    assert "StartLimitBurst" not in unit
    assert int(unit["RestartSteps"]) >= 5
    assert 1 <= seconds(unit["RestartSec"]) < 10 < seconds(unit["RestartMaxDelaySec"]) <= 600


def test_what_stays_wrong_is_not_tried_again() -> None:
    assert settings()["RestartPreventExitStatus"] == "3"


def test_there_are_descriptors_for_members_and_strangers() -> None:
    assert int(settings()["LimitNOFILE"]) >= 65536
