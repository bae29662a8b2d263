"""The control socket: calls, streams, who may call, and what a broken caller can do (nothing)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node import control
from node import control_wire as wire
from node.control import ControlServer, NotRunningError, connect, is_running
from node.service import AppInfo, DaemonService, NodeStatus
from protocol.errors import TransportError, UsageError

from .fake_service import APP, EVENTS, STATUS, FakeService

Dialogue = Callable[[DaemonService, FakeService, Path], Awaitable[None]]


@asynccontextmanager
async def daemon(path: Path, service: FakeService | None = None) -> AsyncIterator[tuple[DaemonService, FakeService]]:
    service = service or FakeService()
    server = ControlServer(service, path)
    await server.start()
    try:
        yield connect(path), service
    finally:
        await server.close()


def talk(path: Path, dialogue: Dialogue) -> None:
    async def run() -> None:
        async with daemon(path) as (remote, service):
            await asyncio.wait_for(dialogue(remote, service, path), 30)

    asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "control.sock"


def test_calls_reach_the_service_and_answers_come_back(path: Path) -> None:
    async def dialogue(remote: DaemonService, service: FakeService, _: Path) -> None:
        assert await remote.status() == STATUS
        assert await remote.applications() == [APP]
        assert (await remote.invite(lifetime_s=60)).token == "myc1-token"
        assert service.calls == [("status",), ("invite", 60)]

    talk(path, dialogue)


def test_errors_arrive_with_their_remedy(path: Path) -> None:
    async def dialogue(remote: DaemonService, service: FakeService, __: Path) -> None:
        service.prepare_error = UsageError("model() raised ValueError", "mend it")
        with pytest.raises(UsageError, match="raised ValueError") as caught:
            await remote.prepare(b"code", [], "")
        assert caught.value.remedy == "mend it"

    talk(path, dialogue)


def test_a_stream_ends_by_itself(path: Path) -> None:
    async def dialogue(remote: DaemonService, service: FakeService, _: Path) -> None:
        assert [event async for event in remote.follow("digits")] == service.events

    talk(path, dialogue)


def test_a_caller_who_hangs_up_ends_the_stream_at_the_service(path: Path) -> None:
    async def dialogue(remote: DaemonService, service: FakeService, _: Path) -> None:
        service.endless = True
        events = remote.follow("digits")
        assert await anext(events) == EVENTS[0]
        assert service.followers == 1
        await events.aclose()  # type: ignore[attr-defined]
        await service.ended.wait()
        assert service.followers == 0

    talk(path, dialogue)


def test_artifacts_travel_in_chunks(path: Path) -> None:
    async def dialogue(remote: DaemonService, service: FakeService, __: Path) -> None:
        content = bytes(range(256)) * 20
        name = hashlib.sha256(content).digest()
        service.blobs[name] = content
        assert b"".join([chunk async for chunk in remote.download(name)]) == content

    talk(path, dialogue)


def test_the_socket_is_private(path: Path) -> None:
    def mode(entry: Path) -> int:
        return stat.S_IMODE(entry.stat().st_mode)

    async def dialogue(_: DaemonService, __: FakeService, path: Path) -> None:
        assert (mode(path), mode(path.parent)) == (0o600, 0o700)

    talk(path, dialogue)


def test_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_peer_uid", lambda _: 4242)

    async def dialogue(remote: DaemonService, _: FakeService, __: Path) -> None:
        with pytest.raises(UsageError, match="user 4242 may not control this node"):
            await remote.status()

    talk(path, dialogue)


def test_no_daemon_is_said_so(path: Path) -> None:
    with pytest.raises(NotRunningError, match="no daemon answers") as caught:
        asyncio.run(connect(path).status())
    assert caught.value.remedy == "start it with `mycelia up`"
    assert caught.value.exit_code == 8


def test_a_socket_left_by_a_dead_daemon_is_replaced_and_a_living_one_is_not(path: Path) -> None:
    async def run() -> None:
        async with daemon(path):
            assert await is_running(path)
            with pytest.raises(UsageError, match="a daemon already answers"):
                await ControlServer(FakeService(), path).start()
            assert await is_running(path)

    async def again() -> None:
        async with daemon(path) as (remote, _):
            assert await remote.status() == STATUS

    asyncio.run(run())
    assert not path.exists()
    path.touch()
    asyncio.run(again())


def test_a_path_that_cannot_be_bound(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="cannot open the control socket"):
        asyncio.run(ControlServer(FakeService(), tmp_path / ("x" * 200)).start())


def test_more_callers_than_slots_are_told_to_come_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CONNECTIONS", 2)

    async def dialogue(remote: DaemonService, service: FakeService, _: Path) -> None:
        service.endless = True
        first, second = remote.follow("a", 0), remote.follow("b", 0)
        await anext(first), await anext(second)
        with pytest.raises(TransportError, match="too many commands in progress"):
            await remote.status()
        await first.aclose()  # type: ignore[attr-defined]
        await service.ended.wait()
        await second.aclose()  # type: ignore[attr-defined]

    talk(path, dialogue)


def test_a_bug_in_the_daemon_is_logged_there_and_reported_here(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeService):
        async def status(self) -> NodeStatus:
            raise ZeroDivisionError("bug")

        async def applications(self) -> list[AppInfo]:
            return [APP]

    async def run() -> None:
        async with daemon(path, Broken()) as (remote, _):
            with pytest.raises(TransportError, match="the daemon closed the connection"):
                await remote.status()
            assert await remote.applications() == [APP]

    with caplog.at_level(logging.ERROR, "mycelia.node.control"):
        asyncio.run(run())
    assert "a control call failed" in caplog.text
    assert "ZeroDivisionError: bug" in caplog.text


def test_closing_ends_the_streams_in_progress(path: Path) -> None:
    async def run() -> None:
        service = FakeService()
        service.endless = True
        async with daemon(path, service) as (remote, _):
            events = remote.follow("digits")
            await anext(events)
        with pytest.raises(TransportError, match="closed the connection"):
            async for _ in events:
                pass
        assert service.followers == 0

    asyncio.run(run())


async def raw(path: Path, data: bytes) -> bytes:
    """What the daemon answers to ``data`` and a half-closed connection."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    writer.write_eof()
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=10))
def test_garbage_does_not_disturb_the_daemon(path: Path, messages: list[bytes]) -> None:
    async def dialogue(remote: DaemonService, _: FakeService, path: Path) -> None:
        for message in messages:
            await raw(path, message)
            await raw(path, wire.frame(message))
        assert await remote.status() == STATUS

    talk(path, dialogue)


def test_a_frame_over_its_limit_is_refused_unread(path: Path) -> None:
    async def dialogue(_: DaemonService, __: FakeService, path: Path) -> None:
        answer = await raw(path, b"\xff\xff\xff\xff")
        assert b"was announced, the limit is" in answer
        assert msgspec.msgpack.decode(answer[4:])[0] == "error"

    talk(path, dialogue)


def test_methods_that_are_not_in_the_interface_do_not_exist(path: Path) -> None:
    with pytest.raises(AttributeError):
        _ = connect(path).ended  # type: ignore[attr-defined]
