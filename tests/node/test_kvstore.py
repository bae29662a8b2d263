"""The durable store: batches are whole, merged and ordered, also when the disk is full."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import kvstore
from node.kvstore import KVStore
from protocol.errors import ConfigError, StorageError, UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "core.db"


def run(path: Path, scenario: Callable[[KVStore], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        store = KVStore(path, **options)
        store.load()
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(main())


def content(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    async def scenario(store: KVStore) -> None:
        await store.write({})

    async def main() -> None:
        store = KVStore(path)
        found.update(store.load())
        await scenario(store)
        await store.close()

    asyncio.run(main())
    return found


def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    async def scenario(store: KVStore) -> None:
        await store.write({"a": b"1", "b": b"2", "c": b""})
        await store.write({"a": b"3", "b": None, "unknown": None})

    run(path, scenario)
    assert content(path) == {"a": b"3", "c": b""}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_new_store_is_empty(path: Path) -> None:
    assert content(path) == {}


batches = st.lists(
    st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.binary(max_size=8)), max_size=4), max_size=6
)


@given(batches)
@settings(max_examples=15, deadline=None)
def test_batches_that_meet_are_merged_in_order(
    tmp_path_factory: pytest.TempPathFactory, batches: list[dict[str, bytes | None]]
) -> None:
    path = tmp_path_factory.mktemp("kv") / "core.db"
    model: dict[str, bytes] = {}
    for batch in batches:
        for key, value in batch.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value

    async def scenario(store: KVStore) -> None:
        await asyncio.gather(*(store.write(batch) for batch in batches))

    run(path, scenario)
    assert content(path) == model


def test_writes_that_wait_share_one_transaction(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed: list[int] = []
    entered, gate = threading.Event(), threading.Event()
    commit = KVStore._commit

    def slow(self: KVStore, batch: dict[str, bytes | None]) -> None:
        entered.set()
        assert gate.wait(60)
        committed.append(len(batch))
        commit(self, batch)

    monkeypatch.setattr(KVStore, "_commit", slow)

    async def scenario(store: KVStore) -> None:
        writes = [asyncio.ensure_future(store.write({f"{number}": b"x"})) for number in range(20)]
        await asyncio.get_running_loop().run_in_executor(None, entered.wait)
        assert not any(write.done() for write in writes)
        gate.set()
        await asyncio.gather(*writes)

    run(path, scenario)
    assert committed == [1, 19]


def test_one_callers_cancellation_is_nobody_elses(path: Path) -> None:
    async def scenario(store: KVStore) -> None:
        writes = [asyncio.ensure_future(store.write({f"{number}": b"x"})) for number in range(3)]
        writes[1].add_done_callback(lambda _: None)
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])
        writes[1].cancel()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), asyncio.CancelledError, type(None)]

    run(path, scenario)
    assert sorted(content(path)) == ["0", "1", "2"]


def test_a_full_disk_refuses_the_batch_whole_and_writing_goes_on_when_there_is_room(path: Path) -> None:
    async def scenario(store: KVStore) -> None:
        await store.write({"kept": b"1", "victim": b"old"})
        with pytest.raises(StorageError, match="disk is full") as caught:
            await store.write({"victim": b"new", "small": b"x", "large": bytes(1 << 20)})
        assert caught.value.remedy
        await store.write({"after": b"2"})

    run(path, scenario, limit_bytes=64 * 1024)
    assert content(path) == {"kept": b"1", "victim": b"old", "after": b"2"}


def test_a_failed_group_fails_for_all_who_waited_on_it_and_for_nobody_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    commit = KVStore._commit

    def gated(self: KVStore, batch: dict[str, bytes | None]) -> None:
        assert gate.wait(60)
        commit(self, batch)

    monkeypatch.setattr(KVStore, "_commit", gated)

    async def scenario(store: KVStore) -> None:
        writes = [asyncio.ensure_future(store.write({"first": b"1"}))]
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])
        writes += [asyncio.ensure_future(store.write(batch)) for batch in ({"a": b"1"}, {"b": bytes(1 << 20)})]
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])
        gate.set()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), StorageError, StorageError]

    run(path, scenario, limit_bytes=64 * 1024)
    assert content(path) == {"first": b"1"}


@pytest.mark.parametrize("damage", ["header", "middle", "foreign"])
def test_a_corrupt_database_is_named_with_a_remedy(path: Path, damage: str) -> None:
    async def scenario(store: KVStore) -> None:
        await store.write({f"{number}": bytes(200) for number in range(200)})

    run(path, scenario)
    raw = bytearray(path.read_bytes())
    if damage == "header":
        raw[:100] = os.urandom(100)
    elif damage == "middle":
        raw[4096:12288] = bytes([0xFF]) * 8192
    else:
        raw[:] = b"not a database at all" * 100
    path.write_bytes(bytes(raw))
    with pytest.raises(ConfigError, match=r"core\.db is corrupt") as caught:
        KVStore(path).load()
    assert "mv " in caught.value.remedy


def test_another_programs_database_is_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(ConfigError, match="another program"):
        KVStore(path).load()


def test_a_later_schema_is_not_guessed_at(path: Path) -> None:
    content(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=9")
    connection.close()
    with pytest.raises(ConfigError, match="schema 9"):
        KVStore(path).load()


def test_a_database_that_is_open_elsewhere_is_refused(path: Path) -> None:
    async def scenario(store: KVStore) -> None:
        with pytest.raises(ConfigError, match="another process"):
            KVStore(path).load()
        await store.write({"a": b"1"})

    run(path, scenario)


def test_a_directory_that_is_gone_or_full_is_an_error_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        KVStore(tmp_path / "nowhere" / "core.db").load()


def test_a_closed_store_takes_nothing_and_closes_twice(path: Path) -> None:
    async def main() -> None:
        store = KVStore(path)
        store.load()
        pending = asyncio.ensure_future(store.write({"a": b"1"}))
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])
        await store.close()
        await store.close()
        assert pending.done()
        with pytest.raises(UsageError):
            await store.write({"b": b"1"})

    asyncio.run(main())
    assert content(path) == {"a": b"1"}


def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys; from node.kvstore import KVStore\n"
        "async def main():\n"
        "    store = KVStore(pathlib.Path(sys.argv[1])); store.load(); n = 0\n"
        "    while True:\n"
        "        await store.write({'n': b'%d' % n, str(n): bytes(1000)}); print(n, flush=True); n += 1\n"
        "asyncio.run(main())"
    )
    root = Path(kvstore.__file__).parent.parent
    with subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=root, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            writer.stdout.readline()
        writer.kill()
        acknowledged = [19, *map(int, writer.stdout.read().split())][-1]
    found = content(path)
    last = int(found["n"])
    assert last >= acknowledged
    assert all(found[str(number)] == bytes(1000) for number in range(last + 1))
    assert len(found) == last + 2
