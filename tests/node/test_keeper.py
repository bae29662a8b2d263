"""Book-keeping beside the core: models kept, nodes cut off, contacts remembered, a disk that fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dht.records import Kind, sign_record
from fl import spec as specs
from fl.notices import Publish, RecordChanged, Refuse, RoundCommitted, StatusChanged
from fl.spec import AppSpec
from node.artifacts import ArtifactStore
from node.config import WorkerSection
from node.contacts import load_contacts
from node.identity.revocation import LIFE, revoke
from node.journal import Journal
from node.keeper import Keeper
from node.statedir import StateDir
from node.supervisor import Supervisor
from node.workers import WorkerPool
from protocol.errors import StorageError
from protocol.ids import blob_id
from protocol.messages import Contact, Value
from pubsub.heads import Head

from .identity.lab import Lab

NOW = int(time.time())


class Notes:
    """A disk that can be made to fail."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.full = False

    async def write(self, batch: Mapping[str, bytes | None]) -> None:
        if self.full:
            raise StorageError("the disk is full")
        self.held.update({key: value for key, value in batch.items() if value is not None})


class Daemon:
    """What a keeper uses of a daemon."""

    def __init__(self, directory: Path) -> None:
        self.artifacts = ArtifactStore(directory)
        self.artifacts.open()
        self.supervisor = Supervisor()
        self.commands: list[Any] = []
        self.revoked: list[bytes] = []

    def command(self, request: Any) -> None:
        self.commands.append(request)

    def revoke(self, peer: bytes) -> None:
        self.revoked.append(peer)


class Scene:
    def __init__(self, directory: Path) -> None:
        self.lab = Lab(NOW)
        self.now = NOW
        self.daemon, self.notes = Daemon(directory / "artifacts"), Notes()
        self.state = StateDir.create(directory / "state")
        self.neighbours: tuple[Contact, ...] = ()
        self.retold: list[int] = []
        self.membership = self.lab.membership()
        self.journal = Journal({}, lambda: float(self.now))
        daemon: Any = self.daemon
        notes: Any = self.notes
        desk: Any = object()
        self.keeper = Keeper(
            daemon,
            self.journal,
            notes,
            state=self.state,
            membership=self.membership,
            desk=desk,
            workers=WorkerPool(WorkerSection(), {}, directory / "workers"),
            neighbours=lambda: self.neighbours,
            document_changed=lambda: self.retold.append(self.membership.document.serial),
            unix_time=lambda: self.now,
        )

    async def feed(self, *notices: object) -> None:
        for notice in notices:
            await self.keeper._note(notice)

    def pinned(self) -> set[bytes]:
        return set(self.daemon.artifacts._pins)


def play(directory: Path, story: Callable[[Scene], Awaitable[None]]) -> Scene:
    async def run() -> Scene:
        scene = Scene(directory)
        try:
            await story(scene)
        finally:
            await scene.daemon.supervisor.close()
            scene.daemon.artifacts.close()
        return scene

    return asyncio.run(run())


def descriptor(scene: Scene, *, data: str = "", blob: bytes = b"") -> tuple[AppSpec, RecordChanged]:
    home = Contact(scene.membership.node, ("127.0.0.1:1",))
    owner = scene.lab.owner
    bundle = Value(9, blob=blob) if blob else Value(4, b"code")
    spec = AppSpec("digits", owner.public_key, b"", 0, (home,), 9, Value(1, b"m"), home, data=data, bundle=bundle)
    return spec, RecordChanged(sign_record(owner, Kind.APP, spec.id, 1, NOW + 99, specs.encode(spec)))


def committed(spec: AppSpec, number: int, *, finished: bool = False) -> RoundCommitted:
    content = f"m{number}".encode()
    model = Value(len(content), content)
    head = Head(spec.id, 1, number, spec.home, (spec.home,), model, finished=finished)
    return RoundCommitted(spec.id, head, (), {})


def test_the_last_two_models_stay(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        spec, known = descriptor(scene)
        await scene.feed(known, *(committed(spec, number) for number in (1, 2, 3)))
        assert scene.pinned() == {blob_id(b"m2"), blob_id(b"m3")}
        assert await scene.daemon.artifacts.read(blob_id(b"m3")) == b"m3"
        await scene.feed(committed(spec, 4, finished=True))
        assert (tmp_path / "artifacts" / blob_id(b"m4").hex()).stat().st_mode & 0o777 == 0o400

    held = play(tmp_path, story).notes.held
    assert len([key for key in held if key.startswith("round/")]) == 4


def test_what_a_home_must_hand_out_stays_until_the_end(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        spec, known = descriptor(scene, blob=b"b" * 32)
        await scene.feed(known)
        assert scene.pinned() == {b"b" * 32}
        await scene.feed(StatusChanged(spec.id, "stopped"))
        assert scene.pinned() == set()

    play(tmp_path, story)


def test_a_disk_that_fails_costs_notes_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(scene: Scene) -> None:
        spec, known = descriptor(scene)
        scene.notes.full = True
        await scene.feed(known, committed(spec, 1))
        scene.notes.full = False
        await scene.feed(committed(spec, 2))
        assert scene.journal.info(spec.id).round == 2

    with caplog.at_level(logging.WARNING):
        play(tmp_path, story)
    assert "the disk refuses notes: the disk is full" in caplog.text


def test_who_was_revoked_is_cut_off_once(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        subject = scene.lab.member().node
        record = RecordChanged(revoke(scene.lab.owner, subject, NOW))
        await scene.feed(record, record, RecordChanged(revoke(scene.lab.member().key, scene.lab.issuer.node, NOW)))
        assert scene.daemon.revoked == [subject]
        assert subject in scene.keeper.revoked

    play(tmp_path, story)


def test_an_issuer_repeats_revocations_before_they_expire(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        subject = scene.lab.member().node
        await scene.feed(RecordChanged(revoke(scene.lab.owner, subject, NOW)))
        scene.keeper._repeat_revocations()
        assert scene.daemon.commands == []
        scene.now = NOW + LIFE - 3600
        scene.keeper._repeat_revocations()
        (command,) = scene.daemon.commands
        assert isinstance(command, Publish)
        assert command.record.subject == subject

    play(tmp_path, story)


def test_data_that_is_not_bound_is_not_looked_at(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        _, known = descriptor(scene, data="ward")
        await scene.feed(known)
        assert not [command for command in scene.daemon.commands if isinstance(command, Refuse)]

    play(tmp_path, story)


def test_whom_to_dial_is_remembered_when_it_changes(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.keeper.remember_contacts()
        assert load_contacts(scene.state) == ()
        scene.neighbours = (Contact(b"b" * 16, ("h:2",)), Contact(b"a" * 16, ("h:1",)))
        await scene.keeper.remember_contacts()
        assert load_contacts(scene.state) == scene.neighbours[::-1]
        scene.state.contacts.unlink()
        await scene.keeper.remember_contacts()
        assert load_contacts(scene.state) == ()

    play(tmp_path, story)
