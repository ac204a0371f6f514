"""The authorization server of a simulated fleet: rotates at once, ends a family at the first reuse, is slow and away.

RFC 9700 section 4.14.2; no leeway. A token's value names its user. What it is asked and answers is told to the judge.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from sidecar.model import Form, Granted, GrantRefused, Outcome, Secret, Token, Unavailable
from sidecar.provider_http import NOT_SENT

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from fuzz.fleet_judge import Judge
    from fuzz.fleet_mix import Mix
    from sidecar.gate import Urgency

APPLICATION = "application"
PROVIDERS = ("idp", "other")
TIMEOUT = 10.0


@dataclass
class Family:
    """What one sign-in gave: its live refresh token, and how it ended."""

    user: str
    live: str
    dead: bool = False  # by reuse
    revoked: bool = False


class Server:
    """What all instances ask. `calm`: it is quick and there from now on."""

    def __init__(self, mix: Mix, rng: random.Random, judge: Judge) -> None:
        self.mix, self.rng, self.judge = mix, rng, judge
        self.calm = False
        self.asked: Counter[str] = Counter()
        self._families: dict[str, Family] = {}
        self._sent: dict[str, float] = {}
        self._numbers = count(1)

    def sign_in(self, user: str) -> dict[str, object]:
        """Return the token response of a fresh sign-in."""
        number = next(self._numbers)
        refresh_token = f"refresh.{user}.{number}"
        family = self._families[refresh_token] = Family(user, refresh_token)
        self.judge.families[user] = family
        access_token = f"access.{user}.{number}"
        return {"access_token": access_token, "token_type": "Bearer", "refresh_token": refresh_token, "scope": "read"}

    def answer(self, form: dict[str, str], asked: frozenset[str], at: float) -> Outcome:
        """Answer a token request that was sent at `at` by its sender's clock."""
        number, expires_at = next(self._numbers), at + self.mix.life
        self.asked[form["grant_type"]] += 1
        if form["grant_type"] == "client_credentials":
            return Granted(Token(Secret(f"access.{APPLICATION}.{number}"), at, expires_at, asked))
        spent = form["refresh_token"]
        family = self._families[spent]
        if spent in self._sent:
            self.judge.sent_twice(family.user, self._sent[spent])
        self._sent.setdefault(spent, self.judge.now())
        family.dead = family.dead or family.live != spent
        self.judge.note(family.user, f"{spent} is sent{' and refused' * (family.dead or family.revoked)}")
        if family.dead or family.revoked:
            return GrantRefused()
        family.live = f"refresh.{family.user}.{number}"
        self._families[family.live] = family
        token = Token(Secret(f"access.{family.user}.{number}"), at, expires_at, asked)
        return Granted(token, Secret(family.live))

    def revoke(self, token: str) -> None:
        """End a family."""
        family = self._families[token]
        family.revoked = True
        self.judge.note(family.user, f"{token} is revoked")


class Client:
    """What one instance, with a clock of its own, has for the server: a `registry.AuthorizationServer`."""

    def __init__(self, server: Server, clock: Callable[[], float]) -> None:
        self._server = server
        self._clock = clock
        self._under_way: set[asyncio.Task[Outcome]] = set()

    async def token(
        self,
        form: Form,
        *,
        asked: frozenset[str],
        late: Callable[[asyncio.Task[Outcome]], None] | None = None,
        urgency: Urgency | None = None,
        wanted: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Ask, for ten seconds at most; `late` gets what comes afterwards."""
        del urgency
        server, at = self._server, self._clock()
        await asyncio.sleep(server.rng.choice([0, 0.01, 0.1]))
        if wanted is not None and not wanted():
            return NOT_SENT
        if not server.calm and server.rng.random() < server.mix.provider:
            return Unavailable("refused_connection")
        request = asyncio.get_running_loop().create_task(self._exchange(dict(form), asked, at, late is not None))
        self._under_way.add(request)
        request.add_done_callback(self._under_way.discard)
        done, _ = await asyncio.wait([request], timeout=TIMEOUT)
        if done:
            return request.result()
        if late is not None:
            late(request)
        return Unavailable("timeout")

    async def _exchange(self, form: dict[str, str], asked: frozenset[str], at: float, late: bool) -> Outcome:
        rng = self._server.rng
        await asyncio.sleep(rng.choice([0.01, 0.05, 0.3]))
        outcome = self._server.answer(form, asked, at)
        slow = [2.0, 14.0 if late else 2.0] if self._server.mix.slow and not self._server.calm else []
        await asyncio.sleep(rng.choice([0.01, 0.05, 0.5, *slow]))
        return outcome

    def turned_away(self, *, urgent: bool) -> Unavailable | None:
        """Turn nobody away."""
        del urgent
        return None

    def resting(self) -> float:
        """Never rest."""
        return 0.0

    async def revoke(self, token: Secret, hint: str) -> bool:
        """Revoke a refresh token (RFC 7009)."""
        del hint
        await asyncio.sleep(0.05)
        self._server.revoke(token.reveal())
        return True
