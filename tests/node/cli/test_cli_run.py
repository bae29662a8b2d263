"""run and stop APP: what is signed, what is shown, how it ends."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import msgspec
import pytest

from dht import records
from dht.messages import Record
from dht.records import Kind
from fl import bundle, spec
from fl.sdk import App, outline
from node.cli.follow import CsvLog, RoundTable
from node.cli.output import Output
from node.cli.submit import versions_before
from node.identity.keys import Ed25519Verifier, Key
from node.service import AppInfo, LaggedEvent, RoleEvent, RoundEvent, StatusEvent, TroubleEvent, TroubleInfo
from protocol.errors import ConfigError, UsageError

from ..fake_service import APP, EVENTS, HOME, FakeService
from .conftest import Cli

FILE = """
import helper
import fl

app = fl.App(name="digits", model=dict)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("x = 1\n")
    path = tmp_path / "digits.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def member(cli: Cli, service: FakeService) -> FakeService:
    """A state directory that founded a fabric, with a daemon."""
    assert cli("init", "clinic").code == 0
    return service


def submitted(service: FakeService) -> Record:
    (record,) = [call[1] for call in service.calls if call[0] == "submit"]
    assert isinstance(record, Record)
    return record


def test_a_run_is_shown_round_by_round(cli: Cli, member: FakeService, file: Path) -> None:
    result = cli("run", str(file))
    assert result.code == 0
    assert result.lines[0].split() == ["round", "nodes", "loss", "accuracy", "time"]
    assert [line.split()[:4] for line in result.lines[1:]] == [
        ["1/3", "2", "1", "0.6"],
        ["2/3", "2", "0.5", "0.7"],
        ["3/3", "2", "0.3333", "0.8"],
    ]
    assert "started: 3 rounds on data 'digits'" in result.err
    assert "finished\n" in result.err


def test_the_descriptor_is_signed_by_the_owner_and_names_its_voters(cli: Cli, member: FakeService, file: Path) -> None:
    cli("run", str(file))
    record, owner = submitted(member), Key.load(cli.state / "owner.key")
    assert record.kind == Kind.APP
    assert record.signer == owner.public_key
    assert records.verify(record, Ed25519Verifier())
    app = spec.decode(record.body)
    assert (app.id, app.owner, app.home) == (record.subject, owner.public_key, HOME)
    assert len(app.voters) == 5
    assert ("voters_for", app.id, 5) in member.calls


def test_what_the_file_imports_goes_along(cli: Cli, member: FakeService, file: Path) -> None:
    cli("run", str(file))
    code = bundle.decode(spec.decode(submitted(member).body).bundle.inline)
    assert (code.entry, list(code.modules)) == ("digits", ["digits", "helper"])


def test_two_runs_are_two_applications(cli: Cli, member: FakeService, file: Path) -> None:
    cli("run", str(file))
    first = submitted(member).subject
    member.calls.clear()
    cli("run", str(file))
    assert submitted(member).subject != first


def test_settings_reach_the_application(cli: Cli, member: FakeService, file: Path) -> None:
    cli("run", str(file), "--set", "lr=0.1", "--rounds", "7", "--continue-from", "digits@20")
    assert ("prepare", ["lr=0.1", "rounds=7"], "digits@20") in member.calls


def test_a_run_can_have_its_own_name(cli: Cli, member: FakeService, file: Path) -> None:
    cli("run", str(file), "--name", "night")
    assert spec.decode(submitted(member).body).name == "night"
    result = cli("run", str(file), "--name", "x" * 65)
    assert (result.code, "cannot name an application" in result.err) == (2, True)


def test_detached_it_prints_the_id(cli: Cli, member: FakeService, file: Path) -> None:
    result = cli("run", str(file), "--detach")
    assert result.out == submitted(member).subject.hex() + "\n"
    assert not [call for call in member.calls if call[0] == "follow"]


def test_for_programs_every_event_is_a_line(cli: Cli, member: FakeService, file: Path) -> None:
    events = [json.loads(line) for line in cli("run", str(file), "--json").lines]
    assert [event["type"] for event in events] == ["round", "round", "round", "status"]
    assert events[2]["metrics"]["accuracy"] == pytest.approx(0.8)


def test_metrics_as_csv(cli: Cli, member: FakeService, file: Path, tmp_path: Path) -> None:
    cli("run", str(file), "--csv", "rounds.csv")
    with (tmp_path / "rounds.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["round"] for row in rows] == ["1", "2", "3"]
    assert (rows[0]["contributors"], rows[0]["loss"], rows[1]["seconds"]) == ("2", "1.0", "1.0")


def test_metrics_that_come_late_become_columns(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "m.csv")
    assert isinstance(EVENTS[0], RoundEvent)
    for number, metrics in ((1, {"loss": 1.0}), (2, {"loss": 0.5, "accuracy": 0.9}), (3, {})):
        event = RoundEvent(
            app="a",
            round=number,
            epoch=1,
            contributors=[],
            weight=1.0,
            metrics=metrics,
            closing=False,
            model="",
            at=0.0,
        )
        log.add(event, 0.1)
    with (tmp_path / "m.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["loss"], row["accuracy"]) for row in rows] == [("1.0", ""), ("0.5", "0.9"), ("", "")]


def test_a_run_that_does_not_finish_fails(cli: Cli, member: FakeService, file: Path) -> None:
    member.events = [*EVENTS[:1], StatusEvent(app="digits", status="stopped", detail="by its owner")]
    result = cli("run", str(file))
    assert result.code == 9
    assert "the application did not finish, it is stopped: by its owner. try:" in result.err


def test_what_user_code_does_wrong_is_one_sentence(cli: Cli, member: FakeService, file: Path) -> None:
    member.prepare_error = UsageError("digits.py, line 5: model() raised ValueError: no", "mend it")
    result = cli("run", str(file))
    assert result.code == 2
    assert result.err.endswith("error: digits.py, line 5: model() raised ValueError: no. try: mend it\n")


def test_a_file_that_is_none(cli: Cli, member: FakeService, tmp_path: Path) -> None:
    assert "cannot read" in cli("run", "absent.py").err
    (tmp_path / "torn.py").write_text("def model(:\n")
    result = cli("run", "torn.py")
    assert result.code == 2
    assert "torn.py, line 1: invalid syntax" in result.err


def test_without_the_owner_key_the_remedy_is_to_name_it(
    cli: Cli, member: FakeService, file: Path, tmp_path: Path
) -> None:
    (cli.state / "owner.key").unlink()
    result = cli("run", str(file))
    assert result.code == 2
    assert "the owner key of fabric clinic, which `mycelia init` made, is not here. try: --owner-key FILE" in result.err
    other = Key.generate()
    other.save(tmp_path / "mine.key")
    assert cli("run", str(file), "--owner-key", "mine.key").code == 0
    assert submitted(member).signer == other.public_key


def test_the_founders_other_nodes_find_the_key(
    cli: Cli, member: FakeService, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Key.load(cli.state / "owner.key")
    # As another node of this user: the fabric's document, and no key beside it.
    other = tmp_path / "other"
    cli("init", "elsewhere", state=other)
    (other / "owner.key").unlink()
    (other / "fabric").write_bytes((cli.state / "fabric").read_bytes())
    (other / "control.sock").symlink_to(cli.state / "control.sock")
    assert cli("run", str(file), state=other).code == 0
    assert submitted(member).signer == owner.public_key
    monkeypatch.setenv("MYCELIA_OWNER_KEY", str(tmp_path / "nowhere.key"))
    result = cli("run", str(file), state=other)
    assert result.code == ConfigError.exit_code
    assert "nowhere.key is missing" in result.err


def test_stop_is_an_order_of_the_owner(cli: Cli, member: FakeService) -> None:
    result = cli("stop", "digits")
    assert (result.code, result.out) == (0, "stopped digits after round 2\n")
    (order,) = [call[1] for call in member.calls if call[0] == "stop"]
    assert (order.kind, order.subject.hex()) == (Kind.STOP, APP.id)
    assert records.verify(order, Ed25519Verifier())
    result = cli("stop", "nothing")
    assert (result.code, result.err) == (2, "error: this node knows no application nothing. try: see `mycelia ls`\n")


def test_news_are_told_and_commonplaces_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    table = RoundTable(Output(sys.stdout, sys.stderr), 3, 0.0)
    table.show(RoleEvent(app="a", role="root", parent="", depth=0, children=[]))
    for status in ("known", "running", "stalled", "running", "finished"):
        table.show(StatusEvent(app="a", status=status))
    table.show(LaggedEvent(app="a", missed=3))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "stalled",
        "running",
        "finished",
        "3 events were missed; `mycelia ls a` shows where it is",
    ]


def test_simulated_nodes_need_no_daemon(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def run(app: object, shares: list[object], say: object) -> object:
        seen.extend([app, len(shares)])
        return type("Emulated", (), {"rounds": [1, 2], "metrics": {"loss": 0.5}, "nodes": (b"a",) * len(shares)})

    monkeypatch.setattr("simulations.emulate.run", run)
    (tmp_path / "app.py").write_text('import fl\napp = fl.App(name="digits", model=dict, rounds=9)\n')
    result = cli("run", "app.py", "--simulate", "4", "--rounds", "2", "--json")
    assert result.json == {"rounds": 2, "metrics": {"loss": 0.5}, "nodes": 4}
    assert getattr(seen[0], "rounds", None) == 2
    (tmp_path / "ward.py").write_text('import fl\napp = fl.App(name="ward", model=dict)\n')
    assert "there is no built-in data called 'ward'" in cli("run", "ward.py", "--simulate", "4").err
    assert "--detach needs a fabric" in cli("run", "app.py", "--simulate", "4", "--detach").err


TROUBLE = TroubleInfo(
    node="22" * 16, name="ward-2", kind="failed", round=1, sentence="train() failed", trace="KeyError: 1"
)


def test_a_run_of_which_nobody_is_left_is_stopped_and_has_its_own_exit_code(
    cli: Cli, member: FakeService, file: Path
) -> None:
    member.events = [
        TroubleEvent(app="digits", trouble=TROUBLE),
        StatusEvent(app="digits", status="failing", detail="0 of 1 workers are there"),
        StatusEvent(app="digits", status="finished"),
    ]
    result = cli("run", str(file))
    assert result.code == 10
    assert "node ward-2 fails in round 1: train() failed\n    KeyError: 1\n" in result.err
    assert "nobody is left who could train digits: 0 of 1 workers are there" in result.err
    assert [call[0] for call in member.calls][-1] == "stop"
    member.calls.clear()
    assert cli("run", str(file), "--wait").code == 0
    assert "stop" not in [call[0] for call in member.calls]


def test_whoever_attaches_sees_the_rounds_and_stops_nothing(cli: Cli, member: FakeService, tmp_path: Path) -> None:
    result = cli("attach", "digits", "--csv", "rounds.csv")
    assert result.code == 0
    assert [line.split()[0] for line in result.lines[1:]] == ["1/3", "2/3", "3/3"]
    assert len((tmp_path / "rounds.csv").read_text().splitlines()) == 4
    member.events = [StatusEvent(app="digits", status="failing")]
    assert cli("attach", "digits").code == 10
    assert "stop" not in [call[0] for call in member.calls]


def test_versions_count_on_from_what_the_owner_has_made() -> None:
    prepared = outline(App(name="digits", model=dict))
    mine = AppInfo(id="11" * 16, name="digits", owner="ab" * 32, status="finished", base=10, round=7, rounds=20)
    others = msgspec.structs.replace(mine, owner="cd" * 32, base=500)
    owner = bytes.fromhex("ab" * 32)
    assert versions_before([], owner, prepared) == 0
    assert versions_before([mine, others], owner, prepared) == 17
    running = msgspec.structs.replace(mine, status="running")
    assert versions_before([mine, running], owner, prepared) == 30
    continued = msgspec.structs.replace(prepared, parent_model="digits@40")
    assert versions_before([mine], owner, continued) == 40
    assert versions_before([mine], owner, msgspec.structs.replace(continued, parent_model="ward@99")) == 17
