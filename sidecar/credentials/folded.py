"""An entry as one piece of bytes, for sessions at rest: a third of the room of its objects.

Pure. The bytes hold secrets in clear, as the objects do: they stay in `resting` and go nowhere else. They are read by
the process that wrote them alone, so they have no version. Layout: `_HEAD`, one `_CREDENTIAL` for each, one `_PEAK` for
each, then the session id, the access tokens and the refresh tokens (`tight`), in that order.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from sidecar.credentials.entry import NEVER, Credential, Entry, Peak
from sidecar.credentials.session_record import Step
from sidecar.credentials.tight import loosen, tighten
from sidecar.model import Secret, TokenKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HEAD = struct.Struct("<QQddddQHHHB")
# birth, epoch, last use stored, last use, end, ahead, version, counts, id's length, flags
_CREDENTIAL = struct.Struct("<IQQddddddIB")  # fingerprint, step, six times, token's length, flags
_PEAK = struct.Struct("<IQQIB")  # provider, step, token's length, flags
_LAST_USED, _LAST_USED_AT = struct.Struct("<d"), 16
_TIMES, _TIMES_AT = struct.Struct("<dddd"), 16  # of the head
_SURE, _HOT, _SUSPECT, _OWN, _TOKEN = 1, 1, 2, 1, 2
_TEXT = "utf-8", "surrogatepass"


class Words:
    """Texts that many entries share, by number: fingerprints and providers."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._words: list[str] = []

    def number(self, word: str) -> int:
        """Return the number of a word."""
        number = self._numbers.get(word)
        if number is None:
            number = self._numbers[word] = len(self._words)
            self._words.append(word)
        return number

    def word(self, number: int) -> str:
        """Return the word of a number."""
        return self._words[number]


class Times(NamedTuple):
    """When a folded session was last used, as the store has it and in fact, when it ends, when it is to be renewed.

    `ahead_at` is of the first credential that was used since it was obtained; never: of none.
    """

    last_used: float
    used_at: float
    ends_at: float
    ahead_at: float


class Glance(NamedTuple):
    """What can be told of a folded credential at little cost."""

    hot: bool
    stale_at: float
    usable_until: float


def fold(entry: Entry, hot: Mapping[TokenKey, Credential], words: Words) -> bytes:
    """Return an entry as bytes. `hot` are the credentials that requests may use at once."""
    name = entry.credentials[0].key.identity.encode(*_TEXT) if entry.credentials else b""
    tokens = [tighten(credential.token) for credential in entry.credentials]
    secrets = [
        tighten(peak.refresh_token.reveal().encode(*_TEXT)) if peak.refresh_token else b"" for peak in entry.peaks
    ]
    ahead = min((one.ahead_at for one in entry.credentials if one.used_at), default=NEVER)
    times = entry.last_used, entry.used_at, entry.ends_at, ahead
    counts = len(tokens), len(secrets), len(name)
    head = _HEAD.pack(entry.birth, entry.epoch, *times, entry.version, *counts, _SURE * entry.sure)
    return b"".join(
        (
            head,
            *(
                _credential(one, words.number(one.key.fingerprint), len(token), hot.get(one.key) is one)
                for one, token in zip(entry.credentials, tokens, strict=True)
            ),
            *(
                _peak(peak, words.number(peak.provider), len(token))
                for peak, token in zip(entry.peaks, secrets, strict=True)
            ),
            name,
            *tokens,
            *secrets,
        )
    )


def _credential(one: Credential, word: int, length: int, hot: bool) -> bytes:
    flags = _HOT * hot | _SUSPECT * one.suspect
    times = one.true_from, one.stale_at, one.fresh_until, one.usable_until, one.used_at, one.ahead_at
    return _CREDENTIAL.pack(word, one.step.sign_in, one.step.generation, *times, length, flags)


def _peak(peak: Peak, word: int, length: int) -> bytes:
    flags = _OWN * peak.own | _TOKEN * (peak.refresh_token is not None)
    return _PEAK.pack(word, peak.step.sign_in, peak.step.generation, length, flags)


def unfold(folded: bytes, words: Words, key: TokenKey | None = None) -> tuple[Entry, list[Credential]]:
    """Return the entry, and those of its credentials that were hot. `key` is one of theirs, where the caller has it."""
    birth, epoch, last_used, used_at, ends_at, _, version, *counts, flags = _HEAD.unpack_from(folded)
    credentials, peaks, length = counts
    entry = Entry(birth)
    entry.epoch, entry.last_used, entry.used_before, entry.ends_at = epoch, last_used, used_at, ends_at
    entry.version = version
    entry.enqueued_at, entry.sure = used_at, bool(flags & _SURE)
    rows = [_CREDENTIAL.unpack_from(folded, _HEAD.size + row * _CREDENTIAL.size) for row in range(credentials)]
    begun = _HEAD.size + credentials * _CREDENTIAL.size
    tops = [_PEAK.unpack_from(folded, begun + row * _PEAK.size) for row in range(peaks)]
    at = begun + peaks * _PEAK.size
    identity = key.identity if key is not None else folded[at : at + length].decode(*_TEXT)
    at += length
    hot = []
    for row in rows:
        fingerprint = words.word(row[0])
        known = key if key is not None and key.fingerprint == fingerprint else TokenKey(fingerprint, identity)
        credential = _read_credential(row, known, loosen(folded[at : at + row[9]]))
        entry.credentials += (credential,)
        if row[10] & _HOT:
            hot.append(credential)
        at += row[9]
    for provider, sign_in, generation, length, flags in tops:
        token = Secret(loosen(folded[at : at + length]).decode(*_TEXT)) if flags & _TOKEN else None
        entry.peaks += (Peak(words.word(provider), Step(sign_in, generation), token, bool(flags & _OWN)),)
        at += length
    return entry, hot


def _read_credential(
    row: tuple[int, int, int, float, float, float, float, float, float, int, int], key: TokenKey, token: bytes
) -> Credential:
    _, sign_in, generation, true_from, stale_at, fresh_until, usable_until, used_at, ahead_at, _, flags = row
    credential = Credential(
        key,
        token,
        Step(sign_in, generation),
        true_from=true_from,
        stale_at=stale_at,
        usable_until=usable_until,
        suspect=bool(flags & _SUSPECT),
    )
    credential.fresh_until, credential.used_at, credential.ahead_at = fresh_until, used_at, ahead_at
    return credential


def epoch_of(folded: bytes) -> int:
    """Return the epoch of a folded entry."""
    epoch: int = _HEAD.unpack_from(folded)[1]
    return epoch


def times_of(folded: bytes) -> Times:
    """Return the times of a folded entry."""
    return Times._make(_TIMES.unpack_from(folded, _TIMES_AT))


def stored_use(folded: bytes, last_used: float) -> bytes:
    """Return the folded entry with another time of last use, as the store has it."""
    return folded[:_LAST_USED_AT] + _LAST_USED.pack(last_used) + folded[_LAST_USED_AT + _LAST_USED.size :]


def glances(folded: bytes) -> Iterator[Glance]:
    """Return what can be told of the credentials."""
    for row in range(_HEAD.unpack_from(folded)[7]):
        found = _CREDENTIAL.unpack_from(folded, _HEAD.size + row * _CREDENTIAL.size)
        yield Glance(bool(found[10] & _HOT), found[4], found[6])
