"""Session records in the store: sealed, named by a keyed hash of the session's id, written by compare-and-set.

The window from records to the store and the vault. Decides nothing about tokens. A record that is damaged, moved or of
an unknown key is reported and taken for missing (never for another user's). Raises `StoreUnavailableError`; and
`StoreBrokenError` only for writes and for the key of the identifiers.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, NamedTuple

from sidecar.credentials.session_codec import decode, encode
from sidecar.credentials.vault import PEPPER, identifier, load_pepper
from sidecar.errors import SealError, StoreBrokenError, StoreUnavailableError
from sidecar.stores.contract import Lease, Store, next_version

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from sidecar.credentials.counts import Counts
    from sidecar.credentials.session_record import SessionRecord
    from sidecar.credentials.vault import Vault

LOCK_LEASE = 15.0
LOCK_WAIT = 15.0
SESSIONS = "session:"
_log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A record as the store has it, and its version. A damaged one has a version and no record."""

    record: SessionRecord | None = None
    version: int | None = None


def session_name(hashed: str) -> str:
    """Return the record's name for an identifier. The braces keep what belongs to a session on one cluster slot."""
    return f"{SESSIONS}{{{hashed}}}"


def app_name(fingerprint: str) -> str:
    """Return the record's name for an application's token."""
    return f"app:{{{fingerprint}}}"


def new_sign_in() -> int:
    """Return a number for a sign-in: random, so that no other has it, and within 63 bits."""
    return secrets.randbits(63) or 1


class Records:
    """The records of one store."""

    def __init__(self, store: Store, vault: Vault, counts: Counts) -> None:
        self.store = store
        self._vault = vault
        self._counts = counts
        self.seen: Callable[[str, Loaded], None] = lambda *_: None  # hears of every record that is loaded
        self._pepper: bytes | None = None
        self._doubts, self._learnt = 0, 0  # times that the pepper came into doubt, and how many of them are settled

    async def name(self, session_id: str) -> str:
        """Return the name of a session's record. Asks the store for the key of the hash, until it is known."""
        pepper, doubts = self._pepper, self._doubts
        if pepper is None or self._learnt != doubts:
            try:
                pepper = self._pepper = await load_pepper(self.store, self._vault, pepper)
                self._learnt = doubts
            except SealError:
                raise StoreBrokenError("the key of the session identifiers cannot be opened") from None
            except StoreUnavailableError:
                if pepper is None:
                    raise
        return session_name(identifier(pepper, session_id))

    def changed(self, name: str) -> None:
        """Hear that a record was changed, or (empty) any: a store that was emptied may have another key of the hash."""
        self._doubts += name in ("", PEPPER)

    def named(self, session_id: str) -> str | None:
        """Return the name of a session's record without asking the store; None before `name` has asked it."""
        return None if self._pepper is None else session_name(identifier(self._pepper, session_id))

    async def found_by(self, kind: str, *texts: str) -> str:
        """Return the name of a record that is found by `texts`, none of which can be read from it."""
        hashed = (await self.name("\0".join([kind, *texts]))).removeprefix(SESSIONS)
        return f"{kind}:{hashed}"

    async def read(self, name: str) -> tuple[bytes | None, int | None]:
        """Return what was written as `name` and its version. What cannot be opened has a version alone."""
        stored = await self.store.get(name)
        if stored is None:
            return None, None
        try:
            return self._vault.open(name, stored.version, stored.value), stored.version
        except SealError:
            self._counts.damaged_records += 1
            _log.error("record_damaged", extra={"record": name[:20]})
            return None, stored.version

    async def write(
        self, name: str, plain: bytes, over: int | None, now: float, expires_at: float, attempt: int = 0
    ) -> bool:
        """Write `plain`, sealed, over the version that was read; say whether nobody had written in between."""
        version = version_over(over, now, attempt)
        sealed = self._vault.seal(name, version, plain)
        return await self.store.put(name, sealed, expected=over, version=version, expires_at=expires_at)

    async def load(self, name: str) -> Loaded:
        """Return the record `name`, if there is one that can be opened."""
        loaded = await self._load(name)
        self.seen(name, loaded)
        return loaded

    async def _load(self, name: str) -> Loaded:
        version = None
        try:
            stored = await self.store.get(name)
            if stored is None:
                return Loaded()
            version = stored.version
            return Loaded(decode(self._vault.open(name, version, stored.value)), version)
        except (SealError, StoreBrokenError):
            self._counts.damaged_records += 1
            _log.error("record_damaged", extra={"record": name[:20]})
            return Loaded(None, version)

    async def save(
        self, name: str, record: SessionRecord, over: Loaded, now: float, attempt: int = 0, version: int | None = None
    ) -> bool:
        """Write `record` over what was loaded; say whether nobody had written in between.

        `version` is what it gets, else the one for this `attempt`.
        """
        version = version_over(over.version, now, attempt) if version is None else version
        return await self.store.put(
            name,
            self._vault.seal(name, version, encode(record)),
            expected=over.version,
            version=version,
            expires_at=_expiry(name, record),
        )

    async def delete(self, name: str, over: Loaded | None = None) -> bool:
        """Delete the record (where it is still what was loaded); say whether one was deleted."""
        return await self.store.delete(name, expected=over.version if over else None)

    async def sessions(self, prefix: str = "") -> list[str]:
        """Return the names of the session records whose identifier starts with `prefix`."""
        return await self.store.keys(f"{SESSIONS}{{{prefix}")

    def lock(self, name: str, provider: str) -> AbstractAsyncContextManager[Lease]:
        """Return the lock of one provider's chain in the record `name`."""
        kind, tag = name.split(":", 1)
        lock = f"chain:{tag}:{provider}" if kind == "session" else name
        return self.store.lock(lock, lease=LOCK_LEASE, wait=LOCK_WAIT)


def version_over(previous: int | None, now: float, attempt: int = 0) -> int:
    """Return the version of a record over `previous` (None: none is there).

    Each further `attempt` moves it on, past one that a clock ahead of ours left behind.
    """
    return next_version(previous, now) + int(1000**attempt) - 1


def _expiry(name: str, record: SessionRecord) -> float:
    if name.startswith(SESSIONS):
        return record.ends_at
    return max((bought.token.expires_at for chain in record.chains.values() for bought in chain.tokens), default=0.0)
