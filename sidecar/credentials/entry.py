"""What is at hand of one record: its credentials, and the newest known state of its refresh chains.

Values that change in place, by `memory` alone: who waits for something keeps a `Mark`, never an entry, since an entry
may be folded up (`folded`) and unfolded meanwhile. No I/O, no clock. Times are seconds since the epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.credentials.session_record import Chain, Step
    from sidecar.model import Secret, TokenKey

NEVER = float("inf")


def lags(used_at: float, last_used: float, ends_at: float, most: float) -> bool:
    """Say whether a session's stored time of last use is to be written: in time for `ends_at`, `most` seconds late."""
    return used_at > last_used + min(most, (ends_at - last_used) / 4)


class Credential:
    """An access token ready for the header, and when it may be used."""

    __slots__ = (
        "ahead_at", "fresh_until", "key", "stale_at", "step", "suspect", "token", "true_from", "usable_until",
        "used_at",
    )  # fmt: skip

    def __init__(
        self,
        key: TokenKey,
        token: bytes,
        step: Step,
        *,
        true_from: float,
        stale_at: float,
        usable_until: float,
        suspect: bool = False,
    ) -> None:
        self.token = token  # ASCII, as it stands in the header
        self.key = key
        self.step = step
        self.true_from = true_from
        self.stale_at = stale_at
        self.fresh_until = min(stale_at, usable_until)  # later, where a renewal failed and is not to be tried yet
        self.usable_until = usable_until
        self.used_at = 0.0
        self.ahead_at = NEVER  # when to look whether it is to be renewed ahead of need
        self.suspect = suspect  # bought for a rejection: tell `Broker.accepted` when an upstream takes it

    def __repr__(self) -> str:
        return f"Credential(…, {self.step})"

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
    step: Step
    refresh_token: Secret | None
    own: bool = False
    chain: Chain | None = None


class Mark(NamedTuple):
    """An entry as it was when a reading began: the same entry has the same `birth`; `epoch` grows with each change."""

    birth: int
    epoch: int


class Entry:
    """What is at hand of one record. `birth` is a number that no other entry of the process has."""

    __slots__ = (
        "birth", "credentials", "ends_at", "enqueued_at", "epoch", "last_used", "peaks", "sure", "used_before",
        "version",
    )  # fmt: skip

    def __init__(self, birth: int) -> None:
        self.birth = birth
        self.epoch = birth  # grows when what was read before may not be used any more
        self.credentials: tuple[Credential, ...] = ()  # one for each route: few, and a tuple is small
        self.peaks: tuple[Peak, ...] = ()
        self.sure = True  # False: the record may have changed, nobody could say
        self.last_used = 0.0  # as the store has it
        self.used_before = 0.0  # the last use of credentials that are no longer here
        self.enqueued_at = 0.0
        self.ends_at = NEVER
        self.version = 0  # the highest one of the record that was read or written

    @property
    def mark(self) -> Mark:
        """Return what tells whether this is still the entry, and unchanged."""
        return Mark(self.birth, self.epoch)

    @property
    def used_at(self) -> float:
        """Return the last use of any credential of the record by this process."""
        used = self.used_before
        for credential in self.credentials:
            used = max(used, credential.used_at)
        return used

    def lags(self, most: float) -> bool:
        """Say whether the stored time of last use is to be written, see `lags`."""
        return lags(self.used_at, self.last_used, self.ends_at, most)

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

    def climb(self, peak: Peak, version: int) -> None:
        """Take note of a chain's state that the store has in this version of the record, or will have."""
        before = self.peak(peak.provider)
        if before is not None and before.step.sign_in == peak.step.sign_in:
            newer = peak.step.reaches(before.step)
        else:
            newer = version >= self.version
        if newer:
            self.peaks = (*(other for other in self.peaks if other.provider != peak.provider), peak)

    def read(self, version: int, sign_ins: Mapping[str, int]) -> None:
        """Take note of a version of the record, and of its sign-ins by provider.

        Where it is later than what is known, it has replaced the other sign-ins.
        """
        if version > self.version:
            self.version = version
            self.peaks = tuple(peak for peak in self.peaks if sign_ins.get(peak.provider) == peak.step.sign_in)

    def disown(self) -> None:
        """Take note that another process may have spent the refresh tokens."""
        self.peaks = tuple(peak._replace(own=False) for peak in self.peaks)
