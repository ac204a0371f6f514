"""The store of one process that forgets everything when it ends: for tests, demonstrations and application tokens.

Every operation is done within one step of the event loop, so none can be cut in half.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from sidecar.stores.contract import TOMBSTONE_LIFE, Lease, Record, check_version
from sidecar.stores.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SWEEP_EVERY = 60.0


class _Row(NamedTuple):
    value: bytes | None  # None: deleted, the version is remembered until `expires_at`
    version: int
    expires_at: float | None

    def live(self, now: float) -> bool:
        return self.value is not None and (self.expires_at is None or now < self.expires_at)

    def forgotten(self, now: float) -> bool:
        grace = TOMBSTONE_LIFE if self.value is not None else 0.0
        return self.expires_at is not None and self.expires_at + grace <= now


class _Held:
    lost = False  # nobody else can take the lock of a paused process that shares it with nobody
    inherited = False

    def waited_out(self) -> None: ...


class MemoryStore:
    """Records in a dict. `clock` returns seconds since the epoch."""

    name = "memory"
    shared = False
    home: Path | None = None
    shaken = False

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._turns = Turns()
        self._swept_at = clock()

    async def get(self, key: str) -> Record | None:
        """See `Store.get`."""
        row = self._live(key)
        return Record(row.value, row.version, row.expires_at) if row and row.value is not None else None

    async def put(
        self, key: str, value: bytes, *, expected: int | None, version: int, expires_at: float | None = None
    ) -> bool:
        """See `Store.put`."""
        check_version(expected, version)
        self._sweep()
        row, live = self._rows.get(key), self._live(key)
        if (live.version if live else None) != expected or (row and version <= row.version):
            return False
        self._rows[key] = _Row(bytes(value), version, expires_at)
        return True

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """See `Store.delete`."""
        row = self._live(key)
        if row is None or expected not in (None, row.version):
            return False
        self._rows[key] = _Row(None, row.version, self._clock() + TOMBSTONE_LIFE)
        return True

    async def keys(self, prefix: str) -> list[str]:
        """See `Store.keys`."""
        now = self._clock()
        return sorted(key for key, row in self._rows.items() if key.startswith(prefix) and row.live(now))

    @asynccontextmanager
    async def lock(self, name: str, *, lease: float = 15.0, wait: float = 30.0) -> AsyncIterator[Lease]:
        """See `Store.lock`. The lease cannot run out: it ends with the process."""
        del lease
        async with self._turns.turn(name, wait):
            yield _Held()

    def watch(self, changed: Callable[[str], None]) -> None:
        """See `Store.watch`. Nobody else writes, so nothing is ever reported."""

    async def ping(self) -> None:
        """See `Store.ping`."""

    async def close(self) -> None:
        """See `Store.close`."""

    def _live(self, key: str) -> _Row | None:
        row = self._rows.get(key)
        return row if row and row.live(self._clock()) else None

    def _sweep(self) -> None:
        now = self._clock()
        if now - self._swept_at >= SWEEP_EVERY:
            self._swept_at = now
            self._rows = {key: row for key, row in self._rows.items() if not row.forgotten(now)}
