"""Steady load: every user, and the application, through every sidecar and every route, and what they were answered."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from soak.fleet import HOST
from soak.oidc_provider.issuer import RESOURCES
from soak.oidc_provider.sidecar import COOKIE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from soak.oidc_provider.sidecar import Sidecar

LIMIT = 1.0
"""Seconds after the end of a session for which it may still be served."""
APP = "app"
LONGEST = 60.0


class Answer(NamedTuple):
    """What one request got. `code` is of a refusal, else the status; times are monotonic seconds."""

    user: str
    instance: int
    asked: float
    took: float
    code: str
    login_url: bool = False


@dataclass(slots=True)
class Phase:
    """What happened while one part of the story was told."""

    name: str
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0


class Load:
    """`sessions` gives the session of every user who is signed in; `out` since when others are not.

    `routes` gives the routes of those who do not use all.
    """

    def __init__(self, sidecars: list[Sidecar], pause: float, seed: int) -> None:
        self.sessions: dict[str, str] = {}
        self.out: dict[str, float] = {}
        self.routes: dict[str, list[str]] = {APP: [name for name, one in RESOURCES.items() if one.app]}
        self.phases: list[Phase] = [Phase("start")]
        self.unavailable: list[Answer] = []  # 503 and broken connections
        self.lost: list[Answer] = []  # login_required for a user who is signed in
        self.wrong: list[str] = []
        self._sidecars = sidecars
        self._pause = pause
        self._draw = random.Random(seed)
        self._tasks: list[asyncio.Task[None]] = []
        self._client = ClientSession(timeout=ClientTimeout(total=LONGEST), connector=TCPConnector(limit=0))

    def begin(self, user: str) -> None:
        """Send for this user from now on, without end."""
        self._tasks += [asyncio.create_task(self._call(user, one)) for one in self._sidecars]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Count what is answered inside under this name."""
        one = Phase(name)
        self.phases.append(one)
        yield one
        one.seconds = time.monotonic() - one.began
        self.phases.append(Phase("between"))

    async def ask(self, user: str, sidecar: Sidecar, route: str) -> Answer:
        """Send one request and judge the answer."""
        session, asked = self.sessions.get(user, ""), time.monotonic()
        headers = {"Host": f"{route}.internal", **({"Cookie": f"{COOKIE}={session}"} if session else {})}
        code, text, login_url = "broken", "", False
        with contextlib.suppress(ClientError, TimeoutError, OSError):
            async with self._client.get(f"http://{HOST}:{sidecar.port}/{user}", headers=headers) as response:
                code, text = str(response.status), await response.text()
                if response.content_type == "application/problem+json":
                    problem = await response.json(content_type=None)
                    code, login_url = problem["code"], "login_url" in problem
                    if response.status == 503 and "Retry-After" not in response.headers:
                        self.wrong.append(f"503 {code} without Retry-After")
        answer = Answer(user, sidecar.number, asked, time.monotonic() - asked, code, login_url)
        self._judge(answer, text, session)
        return answer

    def routes_of(self, user: str) -> list[str]:
        """Return the routes that a user uses."""
        return self.routes.get(user) or [name for name, one in RESOURCES.items() if not one.app]

    async def end(self) -> None:
        """Stop sending."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    def _judge(self, answer: Answer, text: str, session: str) -> None:
        user, phase = answer.user, self.phases[-1]
        phase.codes[answer.code] += 1
        phase.worst = max(phase.worst, answer.took)
        ended = self.out.get(user)
        if answer.code == "200" and text != user:
            self.wrong.append(f"{user} was answered as {text}")
        if answer.code == "login_required":
            if not answer.login_url:
                self.wrong.append("login_required without login_url")
            if ended is None and session == self.sessions.get(user):
                self.lost.append(answer)
        elif answer.code in {"store_unavailable", "provider_unavailable", "broken", "overloaded"}:
            self.unavailable.append(answer)
        elif answer.code == "401" and ended is not None and answer.asked <= ended + LIMIT:
            pass  # the API refused twice: the token was revoked while the request was on its way
        elif answer.code != "200":
            self.wrong.append(f"{user} was answered {answer.code}")
        elif ended is not None and answer.asked > ended + LIMIT:
            self.wrong.append(f"{user} is served {answer.asked - ended:.2f} s after the end")

    async def _call(self, user: str, sidecar: Sidecar) -> None:
        while True:
            await self.ask(user, sidecar, self._draw.choice(self.routes_of(user)))
            await asyncio.sleep(self._draw.uniform(0, 2 * self._pause))
