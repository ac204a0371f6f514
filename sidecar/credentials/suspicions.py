"""What the resource servers' 401s say about our tokens, and when to believe them (cases RF-13, RF-14).

A rejection is believed at once when no renewal has been tried for it: the token, and all that are older, are rejected,
and one renewal follows. If the renewed token is rejected too, without having been accepted in between, the token is
hardly at fault: for a growing time (5 s, doubling, at most 5 min) such rejections are not believed and cost nothing.
What was said of tokens that have all expired since is forgotten, and nothing is held against the tokens of another
sign-in. No clock, no I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sidecar.oauth.token_response import MAX_LIFE

if TYPE_CHECKING:
    from sidecar.credentials.session_record import Step
    from sidecar.model import TokenKey

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
MOST = 10_000


class Suspicion(NamedTuple):
    """`rejected` is where the newest rejected token is from; `renewals` were made for rejections in a row."""

    rejected: Step
    renewals: int
    since: float
    believe_after: float


class Suspicions:
    """The suspicions by token key: few, and the oldest are dropped."""

    def __init__(self) -> None:
        self._by_key: dict[TokenKey, Suspicion] = {}

    def rejected(self, key: TokenKey) -> Step | None:
        """Return up to which token all are rejected for `key`."""
        suspicion = self._by_key.get(key)
        return suspicion.rejected if suspicion else None

    def rejects(self, key: TokenKey, step: Step) -> bool:
        """Say whether the token of this step is rejected for `key`: it was, or a later one of the same sign-in."""
        suspicion = self._by_key.get(key)
        return suspicion is not None and suspicion.rejected.reaches(step)

    def waiting(self, key: TokenKey) -> bool:
        """Say whether it is not yet known that the last renewal for a rejection helped."""
        suspicion = self._by_key.get(key)
        return suspicion is not None and suspicion.renewals > 0

    def reject(self, key: TokenKey, step: Step, now: float) -> bool:
        """Take note of a rejection; say whether it is believed, so that a newer token is needed."""
        before = self._by_key.get(key)
        if before is not None and before.rejected.reaches(step):
            return True
        renewals = before.renewals if before is not None and before.rejected.sign_in == step.sign_in else 0
        if before is not None and renewals and before.since <= now < before.believe_after:
            return False
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(renewals, 10))
        self._note(key, Suspicion(step, renewals + 1, now, now + pause))
        return True

    def sweep(self, now: float) -> None:
        """Forget the suspicions whose tokens have expired by now, however long they were to live."""
        over = [key for key, suspicion in self._by_key.items() if now >= suspicion.since + MAX_LIFE]
        for key in over:
            del self._by_key[key]

    def accept(self, key: TokenKey, step: Step) -> None:
        """Take note that a newer token was accepted: the next rejection is believed at once again."""
        before = self._by_key.get(key)
        if before is not None and not before.rejected.reaches(step):
            self._by_key[key] = before._replace(renewals=0)

    def _note(self, key: TokenKey, suspicion: Suspicion) -> None:
        self._by_key.pop(key, None)
        self._by_key[key] = suspicion
        if len(self._by_key) > MOST:
            del self._by_key[next(iter(self._by_key))]
