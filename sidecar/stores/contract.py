"""What every store promises: bytes in, bytes out, compare-and-set, a leased lock, and word of what changed.

A store knows nothing of tokens or encryption: keys are printable ASCII that hold no secret, values arrive sealed.
What belongs together carries the same `{tag}` in its keys and lock names, so that a cluster keeps it in one place.
`tests/contract/` runs one suite against every store that `stores.STORES` names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

TOMBSTONE_LIFE = 86_400.0
"""Seconds for which a store remembers the version of a record that was deleted or has expired."""


class Record(NamedTuple):
    """A stored value, its version and when it expires (seconds since the epoch).

    A version never comes back: not after deletion, not after a restart.
    """

    value: bytes
    version: int
    expires_at: float | None = None


def next_version(previous: int | None, now: float) -> int:
    """Return the version to write over `previous` (None: no record is there); `now` in seconds since the epoch.

    Versions are microseconds since the epoch, pushed on where the clock has not moved. So a record that is made anew
    under an old name never repeats a version, and who still holds the old one cannot write over the new one.
    """
    return max((previous or 0) + 1, int(now * 1_000_000))


def check_version(expected: int | None, version: int) -> None:
    """Raise `ValueError` unless `version` may follow `expected`: greater, at least 1, and within 63 bits."""
    if not (expected or 0) < version < 1 << 63:
        raise ValueError("a version must be greater than the one it replaces, and less than 2**63")


class Lease(Protocol):
    """A lock that is held. It is renewed in the background for as long as the context is open."""

    @property
    def lost(self) -> bool:
        """Whether the lease ran out although we held it (we were paused, the store was away)."""

    @property
    def inherited(self) -> bool:
        """Whether the one before us may not have let go of it: it was killed or paused, or the store was away.

        It may still be about to write what it did under the lock.
        """

    def waited_out(self) -> None:
        """Take note that the one before us had its time. Until then who comes after us inherits the lock as well."""


class Store(Protocol):
    """Every method may raise `StoreUnavailableError` or `StoreBrokenError`, and no foreign exception.

    A cancelled caller leaves the store whole: the operation happens entirely or not at all.
    """

    name: str
    shared: bool  # whether other processes may use the same records
    home: Path | None  # the file that holds the records, where there is one: a generated key is kept beside it

    @property
    def shaken(self) -> bool:
        """Whether writes and locks of a moment ago may be lost, as after a failover; without asking anybody."""

    async def get(self, key: str) -> Record | None:
        """Return the record, or None where there is none or it has expired."""

    async def put(
        self, key: str, value: bytes, *, expected: int | None, version: int, expires_at: float | None = None
    ) -> bool:
        """Write durably where the stored version is `expected` (None: no record is there); say whether it was.

        `version` is the new record's, greater than `expected` (see `check_version`): take it from `next_version`.
        For `TOMBSTONE_LIFE` after a deletion or expiry a version that is not greater than the last one is refused
        with False. After `True` the value survives `kill -9` (for stores on disk). `expires_at` is in seconds since
        the epoch; a record is gone after it.
        """

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """Remove the record (where its version is `expected`, if given); say whether one was removed."""

    async def keys(self, prefix: str) -> list[str]:
        """Return the live keys that start with `prefix`, sorted."""

    def lock(self, name: str, *, lease: float = 15.0, wait: float = 30.0) -> AbstractAsyncContextManager[Lease]:
        """Hold the lock `name`: one holder among all users of the store.

        Waits up to `wait` seconds, then raises `LockHeldError`. The lease of `lease` seconds is renewed while
        the context is open, and ends by itself when its holder dies. A cancelled wait or release leaves no lock.
        """

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call `changed(key)` on the event loop when another process wrote or deleted a record.

        `changed("")` says that anything may have changed. Our own writes are not reported.
        """

    async def ping(self) -> None:
        """Return when the store answers, and takes writes as far as is known: where the last one failed it is tried."""

    async def close(self) -> None:
        """Release everything; nothing is lost."""


class Place(NamedTuple):
    """Where a URL says that records are kept. `shared` and `home` are those of the store that `open` gives.

    Nothing is touched before the store's first operation; `ping()` at start finds out whether it can be used.
    """

    shared: bool
    home: Path | None
    open: Callable[[], Store]


Find = Callable[[str], Place]
"""What a kind of store offers the registry: from the whole URL to its place, without loading what only its store needs.

`ValueError` says what is wrong with the URL, without repeating it (it may hold a password).
"""
