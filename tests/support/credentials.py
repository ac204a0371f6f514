"""An authorization server of the broker's own interface, a clock that stands still, and a broker over both."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from sidecar.credentials.broker import Broker
from sidecar.credentials.vault import Vault, generate_key
from sidecar.model import (
    APPLICATION,
    Form,
    Granted,
    GrantRefused,
    Outcome,
    Secret,
    Token,
    TokenKey,
    TokenSpec,
    Unavailable,
)
from sidecar.provider_http import NOT_SENT
from sidecar.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

USER = TokenSpec("idp", "https://idp.test", "app", "session", scopes=frozenset({"read"}))
OTHER_ROUTE = replace(USER, scopes=frozenset({"write"}))
APP = TokenSpec("idp", "https://idp.test", "app", "client_credentials", scopes=frozenset({"stats"}))
SPECS = (USER, OTHER_ROUTE, APP)


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Family:
    """What one sign-in gave: its live refresh token, and whether reuse has killed it."""

    user: str
    live: str
    dead: bool = False


class Server:
    """Issues, rotates, detects reuse (RFC 9700 section 4.14.2: the whole family dies), revokes.

    `gate` holds every answer back while it is cleared; `script` replaces the next outcomes (None: as usual). The token's
    value names its user, its scope and its number, so that a test sees whose it is.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.life = 3600.0
        self.rotate = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.sending = asyncio.Event()  # cleared: every request is about to go out
        self.sending.set()
        self.latency = 0
        self.rest = 0.0
        self.wait = 0.0  # there are so many in line that nobody gets in for so long
        self.tardy = False  # every request times out, and its answer comes when the gate opens
        self.script: deque[Outcome | None] = deque()
        self.forms: list[dict[str, str]] = []
        self.urgent: list[bool] = []  # by request: whether it was, when it came
        self.revoked: list[str] = []
        self.spent: Counter[str] = Counter()
        self.families: dict[str, Family] = {}
        self._numbers = count(1)

    @property
    def calls(self) -> int:
        return len(self.forms)

    @property
    def killed(self) -> list[str]:
        return [family.user for family in self.families.values() if family.dead]

    def sign_in(self, user: str, **members: object) -> dict[str, object]:
        """Return the token response of a fresh sign-in."""
        number = next(self._numbers)
        refresh_token = f"refresh.{user}.{number}"
        self.families[refresh_token] = Family(user, refresh_token)
        response = {
            "access_token": f"access.{user}.sign-in.{number}",
            "token_type": "Bearer",
            "expires_in": self.life,
            "refresh_token": refresh_token,
            "scope": "read",
        }
        return {name: value for name, value in {**response, **members}.items() if value is not None}

    async def token(
        self, form: Form, *, asked: frozenset[str], late: Any = None, urgency: Any = None, wanted: Any = None
    ) -> Outcome:
        requested_at = self.clock()
        await self.sending.wait()
        if wanted is not None and not wanted():
            return NOT_SENT
        self.forms.append(dict(form))
        self.urgent.append(urgency is None or urgency.urgent)
        if self.tardy:
            late(asyncio.get_running_loop().create_task(self._in_the_end(form, asked, requested_at)))
            return Unavailable("timeout")
        return await self._in_the_end(form, asked, requested_at)

    async def _in_the_end(self, form: Form, asked: frozenset[str], requested_at: float) -> Outcome:
        await self.gate.wait()
        for _ in range(self.latency):
            await asyncio.sleep(0)
        scripted = self.script.popleft() if self.script else None
        return scripted if scripted is not None else self._answer(dict(form), asked, requested_at)

    def turned_away(self, *, urgent: bool) -> Unavailable | None:
        del urgent
        return Unavailable("busy", self.wait) if self.wait else None

    def resting(self) -> float:
        return self.rest

    async def revoke(self, token: Secret, hint: str) -> bool:
        assert hint == "refresh_token"
        self.revoked.append(token.reveal())
        return True

    def _answer(self, form: Mapping[str, str], asked: frozenset[str], requested_at: float) -> Outcome:
        number = next(self._numbers)
        scope = "+".join(sorted(asked))
        expires_at = requested_at + self.life
        if form["grant_type"] == "client_credentials":
            about = "+".join([scope, *(f"{name}={form[name]}" for name in sorted(form) if name in ("audience", "p"))])
            return Granted(Token(Secret(f"access.app.{about}.{number}"), requested_at, expires_at))
        spent = form["refresh_token"]
        family = self.families.get(spent)
        if family is None or family.dead:
            return GrantRefused()
        self.spent[spent] += 1
        if family.live != spent:
            family.dead = True
            return GrantRefused()
        token = Token(Secret(f"access.{family.user}.{scope}.{number}"), requested_at, expires_at)
        if not self.rotate:
            return Granted(token)
        family.live = f"refresh.{family.user}.{number}"
        self.families[family.live] = family
        return Granted(token, Secret(family.live))


def keyed(spec: TokenSpec, session: str | None = None) -> TokenKey:
    """Return the key of a spec for a session, or for the application."""
    return TokenKey(spec.fingerprint, APPLICATION if session is None else session)


async def no_time(_seconds: float) -> None:
    """Sleep for no time, but let others work."""
    await asyncio.sleep(0)


class Bench:
    """A broker, its store and its authorization server under one clock."""

    def __init__(self, specs: tuple[TokenSpec, ...] = SPECS, store: Any = None, vault: Vault | None = None) -> None:
        self.clock = Clock()
        self.server = Server(self.clock)
        self.store = MemoryStore(self.clock) if store is None else store
        self.vault = vault or Vault([Secret(generate_key())])
        self.specs = {spec.fingerprint: spec for spec in specs}
        self.broker = self.another()

    def another(
        self, store: Any = None, *, local: bool = False, sleep: Callable[[float], Awaitable[None]] = no_time
    ) -> Broker:
        """Return one more instance over the same store."""
        return Broker(
            self.specs,
            {spec.provider: self.server for spec in self.specs.values()},
            self.store if store is None else store,
            self.vault,
            clock=self.clock,
            jitter=lambda: 1.0,
            sleep=sleep,
            local=local,
        )

    async def sign_in(self, session: str, user: str | None = None, **members: object) -> str:
        """Put a session; return its refresh token (empty if it has none)."""
        response = self.server.sign_in(user or session, **members)
        await self.broker.sessions.put(session, "idp", response)
        return str(response.get("refresh_token", ""))

    async def token(self, spec: TokenSpec, session: str | None = None) -> str:
        """Return the access token that a request would carry."""
        key = keyed(spec, session)
        credential = self.broker.ready(key, self.clock()) or await self.broker.obtain(key)
        return credential.token.decode()

    async def idle(self) -> None:
        """Let background flights land."""
        for _ in range(200):
            await asyncio.sleep(0)
