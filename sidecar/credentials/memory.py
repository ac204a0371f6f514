"""What this process keeps at hand: credentials for the hot path, and what is known of their sessions.

Bounded, synchronous, no I/O and no clock. Holds access tokens as bytes for the header and, for each chain, the newest
refresh token that this process knows to be stored; records themselves stay in the store. `hot` is what a request with
a fresh token looks at first. The sessions used last are held as objects, the others folded up (`resting`) until a
request, a change or a renewal wakes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.credentials.awake import Awake
from sidecar.credentials.entry import Credential, Entry, Mark, Peak
from sidecar.credentials.repeats import Repeats
from sidecar.credentials.resting import Resting
from sidecar.model import APPLICATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.credentials.records import Loaded
    from sidecar.errors import Refusal
    from sidecar.model import TokenKey

MOST_ENTRIES = 50_000
"""Sessions, and as many other records."""
_SECOND_CHANCES = 16
_SESSIONS = "session:"


class Memory:
    """The entries by record name, and the hot credentials by token key.

    An entry is good until the next await: who waits keeps its `mark`. `folding`: whether sessions are folded at all;
    an entry with whole chains (`store.on_outage`) is not. The functions that are set from outside: `named` says under
    which name a session is stored, `changed` hears which record may have changed (empty: any), `woken` and `folded`
    hear of hot credentials that come back from rest and go there; `folded` also of those that are forgotten.
    """

    def __init__(self, *, folding: bool = True) -> None:
        self.hot: dict[TokenKey, Credential] = {}
        self.named: Callable[[str], str | None] = lambda _identity: None
        self.changed: Callable[[str], None] = lambda _name: None
        self.woken: Callable[[Credential], None] = lambda _credential: None
        self.folded: Callable[[Credential], None] = lambda _credential: None
        self._folding = folding
        self._sessions: dict[str, Entry] = {}  # awake
        self._others: dict[str, Entry] = {}
        self.resting = Resting()
        self.repeats = Repeats()
        self._epoch = 0
        self._awake = Awake()

    # -- one record -----------------------------------------------------------------------------------------------

    def wake(self, key: TokenKey) -> Credential | None:
        """Return the hot credential of a session at rest: from now on it is in `hot`."""
        if not self.resting or key.identity == APPLICATION:
            return None
        name = self.named(key.identity)
        if name is None or self._unfold(name, key) is None:
            return None
        self._awake.woke()
        return self.hot.get(key)

    def entry(self, name: str, now: float) -> Entry:
        """Return the entry of a record, made if there is none. Guessed names never push out what is in use."""
        entry = self.known(name)
        if entry is None:
            entry = self._place(name)[name] = Entry(self._next())
            entry.enqueued_at = now
        return entry

    def known(self, name: str) -> Entry | None:
        """Return the entry of a record, where there is one."""
        return self._place(name).get(name) or self._unfold(name)

    def marked(self, name: str, mark: Mark) -> Entry | None:
        """Return the entry of which this was the mark, changed or not; None where it is gone."""
        entry = self.known(name)
        return entry if entry is not None and entry.birth == mark.birth else None

    def climb(self, name: str, mark: Mark, peak: Peak, version: int) -> None:
        """Take note of a chain's state that the store has in this version, where the entry is still there."""
        entry = self.marked(name, mark)
        if entry is not None:
            entry.climb(peak, version)

    def held(self, name: str, fingerprint: str) -> Credential | None:
        """Return what is held for a route, where the record is not known to have changed."""
        entry = self.known(name)
        return entry.credential(fingerprint) if entry and entry.sure else None

    def last_resort(self, name: str, fingerprint: str) -> Credential | None:
        """Return what is held for a route although the store could not be asked whether the record has changed."""
        entry = self.known(name)
        return entry.credential(fingerprint) if entry else None

    def in_doubt(self, name: str) -> bool:
        """Say whether a record may have changed since what is held was read: nobody could say."""
        entry = self.known(name)
        return entry is not None and not entry.sure

    def adopt(self, name: str, mark: Mark, credential: Credential) -> bool:
        """Take a credential made from what was read at `mark`; False where that may not be used any more."""
        entry = self.marked(name, mark)
        if entry is None or entry.epoch != mark.epoch:
            return False
        fingerprint = credential.key.fingerprint
        before = entry.credential(fingerprint)
        if before is not None and before.step == credential.step:
            credential.used_at = before.used_at
        if entry.sure:
            entry.put_aside(before)
        else:
            self._clear(entry)  # all are of a state that was not read again
        entry.credentials = (*entry.credentials, credential)
        self.repeats.release(name, fingerprint)
        entry.sure = True
        self.hot[credential.key] = credential
        self.make_room(name)
        return True

    def seen(self, name: str, loaded: Loaded) -> None:
        """Take note of a record, or that there is none, whatever it was loaded for."""
        entry, (record, version) = self.known(name), loaded
        if entry is None:
            return
        if name.startswith(_SESSIONS) and (record is None or (version or 0) >= entry.version):
            self.keep_only(entry, frozenset(record.sign_ins.values() if record else ()))
        if record is not None:
            entry.read(version or 0, record.sign_ins)

    def keep_only(self, entry: Entry, sign_ins: frozenset[int]) -> None:
        """Use nothing of other sign-ins any more, not even as a last resort: whoever they were of."""
        for credential in entry.credentials:
            if credential.step.sign_in not in sign_ins:
                self._chill(credential)
                self.folded(credential)
                entry.put_aside(credential)

    def used(self, credential: Credential, now: float) -> None:
        """Take note of a use, also where the session was folded since the credential was at hand."""
        credential.used_at = now
        held = self.hot.get(credential.key) or self.wake(credential.key)
        if held is not None and held.step == credential.step:
            held.used_at = now

    def forget_peak(self, name: str, provider: str) -> None:
        """Believe the store about a provider's chain again."""
        self.drop(name)
        entry = self.known(name)
        if entry is not None:
            entry.peaks = tuple(peak for peak in entry.peaks if peak.provider != provider)

    def drop(self, name: str) -> None:
        """Use nothing of a record any more: it has changed. What is being read of it now will not be used either."""
        self.repeats.forget(name)
        self.changed(name)
        entry = self.known(name)
        if entry is not None:
            entry.epoch = self._next()
            self._clear(entry)

    def disown(self, name: str) -> None:
        """Use nothing of a record any more: another process has changed it."""
        self.drop(name)
        entry = self.known(name)
        if entry is not None:
            entry.disown()

    def bury(self, name: str, now: float) -> None:
        """Forget a record that was deleted."""
        self.drop(name)
        self._place(name).pop(name, None)
        self.unknown(name, now)

    def unknown(self, name: str, now: float) -> None:
        """Take note that the store has no such record: it is not asked again for a moment."""
        if self.known(name) is not None:
            self.drop(name)
            del self._place(name)[name]
        self.repeats.unknown(name, now)

    def hold(self, name: str, fingerprint: str, refusal: Refusal, now: float, seconds: float) -> None:
        """Repeat a refusal for some seconds, where the record is known; what was guessed leaves nothing behind."""
        entry = self.known(name)
        if entry is not None and not entry.peaks:
            del self._place(name)[name]
        elif entry is not None:
            self.repeats.hold(name, fingerprint, refusal, now, seconds)

    def __len__(self) -> int:
        return len(self._sessions) + len(self.resting) + len(self._others)

    def sessions(self) -> int:
        """Return how many sessions are known, awake or at rest."""
        return len(self._sessions) + len(self.resting)

    def tokens(self) -> Iterator[tuple[float, float]]:
        """Return when each hot credential goes stale, and until when it is usable."""
        for credential in self.hot.values():
            yield credential.stale_at, credential.usable_until
        for glance in self.resting.glances():
            yield glance.stale_at, glance.usable_until

    def lagging(self, most: float) -> list[tuple[str, float]]:
        """Return names and last uses of the sessions whose stored time of last use lags too much, see `entry.lags`."""
        awake = [(name, one.used_at) for name, one in self._sessions.items() if one.lags(most)]
        return awake + list(self.resting.lagging(most))

    def touched(self, name: str, last_used: float) -> None:
        """Take note of the time of last use that was stored."""
        entry = self._sessions.get(name)
        if entry is not None:
            entry.last_used = last_used
        self.resting.touched(name, last_used)

    def doubt(self) -> None:
        """Ask the store again before anything is used: any record may have changed."""
        self.hot.clear()
        self.repeats.forget_unknown()
        self.changed("")
        self.resting.doubt(self._epoch)
        for entry in (*self._sessions.values(), *self._others.values()):
            self._mistrust(entry)

    def sweep(self, now: float) -> None:
        """Free what can never be used again."""
        self.repeats.sweep(now)
        for entries in (self._sessions, self._others):
            for name, entry in list(entries.items()):
                self._sweep_one(name, entry, now)
        for name in self.resting.spent(now):
            woken = self._unfold(name, crowd=True)
            if woken is not None and not self._sweep_one(name, woken, now):
                self._fold(name)

    def _next(self) -> int:
        self._epoch += 1
        return self._epoch

    def _place(self, name: str) -> dict[str, Entry]:
        return self._sessions if name.startswith(_SESSIONS) else self._others

    def _mistrust(self, entry: Entry) -> None:
        entry.disown()
        entry.epoch = self._next()
        entry.sure = False

    def _sweep_one(self, name: str, entry: Entry, now: float) -> bool:
        """Free what has expired; say whether all of it has, and is gone."""
        if now >= entry.ends_at:
            self.drop(name)
            del self._place(name)[name]
            return True
        for credential in entry.credentials:
            if not credential.usable(now):
                self._chill(credential)
                entry.put_aside(credential)
        return False

    def make_room(self, kept: str) -> None:
        """Fold, or drop, what has waited longest, but give what was used meanwhile another turn. `kept` stays."""
        entries = self._place(kept)
        most = min(self._awake.most, MOST_ENTRIES) if self._folds(kept) else MOST_ENTRIES
        for chance in range(_SECOND_CHANCES):
            if len(entries) <= most:
                return
            name, entry = next(iter(entries.items()))
            if name == kept or (entry.used_at > entry.enqueued_at and chance < _SECOND_CHANCES - 1):
                entry.enqueued_at = entry.used_at
                entries[name] = entries.pop(name)
            elif self._folds(name):
                self._fold(name)
                while self.sessions() > MOST_ENTRIES:
                    self.repeats.forget(self.resting.drop_oldest())
            else:
                self._clear(entries.pop(name))

    def breathe(self) -> None:
        """Let more sessions be awake, or fewer: to be called 4 times a second."""
        self._awake.breathe(MOST_ENTRIES)
        while self._folds(_SESSIONS) and len(self._sessions) > self._awake.most:
            self.make_room(_SESSIONS)

    def _folds(self, name: str) -> bool:
        return self._folding and name.startswith(_SESSIONS)

    def _fold(self, name: str) -> None:
        entry = self._sessions.pop(name)
        self.resting.put(name, entry, self.hot)
        for credential in entry.credentials:
            self._chill(credential)
            self.folded(credential)

    def _unfold(self, name: str, key: TokenKey | None = None, *, crowd: bool = False) -> Entry | None:
        """Wake a session at rest. `crowd`: it is folded again at once, so that no room need be made for it."""
        found = self.resting.take(name, key)
        if found is None:
            return None
        entry, hot, doubted = found
        self._sessions[name] = entry
        if doubted:
            self._mistrust(entry)
        else:
            for credential in hot:
                self.hot[credential.key] = credential
                self.woken(credential)
        if not crowd:
            self.make_room(name)
        return entry

    def _clear(self, entry: Entry) -> None:
        entry.used_before = entry.used_at
        for credential in entry.credentials:
            self._chill(credential)
            self.folded(credential)
        entry.credentials = ()

    def _chill(self, credential: Credential) -> None:
        if self.hot.get(credential.key) is credential:
            del self.hot[credential.key]
