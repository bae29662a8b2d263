"""status, peers, logs, stop, ls."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from node.cli import nodes
from node.service import AppInfo

from ..fake_service import APP, STATUS, FakeService
from .conftest import Cli


def test_status_for_people(cli: Cli, service: FakeService) -> None:
    result = cli("status")
    assert result.code == 0
    assert result.lines[:4] == [
        "node          ward-3 (00000000)",
        "status        ready",
        "fabric        clinic",
        "member        issuer",
    ]
    assert service.calls == [("status",)]


def test_status_for_programs(cli: Cli, service: FakeService) -> None:
    answer = cli("status", "--json").json
    assert set(answer) == set(STATUS.__struct_fields__)
    assert answer["id"] == STATUS.id


def test_without_a_daemon_the_remedy_is_up(cli: Cli) -> None:
    result = cli("status")
    assert result.code == 8
    assert re.fullmatch(r"error: no daemon answers on \S+control\.sock\. try: start it with `mycelia up`\n", result.err)


def test_peers(cli: Cli, service: FakeService) -> None:
    assert cli("peers").lines == [
        "name    node      link  round trip  violations  addresses",
        "ward-2  22222222  up        1.2 ms           -  192.0.2.2:7447",
        "-       33333333  down           -           3  -",
    ]
    assert [peer["id"][:2] for peer in cli("peers", "--json").json] == ["22", "33"]


def test_no_peers_hints_at_an_invitation(cli: Cli, service: FakeService) -> None:
    service.peer_list = []
    result = cli("peers")
    assert result.out == "no peers yet\n"
    assert result.err == "next: mycelia invite, on the node that founded the fabric\n"


def test_ls(cli: Cli, service: FakeService) -> None:
    assert cli("ls").lines == [
        "application  id        status   round  role here  detail",
        "digits       11111111  running    2/3  root       -",
    ]
    assert cli("ls", "--json").json[0]["name"] == "digits"


def test_ls_one(cli: Cli, service: FakeService) -> None:
    for reference in ("digits", "11111111"):
        lines = cli("ls", reference).lines
        assert lines[0] == "application  digits (11111111)"
        assert f"owner        {APP.owner}" in lines


def test_ls_of_what_is_not_there_or_not_one(cli: Cli, service: FakeService) -> None:
    assert cli("ls", "nothing").err == "error: this node knows no application nothing. try: see `mycelia ls`\n"
    service.apps = [APP, AppInfo(id="44" * 16, name="digits", owner="ab" * 32, status="running", rounds=1)]
    result = cli("ls", "digits")
    assert result.code == 2
    assert result.err == "error: 2 applications are called digits. try: use the id that `mycelia ls` shows\n"


def test_of_two_runs_under_one_name_the_living_one_is_meant(cli: Cli, service: FakeService) -> None:
    service.apps = [AppInfo(id="44" * 16, name="digits", owner="ab" * 32, status="finished", rounds=1), APP]
    assert cli("ls", "digits").lines[0] == "application  digits (11111111)"


def test_what_a_peer_called_itself_cannot_drive_the_terminal(cli: Cli, service: FakeService) -> None:
    service.apps = [AppInfo(id="44" * 16, name="a\x1b[2J\nb", owner="", status="refused", rounds=1, detail="\x07")]
    result = cli("ls")
    assert "\x1b" not in result.out
    assert len(result.lines) == 2


def test_stop_the_daemon(cli: Cli, daemon_process: FakeService) -> None:
    result = cli("stop")
    assert re.match(r"stopped the daemon, process \d+, up \d+ d\n", result.out)
    assert daemon_process.calls == [("status",), ("shutdown",)]
    assert daemon_process.process is not None
    assert daemon_process.process.poll() is not None


def test_a_daemon_that_does_not_end_is_said_so(
    cli: Cli, daemon_process: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "STOP_TIMEOUT_S", 0)
    monkeypatch.setattr(daemon_process, "_end", lambda: None)
    result = cli("stop")
    assert result.code == 4
    assert "has not ended yet. try: look into `mycelia logs`" in result.err


def write_log(cli: Cli, count: int) -> Path:
    file = cli.state / "logs" / "mycelia.log"
    file.parent.mkdir(parents=True)
    with file.open("w") as stream:
        for number in range(count):
            line = {"ts": "2026-01-01T12:00:00Z", "level": "info", "logger": "mycelia.node", "node": "n"}
            stream.write(json.dumps({**line, "app": "ab"[number % 2], "round": None, "msg": f"line {number}"}) + "\n")
        stream.write("not json\n")
    return file


def test_logs_need_no_daemon(cli: Cli) -> None:
    write_log(cli, 100)
    lines = cli("logs", "-n", "3").lines
    assert [line.partition(" INFO ")[2] for line in lines] == ["   node: app=a line 98", "   node: app=b line 99"]
    assert [json.loads(line)["msg"] for line in cli("logs", "-n", "3", "--json").lines] == ["line 98", "line 99"]
    assert len(cli("logs", "-n", "101", "--app", "a").lines) == 50


def test_logs_before_there_are_any(cli: Cli) -> None:
    result = cli("logs")
    assert result.code == 2
    assert result.err.endswith(f"try: the daemon writes it: mycelia -C {cli.state} up\n")


def test_a_revoked_node_says_so_and_how_to_come_back(cli: Cli, service: FakeService) -> None:
    service.state = "revoked"
    result = cli("status")
    assert dict(line.split(maxsplit=1) for line in result.lines)["status"] == "revoked"
    assert "join TOKEN" in result.err
    assert "membership was revoked" in cli("ls").err
    assert cli("status", "--json").json["state"] == "revoked"


@pytest.mark.parametrize(
    "text",
    [
        "[worker]\nthreds = 3\n",
        "[worker\n",
        "this is no TOML at all",
        "[node]\nlisten = 7\n",
        '[log]\nlevel = "loud"\n',
    ],
)
def test_a_mistake_in_the_configuration_blocks_no_look_and_no_stop(
    cli: Cli, daemon_process: FakeService, text: str
) -> None:
    (cli.state / "config.toml").write_text(text)
    for words in (("status",), ("ls",), ("peers",), ("models", "ls"), ("stop",)):
        result = cli(*words)
        assert result.code == 0, words
        assert result.err.rpartition("note: ")[2].startswith(str(cli.state / "config.toml"))
    assert ("shutdown",) in daemon_process.calls
    assert cli("config", "show").code == 3
    assert cli("up").code == 3


def test_lines_about_an_application_are_counted_after_the_others_are_left_out(cli: Cli) -> None:
    file = cli.state / "logs" / "mycelia.log"
    file.parent.mkdir(parents=True)
    lines = [
        {"ts": "2026-01-01T00:00:00.000Z", "level": "info", "logger": "mycelia.node", "app": app, "msg": f"{n}"}
        for n, app in enumerate(["digits"] * 6 + ["ward"] * 50)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = cli("logs", "--app", "digits", "-n", "4").lines
    assert [line.rpartition(" ")[2] for line in shown] == ["2", "3", "4", "5"]
