"""The sessions that have not been used for a while, each as one piece of bytes under the hash in its record's name.

Bounded by `memory`; synchronous, no I/O and no clock. What is asked about many of them (states, times) is read from the
bytes; a session that is used, changed or due for a renewal is taken out and unfolded.
"""

from __future__ import annotations

import binascii
from itertools import islice
from typing import TYPE_CHECKING

from sidecar.credentials.entry import lags
from sidecar.credentials.folded import Words, epoch_of, fold, glances, stored_use, times_of, unfold

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sidecar.credentials.entry import Credential, Entry
    from sidecar.credentials.folded import Glance
    from sidecar.model import TokenKey

_BEFORE, _AFTER = "session:{", "}"  # `records.session_name`
_HASH_BYTES = 32


class Resting:
    """Folded entries, those that were folded first in front."""

    def __init__(self) -> None:
        self._folded: dict[bytes, bytes] = {}
        self._words = Words()
        self._doubted = -1  # entries of this epoch and before may have changed, nobody could say
        self._round: Iterator[bytes] = iter(())

    def __len__(self) -> int:
        return len(self._folded)

    def __contains__(self, name: str) -> bool:
        return _short(name) in self._folded

    def put(self, name: str, entry: Entry, hot: Mapping[TokenKey, Credential]) -> None:
        """Fold the entry of a session. `hot` are the credentials that requests may use at once."""
        short = _short(name)
        if short is not None:
            self._folded[short] = fold(entry, hot, self._words)

    def take(self, name: str, key: TokenKey | None = None) -> tuple[Entry, list[Credential], bool] | None:
        """Take an entry out: it, its hot credentials, and whether it is in doubt. `key` as in `unfold`."""
        short = _short(name)
        folded = self._folded.pop(short, None) if short is not None else None
        return None if folded is None else (*unfold(folded, self._words, key), epoch_of(folded) <= self._doubted)

    def drop_oldest(self) -> str:
        """Forget the entry that was folded first, and return its name."""
        short = next(iter(self._folded))
        del self._folded[short]
        return _long(short)

    def doubt(self, epoch: int) -> None:
        """Take note that any record of this epoch and before may have changed."""
        self._doubted = epoch

    def glances(self) -> Iterator[Glance]:
        """Return what can be told of the credentials that requests may use at once."""
        for folded in self._folded.values():
            if epoch_of(folded) > self._doubted:
                yield from (glance for glance in glances(folded) if glance.hot)

    def lagging(self, most: float) -> Iterator[tuple[str, float]]:
        """Return names and last uses of the sessions whose stored time of last use lags too much, see `entry.lags`."""
        for short, folded in self._folded.items():
            last_used, used_at, ends_at, _ = times_of(folded)
            if lags(used_at, last_used, ends_at, most):
                yield _long(short), used_at

    def touched(self, name: str, last_used: float) -> None:
        """Take note of the time of last use that was stored."""
        short = _short(name)
        folded = self._folded.get(short) if short is not None else None
        if short is not None and folded is not None:
            self._folded[short] = stored_use(folded, last_used)

    def spent(self, now: float) -> list[str]:
        """Return the names of the sessions that have ended or hold an expired token."""
        return [
            _long(short)
            for short, folded in self._folded.items()
            if now >= times_of(folded).ends_at or any(now >= glance.usable_until for glance in glances(folded))
        ]

    def due(self, by: float, share: int) -> list[str]:
        """Return the names of the sessions to be renewed by then, of the next 1/`share` of all. Call it on and on."""
        some = list(islice(self._round, len(self._folded) // share + 1))
        if not some:
            self._round = iter(list(self._folded))
        found = ((short, self._folded.get(short)) for short in some)
        return [_long(short) for short, folded in found if folded is not None and times_of(folded).ahead_at <= by]


def _short(name: str) -> bytes | None:
    """Return the hash in a session record's name; None for another name."""
    try:
        short = binascii.unhexlify(name[len(_BEFORE) : -len(_AFTER)]) if name.startswith(_BEFORE) else b""
    except ValueError:
        return None
    return short if len(short) == _HASH_BYTES else None


def _long(short: bytes) -> str:
    return f"{_BEFORE}{short.hex()}{_AFTER}"
