"""What an application may ask for is checked alike where it is written, where it is overridden, and on every node."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import fl
from fl import sdk, strategies, validation
from fl.notices import Declined
from protocol.errors import UsageError
from tests.fl.roles import Stage, spec

BAD: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "fedprox"}, "no strategy 'fedprox'"),
    ({"options": {"server_lr": -1.0}}, "server_lr is -1.0"),
    ({"options": {"server_lr": "fast"}}, "server_lr is 'fast'"),
    ({"options": {"server_lr": float("nan")}}, "server_lr is nan"),
    ({"options": {"server_momentum": 1.0}, "strategy": "fedavgm"}, "server_momentum is 1.0"),
    ({"stop": fl.Stop("acc uracy", 3)}, "cannot name a metric"),
    ({"stop": fl.Stop("loss.n", 3)}, "cannot name a metric"),
    ({"stop": fl.Stop("accuracy", 0)}, "patience of 0"),
    ({"stop": fl.Stop("accuracy", 3, -0.1)}, "gain of -0.1"),
    ({"stop": fl.Stop("accuracy", 3, float("nan"))}, "gain of nan"),
    ({"stop": fl.Stop("loss", 3)}, "loss to grow"),
]


@pytest.mark.parametrize(("fields", "sentence"), BAD)
def test_what_cannot_be_is_refused_where_it_is_written(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as raised:
        fl.App(name="shop", model=dict, **fields)
    assert raised.value.remedy


@pytest.mark.parametrize(("fields", "sentence"), BAD)
def test_and_refused_by_name_on_every_node_that_has_data_for_it(fields: dict[str, Any], sentence: str) -> None:
    stage = Stage(**fields).learned()
    (declined,) = stage.said(Declined)
    assert sentence in declined.why
    assert stage.forest.joined == []


def test_sound_policies_meet_no_objection() -> None:
    sound = spec(strategy="fedavgm", options={"server_lr": 1, "note": "x"}, stop=fl.Stop("loss", 3, maximise=False))
    assert validation.objection(sound) == ""


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("strategy=fedprox", "no strategy"),
        ("server_lr=-1", "server_lr"),
        ("lr=-0.1", "lr is -0.1"),
        ("batch_size=0", "batch_size is 0"),
        ("momentum=1.0", "momentum is 1.0"),
        ("stop.patience=0", "patience of 0"),
        ("stop.patience=soon", "not a int"),
        ("stop.metric=a b", "cannot name"),
        ("stop=now", "not how to stop"),
    ],
)
def test_settings_of_the_command_line_are_checked_alike(setting: str, sentence: str) -> None:
    app = fl.App(name="shop", model=dict, stop=fl.Stop("accuracy", 3))
    with pytest.raises(UsageError, match=sentence):
        app.override([setting])


def test_an_own_training_loop_may_mean_something_else_by_its_options() -> None:
    assert fl.App(name="shop", model=dict, train=lambda *_: None, options={"lr": "warm-up"}).options == {
        "lr": "warm-up"
    }


def test_early_stopping_can_be_set() -> None:
    app = fl.App(name="shop", model=dict, stop=fl.Stop("accuracy", 3))
    assert app.override(["stop.patience=9", "stop.delta=1"]).stop == fl.Stop("accuracy", 9, 1.0)
    assert app.override(["stop=none"]).stop is None
    plain = fl.App(name="shop", model=dict)
    assert plain.override(["stop.metric=accuracy"]).stop == fl.Stop("accuracy")
    assert plain.override(["stop.metric=val_loss", "stop.patience=2"]).stop == fl.Stop("val_loss", 2, maximise=False)
    with pytest.raises(UsageError, match="nothing says what to look at"):
        plain.override(["stop.patience=2"])


def test_a_metric_that_nobody_reports_is_named_with_those_that_are() -> None:
    rule = fl.Stop("acc", 3)
    assert validation.reported(rule, ["loss", "accuracy"]) == (
        "stop looks at acc, which nobody reports: there is accuracy, loss"
    )
    assert validation.reported(rule, ["acc"]) == ""
    assert validation.reported(None, ["loss"]) == ""
    assert validation.reported(rule, []) == "", "nothing is known before anything is reported"


def test_every_strategy_can_be_made_and_every_option_of_it_is_known() -> None:
    for name, keys in validation.STRATEGIES.items():
        assert strategies.create(name, {}).keeps_state in (True, False)
        assert set(keys) <= set(sdk.KNOWN_OPTIONS)
    assert set(validation.TRAINING_OPTIONS) | {"server_lr", "server_momentum"} == set(sdk.KNOWN_OPTIONS)


def test_the_descriptor_bounds_the_name_of_a_metric() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(["m" * 65, 3], fl.Stop)
