"""Durable keys: what the machines' ``Store`` effects become.

SQLite in WAL mode with ``synchronous=FULL``: a commit is on the platter before it is reported, and a crash at any
point leaves the last commit or the one before, whole.  One dedicated thread owns the connection, because an fsync
takes milliseconds that the event loop does not have.

*Group commit.*  Batches that arrive while one is being written are merged, later values over earlier ones, and go out
together as the next transaction, so the rate of fsyncs adapts to the disk and memory is bounded by one value per key
however slow the disk is.  All who wait on one group share its outcome; an error leaves nothing of the group behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from protocol.errors import ConfigError, MyceliaError, StorageError, UsageError

from .statedir import sync_directory, writing

_APPLICATION_ID = 0x4D594345
"""Marks our files in SQLite's header ("MYCE")."""
_SCHEMA = 1
_PAGE_BYTES = 4096
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class KVStore:
    """A durable map from text to bytes.  Every method is called on one event loop; the file has one opener."""

    def __init__(self, path: Path, *, limit_bytes: int = 1 << 30) -> None:
        """``limit_bytes`` bounds the file; a write beyond it fails like one on a full disk."""
        self._path = path
        self._max_pages = max(16, limit_bytes // _PAGE_BYTES)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kvstore")
        self._connection: sqlite3.Connection | None = None
        self._writing: asyncio.Future[None] | None = None
        self._pending: dict[str, bytes | None] = {}
        self._pending_done: asyncio.Future[None] | None = None
        self._closed = False

    def load(self) -> dict[str, bytes]:
        """Open the file, creating it if needed, and return all that it holds.  Blocks.

        Raises ConfigError when the file is corrupt, not ours, or open elsewhere; StorageError when the disk fails.
        """
        try:
            return self._thread.submit(self._load).result()
        except MyceliaError:
            self._closed = True
            self._thread.shutdown()
            raise

    async def write(self, batch: Mapping[str, bytes | None]) -> None:
        """Make ``batch`` durable, all or nothing; None deletes its key.

        Raises StorageError when the disk is full or fails: then nothing of the batch was written.
        """
        if self._closed:
            raise UsageError(f"{self._path} was closed")
        self._pending.update(batch)
        if self._pending_done is None:
            self._pending_done = asyncio.get_running_loop().create_future()
        done = self._pending_done
        if self._writing is None:
            self._start_group()
        # One caller's cancellation must not cancel what others wait for.
        await asyncio.shield(done)

    async def close(self) -> None:
        """Finish what is being written and close the file.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        while self._writing is not None:
            await asyncio.wait([self._writing])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=True)

    def _start_group(self) -> None:
        batch, done = self._pending, self._pending_done
        assert done is not None
        self._pending, self._pending_done = {}, None
        self._writing = done
        task = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, batch)
        task.add_done_callback(lambda finished: self._on_committed(finished, done))

    def _on_committed(self, finished: asyncio.Future[None], done: asyncio.Future[None]) -> None:
        self._writing = None
        if self._pending_done is not None:
            self._start_group()
        error = finished.exception()
        if error is None:
            done.set_result(None)
            return
        done.set_exception(error)
        # Marks it as seen: every waiter may have been cancelled meanwhile.
        done.exception()

    # ---- in the thread --------------------------------------------------------------------------------------------

    def _load(self) -> dict[str, bytes]:
        assert self._connection is None, "loaded twice"
        if not self._path.exists():
            with writing(self._path):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
                sync_directory(self._path.parent)
        try:
            self._connection = connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            # Exclusive: a second opener fails at once instead of interleaving, and no shared-memory file is needed.
            for pragma in (
                "locking_mode=EXCLUSIVE",
                f"page_size={_PAGE_BYTES}",
                "journal_mode=WAL",
                "synchronous=FULL",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            connection.execute(f"PRAGMA max_page_count={self._max_pages}").fetchall()
            self._check(connection)
            rows = connection.execute("SELECT key, value FROM kv").fetchall()
        except sqlite3.Error as error:
            self._close()
            raise self._opening_error(error) from error
        except MyceliaError:
            self._close()
            raise
        return {str(key): bytes(value) for key, value in rows}

    def _check(self, connection: sqlite3.Connection) -> None:
        problems = connection.execute("PRAGMA quick_check(1)").fetchall()
        if problems != [("ok",)]:
            raise self._corrupt(str(problems[0][0]))
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if application == 0 and not connection.execute("SELECT 1 FROM sqlite_schema").fetchall():
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={_SCHEMA}")
            connection.execute("CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
            connection.execute("COMMIT")
        elif application != _APPLICATION_ID:
            raise ConfigError(f"{self._path} is another program's database", "move it out of the state directory")
        elif (version := connection.execute("PRAGMA user_version").fetchone()[0]) != _SCHEMA:
            raise ConfigError(
                f"{self._path} has schema {version}, this program reads {_SCHEMA}", "run the mycelia that wrote it"
            )

    def _commit(self, batch: dict[str, bytes | None]) -> None:
        connection = self._connection
        assert connection is not None, "write before load"
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO kv VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                [(key, value) for key, value in batch.items() if value is not None],
            )
            connection.executemany(
                "DELETE FROM kv WHERE key = ?", [(key,) for key, value in batch.items() if value is None]
            )
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise self._writing_error(error) from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # ---- errors ---------------------------------------------------------------------------------------------------

    def _corrupt(self, detail: str) -> ConfigError:
        return ConfigError(
            f"{self._path} is corrupt ({detail})",
            f"move it aside (mv {self._path} {self._path}.bad) and start again: the node keeps its identity, learns "
            "the rest from its peers and sits out the waves under way",
        )

    def _opening_error(self, error: sqlite3.Error) -> MyceliaError:
        code = _primary_code(error)
        if code in _CORRUPT:
            return self._corrupt(str(error))
        if code == sqlite3.SQLITE_BUSY:
            return ConfigError(f"{self._path} is open in another process", "stop that process first")
        return self._writing_error(error)

    def _writing_error(self, error: sqlite3.Error) -> StorageError:
        code = _primary_code(error)
        if code == sqlite3.SQLITE_FULL:
            return StorageError(
                f"cannot write {self._path}: the disk is full", "free some space; writing goes on by itself"
            )
        if code in _CORRUPT:
            return StorageError(
                f"{self._path} is corrupt ({error})", "stop the node and start it again for a diagnosis"
            )
        return StorageError(f"cannot write {self._path}: {error}", "check the disk and the permissions of the file")


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension; 0 when the error is the driver's own."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
