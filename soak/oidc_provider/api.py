"""The API: believes no token that it has not verified or had introspected, and knows when it last saw whose.

In the driver's process, like the callers, so that order needs no clocks. RFC 7662, RFC 9068 section 4, RFC 6750.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict

from aiohttp import BasicAuth, ClientConnectionError, ClientSession, ClientTimeout, web
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from soak.fleet import HOST
from soak.oidc_provider.issuer import API, CLIENT, RESOURCES

TRIES = 3
EXPECTED = jwt.JWTClaimsRegistry(exp={"essential": True}, sub={"essential": True}, scope={"essential": True})


class Api:
    """Serves /{route}/{user}: whose request it is stands in the path, whose token it is in the token."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.refused: Counter[str] = Counter()  # 401 by route
        self.served: Counter[str] = Counter()  # 200 by route
        self.tokens: dict[tuple[str, str], list[str]] = defaultdict(list)  # by user and route, in order of appearance
        self.last: dict[str, float] = {}  # when a token of the user came last, good or not; monotonic
        self.url = ""
        self._owner: dict[str, str] = {}  # by token: introspection says nothing of one that has ended
        self._issuer = ""
        self._keys: KeySet
        self._client: ClientSession
        self._runner: web.AppRunner

    async def start(self) -> None:
        """Listen; `trust` says later whose tokens are good."""
        application = web.Application()
        application.router.add_get("/{route}/{user}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0)
        await site.start()
        self.url = f"http://{HOST}:{self._runner.addresses[0][1]}"
        self._client = ClientSession(timeout=ClientTimeout(total=10))

    async def trust(self, issuer: str) -> None:
        """Fetch the keys of the provider."""
        self._issuer = issuer
        async with self._client.get(f"{issuer}/jwks") as answer:
            self._keys = KeySet.import_key_set(await answer.json())

    async def stop(self) -> None:
        await self._runner.cleanup()
        await self._client.close()

    async def _serve(self, request: web.Request) -> web.Response:
        route, user = request.match_info["route"], request.match_info["user"]
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            self.wrong.append(f"no token for {user} on {route}")
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        arrived = time.monotonic()
        subject = await (self._verified if RESOURCES[route].format == "jwt" else self._introspected)(token, route)
        owner = subject or self._owner.get(token, "")
        if owner:
            self.last[owner] = max(arrived, self.last.get(owner, 0.0))
        if owner and owner != user:
            self.wrong.append(f"{owner}'s token for {user} on {route}")
        if not subject:
            self.refused[route] += 1
            return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        if token not in self._owner:
            self._owner[token] = subject
            self.tokens[subject, route].append(token)
        self.served[route] += 1
        return web.Response(text=subject)

    async def _introspected(self, token: str, route: str) -> str:
        """Return the user of a token that the provider calls active and good for this route, "" for every other."""
        form = {"token": token, "token_type_hint": "access_token"}
        told = await self._ask("/token/introspection", form)
        good = told.get("active") is True and told.get("iss") == self._issuer and _is_for(told, route)
        return str(told["sub"]) if good else ""

    async def _ask(self, path: str, form: dict[str, str]) -> dict[str, object]:
        """Send a form to the provider; again where it closed the idle connection (Node does after five seconds)."""
        for _ in range(TRIES):
            try:
                async with self._client.post(self._issuer + path, data=form, auth=BasicAuth(*API)) as answer:
                    return await answer.json()
            except ClientConnectionError:
                continue
        raise web.HTTPServiceUnavailable

    async def _verified(self, token: str, route: str) -> str:
        """Return the user, or the application, of a JWT that is good for this route, "" for every other."""
        try:
            found = jwt.decode(token, self._keys, algorithms=["RS256"])
            EXPECTED.validate(found.claims)
        except (JoseError, ValueError):
            return ""
        good = found.header.get("typ") == "at+jwt" and found.claims.get("iss") == self._issuer
        return _subject(found.claims) if good and _is_for(found.claims, route) else ""


def _is_for(claims: dict[str, object], route: str) -> bool:
    wanted = RESOURCES[route]
    return claims.get("aud") == wanted.name and wanted.scope in str(claims.get("scope", "")).split()


def _subject(claims: dict[str, object]) -> str:
    return "app" if claims["sub"] == CLIENT[0] else str(claims["sub"])
