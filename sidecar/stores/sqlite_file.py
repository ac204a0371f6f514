"""The SQLite file itself: which one is sound, how it comes to be, its connection and its transactions.

It refuses every file that is not sound without touching it: an empty, cut, flipped, foreign or newer one, and one that
others can read. It must not know what the records mean. This is the border of sqlite3: no other module imports it, and
none of its exceptions leaves.
"""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing, contextmanager, suppress
from sqlite3 import Connection
from typing import TYPE_CHECKING

from sidecar.errors import StoreBrokenError, StoreUnavailableError
from sidecar.stores import private_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

AT_ONCE = 16 * 2**20
"""Bytes of a file that is read whole before it is used; a larger one is read meanwhile, lest the start takes long."""
APPLICATION_ID = 0x53434152  # "SCAR", at offset 68 of the file
BUSY_TIMEOUT = 5.0

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # A record that was deleted keeps its row, with a NULL value, until `expires_at`: its version is not reused.
        """CREATE TABLE records (
            key TEXT PRIMARY KEY, value BLOB, version INTEGER NOT NULL, expires_at REAL, crc INTEGER NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX records_by_expiry ON records (expires_at) WHERE expires_at IS NOT NULL",
        """CREATE TABLE locks (
            name TEXT PRIMARY KEY, owner TEXT NOT NULL, lease REAL NOT NULL, expires_at REAL NOT NULL
        ) WITHOUT ROWID""",
        "CREATE TABLE changes (seq INTEGER PRIMARY KEY, key TEXT NOT NULL, writer TEXT NOT NULL)",
    ),
)
"""Statements that lead from schema version i to i + 1; `user_version` counts those that were run."""

UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOLFS,
    }
)
RECOVERY = "restore a backup, or move it away to start with an empty store (every user then signs in again)"
CRC = "record_crc(key, value, version, expires_at)"
DAMAGED = f"SELECT 1 FROM records WHERE crc <> {CRC} LIMIT 1"  # noqa: S608

__all__ = ["CRC", "RECOVERY", "Connection", "SqliteFile", "number", "record_crc"]


class SqliteFile:
    """The file at `path`, opened at the first operation and again after a failure; for one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: Connection | None = None
        self._identity: tuple[int, int] | None = None  # device and inode, once the file was opened
        self._to_inspect = False
        self._inspecting: Connection | None = None
        self._damage: StoreBrokenError | None = None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give the connection for statements that write nothing."""
        try:
            yield self._connected()
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: sqlite3 quoting a damaged name
            # After a failure of the disk only a new connection knows what is on it.
            self.close()
            raise _translated(error, self.path) from error

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Give the connection for several statements that see the same state."""
        with self.reading() as connection, _begun(connection, "BEGIN"):
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give the connection within a transaction: on disk when the block ends, undone where it raises."""
        with self.reading() as connection, _begun(connection, "BEGIN IMMEDIATE"):
            yield connection

    def close(self) -> None:
        """Close the file; the last process to do so folds the log into it."""
        connection, self._connection = self._connection, None
        if connection:
            connection.close()

    def inspect(self) -> None:
        """Read the whole file where that was put off; on any thread. From then on everybody is told what is found."""
        if self._to_inspect:
            self._to_inspect = False
            try:
                with closing(_attach(self.path, "ro")) as self._inspecting:
                    _inspect(self._inspecting, self.path)
            except StoreBrokenError as error:
                self._damage = error
                raise
            except sqlite3.Error as error:
                translated = _translated(error, self.path)
                if isinstance(translated, StoreBrokenError):
                    self._damage = translated
                raise translated from error

    def stop_inspecting(self) -> None:
        """Let an inspection that is under way on another thread end soon."""
        if self._inspecting is not None:
            with suppress(sqlite3.ProgrammingError):  # it has ended
                self._inspecting.interrupt()

    def _connected(self) -> Connection:
        if self._damage is not None:
            raise self._damage
        if self._connection is None:
            self._connection = self._connect()
        elif _identity(self.path) != self._identity:
            self.close()
            raise StoreBrokenError(f"{self.path} was moved or replaced while it was in use")
        return self._connection

    def _connect(self) -> Connection:
        if _check_files(self.path) is None:
            if self._identity:
                raise StoreBrokenError(f"{self.path} has disappeared: put it back, or start again without it")
            _create(self.path)
        identity = _identity(self.path)
        if identity != self._identity:
            self._to_inspect = self.path.stat().st_size > AT_ONCE
            with closing(_attach(self.path, "ro")) as connection:
                _inspect(connection, self.path, whole=not self._to_inspect)
        connection = _ready(self.path)
        self._identity = identity
        return connection


def _check_files(path: Path) -> os.stat_result | None:
    """Return the status of the database file, None where it is to be made; refuse what cannot be ours."""
    private_file.check_directory(path.parent)
    # The database last: one that another process is just making has no log before it has its name.
    *companions, status = (
        private_file.check_file(path.with_name(path.name + suffix)) for suffix in ("-wal", "-shm", "-journal", "")
    )
    if status is None and any(companion and companion.st_size for companion in companions):
        raise StoreBrokenError(f"{path} is missing but its log files are there: put it back, or move them away too")
    if status and not status.st_size:
        raise StoreBrokenError(f"{path} is empty, so its records are lost: {RECOVERY}")
    return status


def _identity(path: Path) -> tuple[int, int] | None:
    with private_file.system_errors(path), suppress(FileNotFoundError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _create(path: Path) -> None:
    """Let an empty database appear whole; another process that was faster is welcome."""
    with private_file.draft(path) as temporary:
        with closing(_attach(temporary, "rw")) as connection:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            _migrate(connection)
            connection.execute("PRAGMA journal_mode = WAL")
        private_file.publish(temporary, path)


def _inspect(connection: Connection, path: Path, *, whole: bool = True) -> None:
    """Read the file (or just its head); raise `StoreBrokenError` unless it is sound."""
    _check_ours(connection, path)
    if whole:
        sound = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        if not sound or connection.execute(DAMAGED).fetchone():
            raise StoreBrokenError(f"{path} is damaged: {RECOVERY}")


def _ready(path: Path) -> Connection:
    """Return a connection to a file that is ours and of this version."""
    connection = _attach(path, "rw")
    try:
        _check_ours(connection, path)
        # The cache: 512 KiB instead of 2 MiB. What is used often is in this process's own memory already.
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "cache_size = -512"):
            connection.execute(f"PRAGMA {pragma}")
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _attach(path: Path, mode: str) -> Connection:
    uri = f"{path.as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT)
    connection.create_function("record_crc", 4, record_crc, deterministic=True)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _check_ours(connection: Connection, path: Path) -> None:
    if number(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StoreBrokenError(
            f"{path} is not a store of this program, or a piece of one: give another path, or {RECOVERY}"
        )
    version = number(connection, "PRAGMA user_version")
    if version > len(MIGRATIONS):
        raise StoreBrokenError(
            f"{path} was written by a newer version of this program (schema {version}): run that one"
        )


def _migrate(connection: Connection) -> None:
    """Bring the schema forward, all steps or none."""
    if number(connection, "PRAGMA user_version") == len(MIGRATIONS):
        return
    with _begun(connection, "BEGIN IMMEDIATE"):
        for statements in MIGRATIONS[number(connection, "PRAGMA user_version") :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


@contextmanager
def _begun(connection: Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def record_crc(key: str, value: bytes | None, version: int, expires_at: float | None) -> int:
    """Return the checksum that a row carries over its columns, which SQLite itself does not have."""
    head = f"{key}\0{version}\0{expires_at!r}\0{value is None}"
    return zlib.crc32(value or b"", zlib.crc32(head.encode()))


def number(connection: Connection, statement: str) -> int:
    """Return the number that a statement yields."""
    return int(connection.execute(statement).fetchone()[0])


def _translated(error: Exception, path: Path) -> StoreUnavailableError | StoreBrokenError:
    """Tell a store that is away for now from one that is damaged; a code that is not known counts as damage."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in UNAVAILABLE:
        return StoreUnavailableError(f"{path}: {name}")
    return StoreBrokenError(f"{path} is damaged or not a database ({name}): {RECOVERY}")
