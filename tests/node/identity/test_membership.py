"""Founding a fabric, joining one, and being the same node after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from node.identity.certificates import verify_chain
from node.identity.fabric import decode_document, is_issuer, sign_document
from node.identity.issuing import LEAF_LIFE
from node.identity.keys import Key
from node.identity.membership import (
    Membership,
    found,
    give_up,
    load_authority,
    load_document,
    node_key,
    require_newcomer,
)
from node.statedir import StateDir
from protocol.errors import AuthError, ConfigError, StorageError, UsageError
from protocol.ids import ring_id
from tests.node.identity.lab import Lab, chain

NOW = 1_800_000_000


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDir]:
    with StateDir.create(tmp_path / "state").locked() as state:
        yield state


def test_the_founder_is_the_first_member_and_issuer(state: StateDir) -> None:
    founded = found(state, "lab", 7, NOW)
    assert founded.node == ring_id(7, founded.key.public_key, founded.key.nonce)
    assert founded.key.nonce
    assert is_issuer(founded.document, founded.node)
    assert founded.document.owner == Key.load(state.owner_key).public_key
    authority = load_authority(state)
    assert authority is not None
    assert founded.document.authorities == (authority.certificate,)
    for path in (state.owner_key, state.authority_key, state.node_key, state.fabric):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_restarted_node_is_the_same_node(state: StateDir) -> None:
    founded = found(state, "lab", 0, NOW)
    loaded = Membership.load(StateDir.open(state.root), NOW + 1000)
    assert (loaded.node, loaded.document, loaded.limits) == (founded.node, founded.document, founded.limits)
    leaf = loaded.credentials().leaf
    assert verify_chain(*chain(leaf), loaded.document.authorities, NOW + 1000) == founded.node


def test_a_fabric_is_founded_once_per_directory(state: StateDir) -> None:
    founded = found(state, "lab", 0, NOW)
    with pytest.raises(UsageError, match="'lab'"):
        found(state, "other", 0, NOW)
    assert Membership.load(state, NOW).node == founded.node


@pytest.mark.parametrize("name", ["", "x" * 41, "a\nb"])
def test_unfit_names_are_refused(state: StateDir, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name"):
        found(state, name, 0, NOW)
    assert not state.is_member


def test_a_join_that_was_cut_off_is_repeated_under_the_same_identity(state: StateDir) -> None:
    lab, key = Lab(NOW), node_key(state)
    assert node_key(state).public_key == key.public_key
    endorsement = lab.authority.endorse(key.public_key, 0, NOW)
    entered = Membership.enter(state, key, endorsement, lab.signed, NOW)
    assert Membership.load(state, NOW).node == entered.node
    assert load_authority(state) is None


def test_what_does_not_fit_together_is_not_entered(state: StateDir) -> None:
    lab, key = Lab(NOW), node_key(state)
    with pytest.raises(AuthError, match="another fabric"):
        Membership.enter(state, key, Lab(NOW).authority.endorse(key.public_key, 0, NOW), lab.signed, NOW)
    with pytest.raises(AuthError, match="another key"):
        Membership.enter(state, key, lab.member().endorsement, lab.signed, NOW)
    assert not state.is_member


def test_the_leaf_is_renewed_when_due_and_others_accept_it(state: StateDir) -> None:
    member = found(state, "lab", 0, NOW)
    first = member.credentials()
    assert not member.renew(NOW + LEAF_LIFE // 2)
    assert member.credentials() is first
    later = NOW + LEAF_LIFE * 3 // 4
    assert member.renew(later)
    leaf = member.credentials().leaf
    assert leaf.key_pem != first.leaf.key_pem
    assert verify_chain(*chain(leaf), member.document.authorities, later + LEAF_LIFE // 2) == member.node


def test_a_newer_document_is_followed_durably_an_older_one_never(state: StateDir) -> None:
    member = found(state, "lab", 0, NOW)
    owner = Key.load(state.owner_key)
    other = Lab(NOW)
    old = member.signed
    newer = msgspec.structs.replace(
        member.document, serial=2, authorities=(*member.document.authorities, other.authority.certificate)
    )
    roots = member.credentials().roots_pem
    assert member.adopt(sign_document(newer, owner), state)
    assert member.credentials().roots_pem.startswith(roots)
    assert len(member.credentials().roots_pem) > len(roots)
    assert load_document(state)[1] == newer
    assert not member.adopt(old, state)
    assert member.document == newer
    with pytest.raises(AuthError):
        member.adopt(other.signed, state)


def test_a_document_that_cannot_be_stored_is_not_followed(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    member = found(state, "lab", 0, NOW)
    newer = msgspec.structs.replace(member.document, serial=2)

    def full(path: Path, content: bytes) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr("node.identity.membership.write_file", full)
    with pytest.raises(StorageError):
        member.adopt(sign_document(newer, Key.load(state.owner_key)), state)
    assert member.document.serial == 1


def test_leaving_is_durable_and_keeps_the_keys(state: StateDir) -> None:
    member = found(state, "lab", 0, NOW)
    give_up(state)
    give_up(state)
    assert not state.is_member
    require_newcomer(state)
    assert node_key(state).public_key == member.key.public_key
    with pytest.raises(ConfigError, match="missing"):
        Membership.load(state, NOW)


def load_all(state: StateDir) -> None:
    Membership.load(state, NOW)
    load_authority(state)


@pytest.mark.parametrize("name", ["node.key", "node.crt", "fabric", "authority.key", "authority.crt"])
@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damaged_files_are_named_with_a_remedy(state: StateDir, name: str, damage: bytes | None) -> None:
    found(state, "lab", 0, NOW)
    path = state.root / name
    if damage is None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x20
        path.write_bytes(bytes(content))
    else:
        path.write_bytes(damage)
    with pytest.raises(ConfigError) as caught:
        load_all(state)
    # A key that was changed into another key shows in the certificate beside it.
    assert str(path.with_suffix("")) in str(caught.value)
    assert caught.value.remedy


def test_files_of_two_nodes_do_not_mix(state: StateDir, tmp_path: Path) -> None:
    found(state, "lab", 0, NOW)
    with StateDir.create(tmp_path / "other").locked() as other:
        found(other, "lab", 0, NOW)
        for name in ("node.key", "node.crt", "fabric"):
            mine = (state.root / name).read_bytes()
            (state.root / name).write_bytes((other.root / name).read_bytes())
            with pytest.raises(ConfigError, match=r"node\.crt"):
                Membership.load(state, NOW)
            (state.root / name).write_bytes(mine)
    Membership.load(state, NOW)


def test_a_wrong_clock_is_named_as_the_likely_cause(state: StateDir) -> None:
    found(state, "lab", 0, NOW)
    with pytest.raises(ConfigError, match="not valid yet") as caught:
        Membership.load(state, 0)
    assert "clock" in caught.value.remedy


def test_the_stored_document_is_what_is_sent(state: StateDir) -> None:
    member = found(state, "lab", 0, NOW)
    assert decode_document(state.fabric.read_bytes()) == member.signed
