"""What this process keeps at hand: credentials for the hot path, and what is known of their sessions.

Bounded, synchronous, no I/O and no clock. Holds access tokens as bytes for the header and, for each chain, the newest
refresh token that this process knows to be stored; records themselves stay in the store. `hot` is the only thing that
a request with a fresh token looks at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.credentials.session_record import Chain, Order
    from sidecar.errors import Refusal
    from sidecar.model import Secret, TokenKey

MOST_ENTRIES = 50_000
MOST_UNKNOWN = 10_000
UNKNOWN_FOR = 2.0
_SECOND_CHANCES = 16


class Credential:
    """An access token ready for the header, and when it may be used. Times are seconds since the epoch."""

    __slots__ = ("fresh_until", "key", "order", "stale_at", "suspect", "token", "true_from", "usable_until", "used_at")

    def __init__(
        self,
        key: TokenKey,
        token: bytes,
        order: Order,
        *,
        true_from: float,
        stale_at: float,
        usable_until: float,
        suspect: bool = False,
    ) -> None:
        self.token = token  # ASCII, as it stands in the header
        self.key = key
        self.order = order
        self.true_from = true_from
        self.stale_at = stale_at
        self.fresh_until = min(stale_at, usable_until)  # later, where a renewal failed and is not to be tried yet
        self.usable_until = usable_until
        self.used_at = 0.0
        self.suspect = suspect  # bought for a rejection: tell `Broker.accepted` when an upstream takes it

    def __repr__(self) -> str:
        return f"Credential(…, order={self.order})"

    def usable(self, now: float) -> bool:
        """Say whether the token has not expired."""
        return now < self.usable_until

    def fresh(self, now: float) -> bool:
        """Say whether the token needs no renewal yet, as far as the clock can be trusted."""
        return self.true_from <= now < self.fresh_until


class Peak(NamedTuple):
    """The newest state of a provider's chain that is known to have been stored (`outage`: or will be).

    `own`: this process obtained its refresh token. `chain` is all of it, kept for an outage of the store.
    """

    provider: str
    order: Order
    refresh_token: Secret | None
    own: bool = False
    chain: Chain | None = None


class Hold(NamedTuple):
    """A refusal that is repeated without asking anybody until `until`."""

    refusal: str
    detail: str
    since: float
    until: float


class Entry:
    """What is at hand of one record."""

    __slots__ = ("credentials", "ends_at", "enqueued_at", "epoch", "holds", "last_used", "peaks", "sure", "used_before")

    def __init__(self) -> None:
        self.credentials: tuple[Credential, ...] = ()  # one for each route: few, and a tuple is small
        self.holds: dict[str, Hold] | None = None
        self.peaks: tuple[Peak, ...] = ()
        self.epoch = 0  # grows when what was read before may not be used any more
        self.sure = True  # False: the record may have changed, nobody could say
        self.last_used = 0.0  # as the store has it
        self.used_before = 0.0  # the last use of credentials that are no longer here
        self.enqueued_at = 0.0
        self.ends_at = float("inf")

    @property
    def used_at(self) -> float:
        """Return the last use of any credential of the record by this process."""
        return max([self.used_before, *(credential.used_at for credential in self.credentials)])

    def credential(self, fingerprint: str) -> Credential | None:
        """Return what is held for a route."""
        return next((credential for credential in self.credentials if credential.key.fingerprint == fingerprint), None)

    def put_aside(self, gone: Credential | None) -> None:
        """Hold a credential no more, but remember its use."""
        if gone is not None:
            self.used_before = self.used_at
            self.credentials = tuple(credential for credential in self.credentials if credential is not gone)

    def peak(self, provider: str) -> Peak | None:
        """Return the newest known state of a provider's chain."""
        return next((peak for peak in self.peaks if peak.provider == provider), None)

    def climb(self, peak: Peak) -> None:
        """Take note of a chain's state that the store has."""
        before = self.peak(peak.provider)
        if before is None or peak.order >= before.order:
            self.peaks = (*(other for other in self.peaks if other.provider != peak.provider), peak)

    def disown(self) -> None:
        """Take note that another process may have spent the refresh tokens."""
        self.peaks = tuple(peak._replace(own=False) for peak in self.peaks)


class Memory:
    """The entries by record name, and the hot credentials by token key."""

    def __init__(self) -> None:
        self.hot: dict[TokenKey, Credential] = {}
        self._entries: dict[str, Entry] = {}
        self._unknown: dict[str, float] = {}
        self.changed: Callable[[str], None] = lambda _name: None  # hears which record may have changed; empty: any

    def entry(self, name: str, now: float) -> Entry:
        """Return the entry of a record, made if there is none. Guessed names never push out what is in use."""
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = Entry()
            entry.enqueued_at = now
        return entry

    def held(self, name: str, fingerprint: str) -> Credential | None:
        """Return what is held for a route, where the record is not known to have changed."""
        entry = self._entries.get(name)
        return entry.credential(fingerprint) if entry and entry.sure else None

    def last_resort(self, name: str, fingerprint: str) -> Credential | None:
        """Return what is held for a route although the store could not be asked whether the record has changed."""
        entry = self._entries.get(name)
        return entry.credential(fingerprint) if entry else None

    def adopt(self, name: str, entry: Entry, epoch: int, credential: Credential) -> bool:
        """Take a credential made from what was read at `epoch`; False where that may not be used any more."""
        if self._entries.get(name) is not entry or entry.epoch != epoch:
            return False
        fingerprint = credential.key.fingerprint
        before = entry.credential(fingerprint)
        if before is not None and before.order == credential.order:
            credential.used_at = before.used_at
        if entry.sure:
            entry.put_aside(before)
        else:
            self._clear(entry)  # all are of a state that was not read again
        entry.credentials = (*entry.credentials, credential)
        if entry.holds is not None:
            entry.holds.pop(fingerprint, None)
        entry.sure = True
        self.hot[credential.key] = credential
        self.make_room()
        return True

    def known(self, name: str) -> Entry | None:
        """Return the entry of a record, where there is one."""
        return self._entries.get(name)

    def forget_peak(self, name: str, provider: str) -> None:
        """Believe the store about a provider's chain again."""
        self.drop(name)
        entry = self._entries.get(name)
        if entry is not None:
            entry.peaks = tuple(peak for peak in entry.peaks if peak.provider != provider)

    def drop(self, name: str) -> None:
        """Use nothing of a record any more: it has changed. What is being read of it now will not be used either."""
        self._unknown.pop(name, None)
        self.changed(name)
        entry = self._entries.get(name)
        if entry is not None:
            entry.epoch += 1
            entry.holds = None
            self._clear(entry)

    def disown(self, name: str) -> None:
        """Use nothing of a record any more: another process has changed it."""
        self.drop(name)
        entry = self._entries.get(name)
        if entry is not None:
            entry.disown()

    def bury(self, name: str, now: float) -> None:
        """Forget a record that was deleted."""
        self.drop(name)
        self._entries.pop(name, None)
        self.unknown(name, now)

    def doubt(self) -> None:
        """Ask the store again before anything is used: any record may have changed."""
        self.hot.clear()
        self._unknown.clear()
        self.changed("")
        for entry in self._entries.values():
            entry.disown()
            entry.epoch += 1
            entry.sure = False

    def unknown(self, name: str, now: float) -> None:
        """Take note that the store has no such record: it is not asked again for a moment."""
        entry = self._entries.get(name)
        if entry is not None:
            self.drop(name)
            del self._entries[name]
        if len(self._unknown) >= MOST_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[name] = now + UNKNOWN_FOR

    def is_unknown(self, name: str, now: float) -> bool:
        """Say whether the store has just been seen to have no such record."""
        until = self._unknown.get(name)
        return until is not None and until - UNKNOWN_FOR <= now < until

    def hold(self, name: str, fingerprint: str, refusal: Refusal, now: float, seconds: float) -> None:
        """Repeat a refusal for some seconds, where the record is known; what was guessed leaves nothing behind."""
        entry = self._entries.get(name)
        if entry is not None and not entry.peaks:
            del self._entries[name]
        elif entry is not None:
            entry.holds = entry.holds or {}
            entry.holds[fingerprint] = Hold(refusal.name, refusal.detail, now, now + seconds)

    def held_back(self, name: str, fingerprint: str, now: float) -> Hold | None:
        """Return the refusal to repeat."""
        entry = self._entries.get(name)
        hold = entry.holds.get(fingerprint) if entry and entry.holds else None
        return hold if hold and hold.since <= now < hold.until else None

    def release_holds(self) -> None:
        """Repeat no refusal any more."""
        for entry in self._entries.values():
            entry.holds = None

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Return the entries by name, as they are now."""
        return iter(list(self._entries.items()))

    def sweep(self, now: float) -> None:
        """Free what can never be used again."""
        self._unknown = {name: until for name, until in self._unknown.items() if now < until}
        for name, entry in self.entries():
            if now >= entry.ends_at:
                self.drop(name)
                del self._entries[name]
                continue
            for credential in entry.credentials:
                if not credential.usable(now):
                    self._chill(credential)
                    entry.put_aside(credential)

    def make_room(self) -> None:
        """Drop the entry that has waited longest, but give those that were used meanwhile another turn."""
        for chance in range(_SECOND_CHANCES):
            if len(self._entries) <= MOST_ENTRIES:
                return
            name, entry = next(iter(self._entries.items()))
            del self._entries[name]
            if entry.used_at > entry.enqueued_at and chance < _SECOND_CHANCES - 1:
                entry.enqueued_at = entry.used_at
                self._entries[name] = entry
            else:
                self._clear(entry)

    def _clear(self, entry: Entry) -> None:
        entry.used_before = entry.used_at
        for credential in entry.credentials:
            self._chill(credential)
        entry.credentials = ()

    def _chill(self, credential: Credential) -> None:
        if self.hot.get(credential.key) is credential:
            del self.hot[credential.key]
