"""What happens: sign-ins, expiries, failovers of Redis, three ways for a session to end, sign-ins again.

Each chapter runs under the load of all users through all sidecars.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from soak.command import progress
from soak.oidc_provider.load import APP, LIMIT, Load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from soak.oidc_provider.browser import Browser
    from soak.oidc_provider.stage import Stage

    Way = Callable[[str], Awaitable[list[Awaitable[None]]]]

SETTLED = 2.0
"""Seconds after the end of a session at which it is looked at."""
REVOKED_WITHIN = 3.0
"""Seconds: the provider tells nobody that it has revoked a grant; the next 401 or renewal does."""


class Failover(NamedTuple):
    """One loss of the primary. Epoch seconds at its beginning, monotonic too; seconds until there was another."""

    at: float
    began: float
    promoted: float


class End(NamedTuple):
    """The end of one session: how, whose, when (monotonic, epoch), and whether it was over at once."""

    how: str
    user: str
    began: float
    at: float
    allowed: float


class Story:
    """The story and what was seen in it."""

    def __init__(self, stage: Stage, load: Load, arguments: argparse.Namespace) -> None:
        self.failovers: list[Failover] = []
        self.ends: list[End] = []
        self.last: dict[str, float] = {}  # by user: seconds from the end of the session to its last token
        self.sign_ins = 0
        self.again = 0  # sign-outs that were told 503 and sent once more
        self.wrong: list[str] = []
        self._stage, self._load, self._arguments = stage, load, arguments
        self._browsers: dict[str, Browser] = {}

    async def tell(self) -> None:
        """Tell it all."""
        users = [f"u{number}" for number in range(self._arguments.users)]
        for user in users[: 2 * self._arguments.ends]:
            self._load.routes[user] = ["orders"]  # JWTs outlive their revocation: word of the end alone can stop them
        with self._load.phase("sign-in"):
            await asyncio.gather(*(self._sign_in(user) for user in users))
        for user in (*users, APP):
            self._load.begin(user)
        with self._load.phase("expiries"):
            await asyncio.sleep(self._arguments.duration)
        for number in range(self._arguments.failovers):
            await self._fail_over(number + 1)
        ended = await self._end_sessions(users)
        with self._load.phase("sign-in again"):
            await asyncio.gather(*(self._sign_in(user) for user in ended))
            await self._served(ended)
        with self._load.phase("expiries again"):
            await asyncio.sleep(self._arguments.duration / 2)
        await self._load.end()
        for browser in self._browsers.values():
            await browser.__aexit__(None, None, None)

    async def _sign_in(self, user: str) -> None:
        if user in self._browsers:
            await self._browsers[user].__aexit__(None, None, None)
        browser = self._browsers[user] = self._stage.browser(user)
        await browser.sign_in()
        self.sign_ins += 1
        self._load.sessions[user] = browser.session
        self._load.out.pop(user, None)

    async def _served(self, users: list[str]) -> None:
        """See that every instance serves these users."""
        for sidecar in self._stage.sidecars:
            for user in users:
                answer = await self._load.ask(user, sidecar, self._load.routes_of(user)[0])
                if answer.code != "200":
                    self.wrong.append(f"{user} signed in again and got {answer.code} from instance {sidecar.number}")

    async def _fail_over(self, number: int) -> None:
        with self._load.phase(f"failover {number}"):
            at, began = time.time(), time.monotonic()
            took = await self._stage.redis.fail_over()
            self.failovers.append(Failover(at, began, took))
            progress(f"failover {number}: another primary after {took:.1f} s")
            await asyncio.sleep(self._arguments.between)
            await self._stage.redis.repair()
            await asyncio.sleep(self._arguments.between)

    async def _end_sessions(self, users: list[str]) -> list[str]:
        """End sessions in three ways, one after another and all under load; return whose."""
        count, ended = self._arguments.ends, []
        ways: list[tuple[str, Way, float]] = [
            ("sign-out", self._sign_out, LIMIT),
            ("back-channel", self._back_channel, LIMIT),
            ("revoked", self._revoke, REVOKED_WITHIN),
        ]
        for place, (how, way, allowed) in enumerate(ways):
            chosen = users[place * count : (place + 1) * count]
            with self._load.phase(how):
                await asyncio.gather(*(self._end(how, user, way, allowed) for user in chosen))
            ended += chosen
        return ended

    async def _end(self, how: str, user: str, way: Way, allowed: float) -> None:
        """End a session; look later when its token was last seen, and what every instance answers."""
        self._load.out[user] = math.inf  # both answers are right until it is over
        further = await way(user)
        over = End(how, user, time.monotonic(), time.time(), allowed)
        self._load.out[user] = over.began + allowed - LIMIT
        self.ends.append(over)
        await asyncio.gather(asyncio.sleep(allowed + SETTLED), *further)
        self.last[user] = self._stage.api.last.get(user, 0.0) - over.began
        for sidecar in self._stage.sidecars:
            for route in ("profiles", "orders"):
                answer = await self._load.ask(user, sidecar, route)
                if answer.code != "login_required":
                    self.wrong.append(f"{user}, {how}: instance {sidecar.number} answers {answer.code} on {route}")

    async def _sign_out(self, user: str) -> list[Awaitable[None]]:
        """Sign out at the sidecar; further, as the browser is led, at the provider, which then tells the sidecar."""
        location = await self._browsers[user].sign_out()
        self.again += self._browsers[user].again
        return [self._led_on(user, location)]

    async def _led_on(self, user: str, location: str) -> None:
        if not location.startswith(self._stage.issuer.url):
            self.wrong.append(f"{user}'s sign-out did not lead to the provider: nobody was signed in")
            return
        landed = await self._browsers[user].sign_out_at_provider(location)
        if landed.rstrip("/") != self._stage.front.url:
            self.wrong.append(f"{user}'s sign-out at the provider led to {landed.partition('?')[0]}")

    async def _back_channel(self, user: str) -> list[Awaitable[None]]:
        """Sign out on the provider's own page: the provider tells the sidecar before it answers."""
        await self._browsers[user].sign_out_at_provider()
        return []

    async def _revoke(self, user: str) -> list[Awaitable[None]]:
        """End the grants at the provider, which tells nobody."""
        await self._stage.issuer.revoke(user)
        return []

    def figures(self) -> dict[str, Any]:
        """Return how long the ends took to be felt everywhere: the last token after the end, by way, in seconds."""
        return {
            how: round(max(0.0, *(self.last[one.user] for one in self.ends if one.how == how)), 3)
            for how in dict.fromkeys(one.how for one in self.ends)
        }
