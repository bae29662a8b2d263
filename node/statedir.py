"""The state directory: everything that makes a restarted daemon the same node, and nothing that a crash can tear.

A small file is replaced, never changed: write a temporary beside it, ``fsync`` it, ``rename`` it over the old one,
``fsync`` the directory.  After a crash at any point a reader finds the old content or the new, whole (rename is atomic
in POSIX; without the first fsync the name may outlive the data, without the second the data may lose its name).
What changes often lives in SQLite (``node.kvstore``).

One daemon at a time: an exclusive ``flock`` that the kernel drops when the process dies however it dies, so a stale
lock cannot exist and no pid has to be guessed alive.  The descriptor is not inherited across ``exec``.

The directory is private (0700, files 0600) because it holds the node's key.  A directory that others can enter is
tightened when it is ours; a directory that holds other things is refused rather than taken over.

    VERSION           format of this directory; a newer one is refused, not guessed at
    lock              pid of the daemon that holds it
    node.key          the node's identity                    node.crt     its endorsement by the fabric
    fabric            the fabric's signed document; written last of all, so its presence means "is a member"
    owner.key         only where the fabric was founded, and only until it is moved offline
    authority.key     only on issuers: signs certificates    authority.crt
    incarnation       grows at every start                   contacts      whom to dial after a restart
    core.db           durable keys of the protocol core      issuer.db    invitations, only on issuers
    artifacts/  logs/  config.toml  control.sock
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from protocol.errors import ConfigError, MyceliaError, StorageError

FORMAT = 1
MAX_SMALL_FILE = 1 << 20
"""Bytes beyond which a file of this directory is taken for corrupt without being read."""

_STAMP = "VERSION"
_MINE = ("config.toml", "control.sock", "logs", "artifacts", "lock")
"""What may lie in a directory that is not stamped yet."""


def storage_error(path: Path, error: OSError) -> MyceliaError:
    """The typed error for a failed write to ``path``, naming the next step."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(f"cannot write {path}: the disk is full", "free some space and start the node again")
    if error.errno == errno.EROFS:
        return StorageError(f"cannot write {path}: the file system is read-only", "remount it writable, check the disk")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigError(
            f"cannot write {path}: permission denied", "run as the user that owns the state directory, or chown it"
        )
    return StorageError(f"cannot write {path}: {error.strerror or error}", "check the disk")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into StorageError or ConfigError."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def sync_directory(path: Path) -> None:
    """Make the names in directory ``path`` durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, mode 0600, atomically and durably.

    Raises StorageError when the disk is full or fails, ConfigError when we may not write there; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            # What a crashed writer left may have another mode, or be a link.
            temporary.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)  # noqa: PTH105 - the tests fail each of these calls in turn, by name
            sync_directory(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def read_file(path: Path, *, secret: bool = False) -> bytes:
    """The content of a small file of the state directory.

    Raises ConfigError when it is missing, unreadable, oversized or, if ``secret``, readable by others.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if secret and stat.S_IMODE(status.st_mode) & 0o077:
                raise ConfigError(f"{path} holds a private key that others can read", f"run: chmod 600 {path}")
            if status.st_size > MAX_SMALL_FILE:
                raise ConfigError(f"{path} is corrupt: {status.st_size} bytes", "restore it from a backup")
            return file.read(MAX_SMALL_FILE)
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is missing", "run `mycelia init` or `mycelia join` first, or give the right directory"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "check its owner and its permissions") from error


class StateDir:
    """An open state directory.  Reading needs no lock; a daemon, and whoever changes identities, holds it.

    >>> with StateDir.open(path).locked() as state:
    ...     incarnation = state.next_incarnation(unix_time)
    """

    def __init__(self, root: Path) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self.root = root
        self._lock: int | None = None

    @property
    def node_key(self) -> Path:
        return self.root / "node.key"

    @property
    def node_certificate(self) -> Path:
        return self.root / "node.crt"

    @property
    def fabric(self) -> Path:
        return self.root / "fabric"

    @property
    def contacts(self) -> Path:
        return self.root / "contacts"

    @property
    def owner_key(self) -> Path:
        return self.root / "owner.key"

    @property
    def authority_key(self) -> Path:
        return self.root / "authority.key"

    @property
    def authority_certificate(self) -> Path:
        return self.root / "authority.crt"

    @property
    def core_db(self) -> Path:
        return self.root / "core.db"

    @property
    def issuer_db(self) -> Path:
        return self.root / "issuer.db"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"

    @classmethod
    def create(cls, root: Path) -> Self:
        """Make ``root`` a state directory, or open it when it is one.

        Raises ConfigError when it is somebody else's or holds other things, StorageError when the disk fails.
        """
        with writing(root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (root / _STAMP).exists():
            strange = sorted(entry.name for entry in root.iterdir() if not _expected(entry.name))
            if strange:
                raise ConfigError(
                    f"{root} is not a Mycelia state directory: it holds {strange[0]!r}",
                    "name an empty directory, or one that does not exist yet",
                )
            _make_private(root)
            write_file(root / _STAMP, f"{FORMAT}\n".encode())
        state = cls.open(root)
        with writing(root):
            state.artifacts.mkdir(mode=0o700, exist_ok=True)
            state.logs.mkdir(mode=0o700, exist_ok=True)
        return state

    @classmethod
    def open(cls, root: Path) -> Self:
        """Open the existing state directory ``root``.

        Raises ConfigError when there is none, or its format is newer than ours, or it belongs to another user.
        """
        stamp = read_file(root / _STAMP)
        try:
            version = int(stamp)
        except ValueError:
            raise ConfigError(
                f"{root / _STAMP} is corrupt", f"if this is a Mycelia state directory, write {FORMAT} into that file"
            ) from None
        if version != FORMAT:
            raise ConfigError(
                f"{root} has state format {version}, this program reads {FORMAT}",
                "run the version of mycelia that wrote it, or a newer one",
            )
        _make_private(root)
        return cls(root)

    @property
    def is_member(self) -> bool:
        """Whether ``init`` or ``join`` was completed here."""
        return self.fabric.exists()

    def locked(self) -> Self:
        """Take the lock; release it with :meth:`close` or ``with``.  Raises ConfigError naming the holder's pid."""
        assert self._lock is None, "locked twice by one owner"
        with writing(self.lock_file):
            handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
            os.close(handle)
            if error.errno != errno.EWOULDBLOCK:
                raise ConfigError(f"cannot lock {self.lock_file}: {error.strerror}", "use a local disk") from error
            raise ConfigError(
                f"{self.root} is in use by another mycelia, process {holder or 'unknown'}",
                "stop it with `mycelia stop`, or give each node its own directory",
            ) from None
        self._lock = handle
        with writing(self.lock_file):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        return self

    def close(self) -> None:
        """Release the lock, if held.  The file stays: unlinking it would let two daemons lock two files of one name."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def next_incarnation(self, unix_time: int) -> int:
        """A number greater than any that this directory gave before, durable before it is returned.

        It is at least ``unix_time`` (seconds), so that it also grows across a restored backup or a lost file.
        Raises ConfigError when the file is corrupt, StorageError when the disk fails.
        """
        path = self.root / "incarnation"
        previous = 0
        if path.exists():
            try:
                previous = int(read_file(path))
            except ValueError:
                raise ConfigError(
                    f"{path} is corrupt", "delete it: the clock then gives a number that is greater as well"
                ) from None
        incarnation = max(previous + 1, unix_time)
        write_file(path, f"{incarnation}\n".encode())
        return incarnation


def _expected(name: str) -> bool:
    return name in _MINE or (name.startswith(".") and name.endswith(".tmp"))


def _make_private(root: Path) -> None:
    status = root.stat()
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"{root} belongs to another user (uid {status.st_uid})", "run mycelia as that user, or chown the directory"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        root.chmod(0o700)
