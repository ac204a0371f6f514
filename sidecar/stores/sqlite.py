"""Records, locks and changes in one SQLite file that several processes of this machine may share.

It decides what is live, which version wins and who holds a lock. Every operation is one transaction, on disk before it
is answered (WAL, synchronous=FULL). What a sound file is, `sqlite_file` decides.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from secrets import token_hex
from typing import TYPE_CHECKING

from sidecar.errors import StoreBrokenError
from sidecar.stores.contract import TOMBSTONE_LIFE, Record
from sidecar.stores.leases import Taken
from sidecar.stores.sqlite_file import CRC, RECOVERY, Connection, SqliteFile, number, record_crc
from sidecar.stores.threaded import ThreadedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sidecar.stores.contract import Store

SWEEP_EVERY = 60.0
CHANGES_KEPT = 1000
OLDEST_CHANGE = "SELECT ifnull(min(seq), 1) FROM changes"
NEWEST_CHANGE = "SELECT ifnull(max(seq), 0) FROM changes"
CHANGE = "SELECT key, writer FROM changes WHERE seq = ?"
OTHERS_CHANGES = "SELECT DISTINCT key FROM changes WHERE seq > ? AND writer <> ?"

LIVE = "value IS NOT NULL AND (expires_at IS NULL OR expires_at > :now)"
GET = f"SELECT value, version, crc = {CRC}, expires_at FROM records WHERE key = :key AND {LIVE}"  # noqa: S608
KEYS = f"SELECT key FROM records WHERE key >= :low AND key < :high AND {LIVE} ORDER BY key"  # noqa: S608
VERSION = f"SELECT version, {LIVE} FROM records WHERE key = :key"  # noqa: S608
# A lease cannot end later than one lease from now, unless the machine was started anew: then it does not count.
HELD = "SELECT 1 FROM locks WHERE name = :name AND expires_at > :ticks AND expires_at <= :ticks + lease"
SWEEP = (
    """UPDATE records SET value = NULL, expires_at = expires_at + :life,
        crc = record_crc(key, NULL, version, expires_at + :life)
        WHERE key IN (SELECT key FROM records WHERE expires_at <= :now AND value IS NOT NULL LIMIT 1000)""",
    """DELETE FROM records
        WHERE key IN (SELECT key FROM records WHERE expires_at <= :now AND value IS NULL LIMIT 1000)""",
    "DELETE FROM locks WHERE expires_at NOT BETWEEN :ticks - :life AND :ticks + :life",
)
"""Expired records lose their value and keep their version for a time; then they go. So do locks that nobody let go."""
INHERITED = "+"
"""Stands before the owner of a lock that was taken from one who never let go of it."""
OURS = "name = :name AND owner IN (:owner, :mark || :owner)"


class SqliteRecords:
    """The blocking operations on the file at `path`.

    `clock` returns seconds since the epoch; `ticks` those of a clock that all processes of the machine share and nobody
    sets: leases end by it, as their holders count them.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = SqliteFile(path)
        self._clock = clock
        self._ticks = ticks
        self._writer = token_hex(8)
        self._seen: int | None = None  # the last change that we know of; -1: it is gone, a backup was restored
        self._last: tuple[str, str] | None = None  # its key and writer: a backup may have another of that number
        self._looked_at: tuple[Connection, int] | None = None  # where, and its data_version
        self._swept_at = 0.0

    def get(self, key: str) -> Record | None:
        """See `Store.get`."""
        with self._reading() as connection:
            row = connection.execute(GET, {"key": key, "now": self._clock()}).fetchone()
        if row and not row[2]:
            raise StoreBrokenError(f"a record in {self._file.path} is damaged: {RECOVERY}")
        return Record(row[0], row[1], row[3]) if row else None

    def put(self, key: str, value: bytes, expected: int | None, version: int, expires_at: float | None) -> bool:
        """See `Store.put`."""
        with self._transaction() as connection:
            last, live = self._versions(connection, key)
            if live != expected or version <= last:
                return False
            self._write(connection, key, value, version, expires_at)
        return True

    def delete(self, key: str, expected: int | None) -> bool:
        """See `Store.delete`."""
        with self._transaction() as connection:
            _, live = self._versions(connection, key)
            if live is None or expected not in (None, live):
                return False
            self._write(connection, key, None, live, self._clock() + TOMBSTONE_LIFE)
        return True

    def keys(self, prefix: str) -> list[str]:
        """See `Store.keys`."""
        with self._reading() as connection:
            rows = connection.execute(KEYS, {"low": prefix, "high": prefix + "\x7f", "now": self._clock()})
            return [key for (key,) in rows]

    def take(self, name: str, owner: str, lease: float) -> Taken:
        """See `Locks.take`. Asking while another holds the lock writes nothing."""
        with self._reading() as connection:
            if self._held(connection, name):
                return Taken.NO
        with self._transaction() as connection:
            if self._held(connection, name):
                return Taken.NO
            left = connection.execute("SELECT 1 FROM locks WHERE name = ?", (name,)).fetchone()
            row = (name, INHERITED + owner if left else owner, lease, self._ticks() + lease)
            connection.execute("INSERT OR REPLACE INTO locks VALUES (?, ?, ?, ?)", row)
        return Taken.INHERITED if left else Taken.CLEAN

    def renew(self, name: str, owner: str, lease: float) -> bool:
        """See `Locks.renew`."""
        ours = {"name": name, "owner": owner, "mark": INHERITED, "ends": self._ticks() + lease}
        with self._transaction() as connection:
            return connection.execute(f"UPDATE locks SET expires_at = :ends WHERE {OURS}", ours).rowcount == 1  # noqa: S608

    def release(self, name: str, owner: str, unused: bool = False) -> None:
        """See `Locks.release`."""
        ours = {"name": name, "owner": owner, "mark": INHERITED, "now": self._ticks()}
        with self._transaction() as connection:
            if unused:
                give_back = f"UPDATE locks SET expires_at = :now WHERE {OURS} AND owner <> :owner"  # noqa: S608
                connection.execute(give_back, ours)
                ours["mark"] = ""
            connection.execute(f"DELETE FROM locks WHERE {OURS}", ours)  # noqa: S608

    def changes(self) -> list[str]:
        """See `Disk.changes`. Costs a look at shared memory and one at the newest row while nobody else writes."""
        with self._reading(), self._file.snapshot() as connection:
            look = (connection, number(connection, "PRAGMA data_version"))
            seen, newest = self._seen or 0, number(connection, NEWEST_CHANGE)
            if look == self._looked_at:
                keys = []
            elif number(connection, OLDEST_CHANGE) - 1 <= seen <= newest and self._goes_on(connection, seen):
                keys = [key for (key,) in connection.execute(OTHERS_CHANGES, (seen, self._writer))]
            else:
                keys = [""]
            self._seen, self._last, self._looked_at = newest, _change(connection, newest), look
        return keys

    def inspect(self) -> None:
        """See `Disk.inspect`."""
        self._file.inspect()

    def ping(self) -> None:
        """See `Store.ping`."""
        with self._reading() as connection:
            number(connection, "SELECT count(*) FROM locks")

    def close(self) -> None:
        """See `Store.close`."""
        self._looked_at = None
        self._file.stop_inspecting()
        self._file.close()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._file.reading() as connection:
            if self._seen is None:
                self._seen = number(connection, NEWEST_CHANGE)
                self._last = _change(connection, self._seen)
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._reading(), self._file.transaction() as connection:
            yield connection
            self._sweep(connection)

    def _versions(self, connection: Connection, key: str) -> tuple[int, int | None]:
        """Return the last version that the key had (0: unknown), and that of its live record."""
        row = connection.execute(VERSION, {"key": key, "now": self._clock()}).fetchone()
        return (row[0], row[0] if row[1] else None) if row else (0, None)

    def _write(
        self, connection: Connection, key: str, value: bytes | None, version: int, expires_at: float | None
    ) -> None:
        expiry = None if expires_at is None else float(expires_at)
        row = (key, value, version, expiry, record_crc(key, value, version, expiry))
        connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", row)
        change = connection.execute("INSERT INTO changes (key, writer) VALUES (?, ?)", (key, self._writer)).lastrowid
        connection.execute("DELETE FROM changes WHERE seq <= ?", ((change or 0) - CHANGES_KEPT,))
        if (change or 0) <= (self._seen or 0):
            self._seen = -1

    def _goes_on(self, connection: Connection, seen: int) -> bool:
        """Say whether the last change that we know of is still there, or has been forgotten in its turn."""
        return _change(connection, seen) in (self._last, None)

    def _held(self, connection: Connection, name: str) -> bool:
        return connection.execute(HELD, {"name": name, "ticks": self._ticks()}).fetchone() is not None

    def _sweep(self, connection: Connection) -> None:
        now = self._clock()
        if abs(now - self._swept_at) >= SWEEP_EVERY:
            self._swept_at = now
            for statement in SWEEP:
                connection.execute(statement, {"now": now, "ticks": self._ticks(), "life": TOMBSTONE_LIFE})


def _change(connection: Connection, seq: int) -> tuple[str, str] | None:
    return connection.execute(CHANGE, (seq,)).fetchone()  # type: ignore[no-any-return]


def opened(home: Path) -> Store:
    """Return the store whose records are in the file `home`."""
    return ThreadedStore("sqlite", home, SqliteRecords(home))
