"""Contacts that outlive a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.contacts import MAX_REMEMBERED, load_contacts, save_contacts
from node.statedir import StateDir
from protocol.errors import ConfigError
from protocol.messages import Contact


def test_dialable_contacts_are_remembered_up_to_a_bound(tmp_path: Path) -> None:
    state = StateDir.create(tmp_path / "state")
    assert load_contacts(state) == ()
    contacts = [Contact(number.to_bytes(16, "big"), (f"192.0.2.1:{number}",), number) for number in range(1, 100)]
    save_contacts(state, [Contact(bytes(16)), *contacts])
    assert load_contacts(state) == tuple(contacts[:MAX_REMEMBERED])


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xdc\xff\xff", b"\x91\x90"])
def test_a_corrupt_file_is_named_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    state = StateDir.create(tmp_path / "state")
    state.contacts.write_bytes(content)
    with pytest.raises(ConfigError, match="contacts is corrupt") as caught:
        load_contacts(state)
    assert "delete" in caught.value.remedy
