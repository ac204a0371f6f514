"""What must hold of a simulated fleet, and whose a session is at a time.

Each sign-in is of a user of its own, so a token says where it is from. The judge knows from when on a change of a session
may have been seen, and from when on it must be; a change that was answered with an error may have happened or not.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from fuzz.fleet_server import APPLICATION, PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.fleet_mix import Mix
    from fuzz.fleet_server import Family

WORD = 1.0
"""Seconds within which each instance knows of a change (docs/redis.md); so long what was before may be served."""
REFUSED = 4.0
"""Seconds for which a 401 may come from before: it is repeated for one, and a slow store answers after three."""
SERVED_AGAIN = 8.0
"""Seconds after a failover for which an id may be served as it was before: until who wrote that has written it again."""
SETTLED = 20.0
"""Seconds after a failover, or an outage, for which what it took with it costs sessions: locks, rotations."""
LEASE_LEFT = 10.0
"""Seconds that a lock's lease goes on at the least without being renewed."""
MOST_REQUESTS = 1.0
"""Token requests for each reason to make one: 60 % of a key's life, a 401, a change of a session and each of its routes."""
STORY = 14


class Violation(NamedTuple):
    """A rule that did not hold, and the session's last events before."""

    at: float
    rule: str
    what: str
    story: tuple[str, ...]


@dataclass
class Era:
    """Whose a session may be from `began` on, and is (nobody else's) from `settled` on. None: nobody's."""

    began: float
    users: frozenset[str | None]
    settled: float = inf


class Judge:
    """Hears what happens, in simulated seconds by `now`; `violations` is what broke a promise."""

    def __init__(self, mix: Mix, now: Callable[[], float]) -> None:
        self.now = now
        self.violations: list[Violation] = []
        self.excused: Counter[str] = Counter()
        self.tally: Counter[str] = Counter()
        self.families: dict[str, Family] = {}
        self._mix = mix
        self._eras: defaultdict[tuple[str, str], list[Era]] = defaultdict(lambda: [Era(-inf, frozenset([None]), -inf)])
        self._failovers: list[tuple[float, float]] = []  # when, and to what time the store went back
        self._outages: list[tuple[float, float]] = []  # from when to when
        self._digest = hashlib.sha256()
        self._stories: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=STORY))

    @property
    def history(self) -> str:
        """Return a hash of all that was told."""
        return self._digest.hexdigest()[:16]

    def note(self, about: str, what: str, *, told: bool = True) -> None:
        """Put down an event of a session, a user of it or (empty) all of them. `told`: it is worth repeating."""
        line = f"{self.now():9.3f}  {what}"
        self._digest.update(f"{about} {line}\n".encode())
        if told:
            self._stories[_session(about)].append(line)

    # -- what changes a session -----------------------------------------------------------------------------------

    def begin(self, session: str, provider: str, user: str | None) -> Era:
        """Take note that a change has begun after which the session is `user`'s."""
        self._eras[session, provider].append(Era(self.now(), frozenset([user])))
        return self._eras[session, provider][-1]

    def end(self, session: str, provider: str, era: Era, *, sure: bool) -> None:
        """Take note that a change was answered; not `sure`: by an error."""
        if not sure:
            eras = self._eras[session, provider]
            era.users |= eras[eras.index(era) - 1].users
        era.settled = self.now()

    def failed_over(self, lost: float) -> None:
        """Take note that the store has gone back by `lost` seconds."""
        self._failovers.append((self.now(), self.now() - lost))
        self._everywhere(f"failover: the last {lost:.2f} s are lost")

    def went_away(self, until: float) -> None:
        """Take note that the store is away."""
        self._outages.append((self.now(), until))
        self._everywhere(f"the store is away until {until:.3f}")

    # -- what must hold -------------------------------------------------------------------------------------------

    def served(self, session: str, provider: str, token: str, asked_at: float, by: str) -> None:
        """Judge a credential that was handed out for a session (empty: for the application)."""
        user = token.split(".")[1]  # access.USER.NUMBER
        self.tally["served"] += 1
        self.note(session, f"{by} serves {token}", told=False)
        allowed = self._users(session, provider, asked_at - WORD) if session else {APPLICATION}
        if user in allowed:
            return
        ended = allowed == {None} and session == _session(user)
        rule = "ended session served" if ended else "another user's credential"
        about = f"{by} serves {token} at {provider}, asked at {asked_at:.3f}; may be {sorted(map(str, allowed))}"
        deaf = any(begun < self.now() and asked_at < end + WORD for begun, end in self._outages)
        excuse = (deaf and "outage: no word") or (self._failed_over(asked_at - SERVED_AGAIN) and "failover: as before")
        self._break(rule, session, about, excuse)

    def refused(self, session: str, provider: str, asked_at: float, by: str) -> None:
        """Judge a 401 `login_required`."""
        self.tally["login_required"] += 1
        self.note(session, f"{by} refuses {provider}", told=False)
        allowed = self._users(session, provider, asked_at - REFUSED)
        if None in allowed or any(self._gone(user, len(allowed)) for user in allowed):
            return
        about = f"{by} knows no session at {provider}, asked at {asked_at:.3f}; is {sorted(map(str, allowed))}"
        new = self._never_made_again(session, provider) and "failover: a sign-in under a new id is not made again"
        lost = self._failed_over(asked_at - SETTLED) and "failover: lost"
        self._break("session lost", session, about, new or lost)

    def sent_twice(self, user: str, before: float) -> None:
        """Judge a refresh token that was sent at `before` and is sent again."""
        away = any(
            before < end and self.now() < end + SETTLED and end - begun > (0 if self._mix.local else LEASE_LEFT)
            for begun, end in self._outages
        )
        locked = before - LEASE_LEFT  # since when the lock may have been held, and lost, under which it was sent first
        excuse = (self._failed_over(locked) and "failover: sent twice") or (away and "outage: sent twice")
        self._break("refresh token sent twice", user, f"of {user}, first at {before:.3f}", excuse)

    def requests(self, sent: int, reasons: float) -> None:
        """Judge how many token requests there were in all."""
        self.tally["token requests"] += sent
        if sent > MOST_REQUESTS * reasons:
            self._break("endless token requests", "", f"{sent} for {reasons:.0f} reasons", "")

    def stuck(self, session: str, what: str, by: str) -> None:
        """Judge a session that is neither served nor refused although all has been well for a minute."""
        self._break("not served in the calm", session, f"{by}: {what}", "")

    def escaped(self, error: BaseException | str) -> None:
        """Judge an exception that nobody declared."""
        self._break("exception", "", repr(error), "")

    def _users(self, session: str, provider: str, since: float) -> set[str | None]:
        eras = self._eras[session, provider]
        over = [*(era.settled for era in eras[1:]), inf]
        return {user for era, end in zip(eras, over, strict=True) if end >= since for user in era.users}

    def _gone(self, user: str | None, among: int) -> bool:
        """Say whether a user's family ended: by a reuse that was judged, or as the next one had signed in."""
        family = self.families.get(user or "")
        return family is not None and (family.dead or (family.revoked and among > 1))

    def _never_made_again(self, session: str, provider: str) -> bool:
        """Say whether a failover took the last sign-in with it, and there was no session before."""
        last = self._eras[session, provider][-1]
        lost = any(back < last.settled and last.began <= at for at, back in self._failovers)
        before = [[era for era in self._eras[session, at] if era.began < last.began][-1] for at in PROVIDERS]
        return lost and all(era.users == {None} for era in before)

    def _failed_over(self, since: float) -> bool:
        return any(since < at and self.now() < at + SETTLED for at, _ in self._failovers)

    def _break(self, rule: str, about: str, what: str, excuse: str | bool) -> None:
        self.note(about, f"{rule}: {what}")
        if excuse:
            self.excused[str(excuse)] += 1
        else:
            story = tuple(self._stories[_session(about)])
            self.violations.append(Violation(self.now(), rule, what, story))

    def _everywhere(self, what: str) -> None:
        for session in [*self._stories, ""]:
            self.note(session, what)


def _session(about: str) -> str:
    """Return the session that an id, or the name of a user of it, means."""
    return about.partition("-")[0]
