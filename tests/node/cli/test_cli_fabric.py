"""init, invite, join, leave, revoke."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fl.data.binding import Binding
from node.config import load
from node.identity.membership import Membership
from node.statedir import StateDir

from ..fake_service import FakeService
from .conftest import Cli


def test_init_founds_a_fabric(cli: Cli) -> None:
    result = cli("init", "clinic", "--listen", "127.0.0.1:0", "--node-name", "ward-3")
    assert result.code == 0
    membership = Membership.load(StateDir.open(cli.state), 2_000_000_000)
    assert membership.document.name == "clinic"
    assert result.lines[0] == f"founded fabric clinic with node {membership.node.hex()[4:12]}"
    assert result.err.endswith(f"next: mycelia -C {cli.state} up\n")
    assert stat.S_IMODE((cli.state / "owner.key").stat().st_mode) == 0o600
    config = load(cli.state, None, {})
    assert (config.node.name, config.node.listen) == ("ward-3", "127.0.0.1:0")


def test_init_for_programs(cli: Cli) -> None:
    answer = cli("init", "clinic", "--json").json
    assert answer["fabric"] == "clinic"
    assert len(bytes.fromhex(answer["node"])) == 16
    assert answer["config"] == str(cli.state / "config.toml")


def test_init_never_overwrites_an_identity(cli: Cli) -> None:
    cli("init", "clinic")
    before = (cli.state / "node.key").read_bytes()
    result = cli("init", "other")
    assert result.code == 2
    assert "already belongs to fabric 'clinic'" in result.err
    assert (cli.state / "node.key").read_bytes() == before


def test_a_name_that_cannot_be(cli: Cli) -> None:
    result = cli("init", "x" * 41)
    assert (result.code, result.out) == (2, "")
    assert "cannot name a fabric" in result.err


def test_a_directory_of_other_things_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    result = cli("init", "clinic", state=tmp_path)
    assert result.code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("bind", "binding"),
    [
        ("d=digits", Binding(kind="digits")),
        ("d=digits:1/3", Binding(kind="digits", partition="iid", part=1, parts=3)),
        ("d=w.csv", Binding(kind="csv", path="w.csv")),
        ("d=w.csv:out come", Binding(kind="csv", path="w.csv", target="out come")),
        ("d=w.npz", Binding(kind="npz", path="w.npz")),
    ],
)
def test_data_bound_on_the_command_line_ends_up_in_the_file(
    cli: Cli, tmp_path: Path, bind: str, binding: Binding
) -> None:
    if binding.path:
        (tmp_path / binding.path).touch()
    assert cli("init", "clinic", "--bind", bind).code == 0
    bound = load(cli.state, None, {}).data["d"]
    if binding.path:
        assert bound.path == str(tmp_path / binding.path)
    assert (bound.kind, bound.target, bound.partition) == (binding.kind, binding.target, binding.partition)
    assert (bound.part, bound.parts) == (binding.part, binding.parts)


@pytest.mark.parametrize("bind", ["d=absent.csv", "d=absent.npz", "d=absent.csv:outcome"])
def test_a_file_that_is_not_there_is_refused_at_once(cli: Cli, bind: str) -> None:
    result = cli("init", "clinic", "--bind", bind)
    assert result.code == 2
    assert "there is no file" in result.err
    assert not (cli.state / "node.key").exists()


@pytest.mark.parametrize(
    ("bind", "sentence"),
    [
        ("digits", "--bind digits is not NAME=DATA"),
        ("a b=w.csv", "--bind a b=w.csv is not NAME=DATA"),
        ("d=digits:3/3", "--bind d=digits:3/3: 3/3 is not a share of the digits"),
        ("d=w.xls", "--bind d=w.xls: w.xls is neither a .csv nor an .npz file nor digits"),
    ],
)
def test_a_binding_that_cannot_be(cli: Cli, bind: str, sentence: str) -> None:
    result = cli("init", "clinic", "--bind", bind)
    assert result.code == 2
    assert result.err.startswith(f"error: {sentence}. try: for example --bind ward=ward.csv:outcome")
    assert not (cli.state / "fabric").exists()


def test_a_configuration_that_exists_is_the_operators(cli: Cli) -> None:
    StateDir.create(cli.state)
    (cli.state / "config.toml").write_text('[node]\nname = "mine"\n')
    result = cli("init", "clinic", "--listen", "127.0.0.1:0")
    assert result.code == 2
    assert "config.toml exists, so --listen would not count" in result.err
    assert cli("init", "clinic").code == 0
    assert load(cli.state, None, {}).node.name == "mine"


def test_a_command_that_is_repeated_writes_the_same_file(cli: Cli) -> None:
    options = ("--listen", "127.0.0.1:0", "--bind", "d=digits")
    assert cli("join", "mycelia1.AAAA", *options).code == 2
    assert cli("init", "x" * 41, *options).code == 2
    assert cli("init", "clinic", *options).code == 0


def test_the_starter_file_explains_itself(cli: Cli) -> None:
    cli("init", "clinic")
    text = (cli.state / "config.toml").read_text()
    assert "mycelia config reference" in text
    assert "# [data.ward]" in text


def test_invite_prints_the_token_alone(cli: Cli, service: FakeService) -> None:
    result = cli("invite", "--hours", "0.5")
    assert result.out == "myc1-token\n"
    assert "admits one node, once" in result.err
    assert service.calls == [("invite", 1800)]
    assert cli("invite", "--json").json["token"] == "myc1-token"


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "1e9"])
def test_an_invitation_has_a_sensible_life(cli: Cli, hours: str) -> None:
    result = cli("invite", "--hours", hours)
    assert result.code == 2
    assert "an invitation cannot last" in result.err


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("hello", "this is not an invitation: it does not begin with 'mycelia1.'"),
        ("mycelia1.AAAA", "this invitation is damaged"),
        ("mycelia9.AAAA", "this invitation has a format that this version does not read"),
    ],
)
def test_a_token_that_is_none(cli: Cli, token: str, sentence: str) -> None:
    result = cli("join", token)
    assert result.code == 2
    assert result.err.startswith(f"error: {sentence}. try:")
    assert not cli.state.exists()


def test_leave_asks_twice(cli: Cli, daemon_process: FakeService) -> None:
    result = cli("leave")
    assert result.code == 2
    assert daemon_process.calls == []
    assert cli("leave", "--yes").out == "left the fabric; the daemon has ended\n"
    assert daemon_process.calls == [("status",), ("leave",)]


def test_revoke(cli: Cli, service: FakeService) -> None:
    assert cli("revoke", "2222").out == "revoked node 22222222\n"
    assert service.calls == [("revoke", "2222")]
    assert cli("revoke", "2222", "--json").json == {"revoked": "22" * 16}
