"""A resource server that believes no token it has not verified: signature, type, issuer, audience, expiry, revocation.

It answers with the subject and scopes it saw, and keeps the head of every request it got. It obtains no tokens.
RFC 6750 section 3, RFC 7662, RFC 9068 section 4.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote_plus

from aiohttp import ClientError, ClientSession, ClientTimeout, encode_basic_auth, web
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from sidecar.demo.heads import fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from sidecar.demo.issuer.clients import Client

ALGORITHMS = ["ES256"]
REALM = "demo-api"


class Needs(NamedTuple):
    """What an endpoint asks of a token: a scope, and whether it must be a user's or the application's own."""

    scope: str
    user: bool


ENDPOINTS = {"/stats": Needs("stats.read", user=False), "/profile": Needs("profiles.read", user=True)}


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived. `head` is the request line and the header lines; it holds the token: never print it.

    `token` is the fingerprint of the bearer token, `subject` and `scopes` what it was good for.
    """

    head: bytes
    status: int
    token: str = ""
    subject: str = ""
    scopes: frozenset[str] = frozenset()


class Denied(Exception):  # noqa: N818 - an answer, not a fault of the program
    """The request is not served. `error` is a code of RFC 6750 section 3.1, "" where no token came."""

    def __init__(self, status: int, error: str = "", description: str = "", scope: str = "") -> None:
        super().__init__(status, error, description)
        self.status = status
        self.members = {"realm": REALM, "error": error, "error_description": description, "scope": scope}

    @property
    def challenge(self) -> str:
        """The value of WWW-Authenticate."""
        return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in self.members.items() if value)


class Api:
    """The API of one issuer. `audience` is its own name in tokens; `client` its registration for introspection."""

    def __init__(self, issuer: str, client: Client, audience: str = "demo-api") -> None:
        self.received: list[Received] = []
        self.url = ""
        self._issuer = issuer
        self._audience = audience
        self._credentials = {
            "Authorization": encode_basic_auth(quote_plus(client.client_id), quote_plus(client.secret))
        }
        self._metadata: dict[str, str] = {}
        self._keys: KeySet | None = None
        self._client: ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; `url` is known afterwards. The issuer is asked for its keys when the first token comes."""
        application = web.Application()
        application.add_routes([web.route("*", path, self._serve) for path in ENDPOINTS])
        self._client = ClientSession(timeout=ClientTimeout(total=5))
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        address = self._runner.addresses[0]
        self.url = f"http://{address[0]}:{address[1]}"

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        if self._runner:
            await self._runner.cleanup()
        if self._client:
            await self._client.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serve(self, request: web.Request) -> web.Response:
        token = _bearer_text(request)
        mark = fingerprint(token) if token else ""
        try:
            claims = await self._permitted(token, ENDPOINTS[request.path])
        except Denied as denied:
            self.received.append(Received(_head(request), denied.status, mark))
            return _denial(denied)
        scopes = frozenset(claims["scope"].split())
        self.received.append(Received(_head(request), 200, mark, claims["sub"], scopes))
        body = {"subject": claims["sub"], "scope": sorted(scopes), "client_id": claims["client_id"]}
        return _json(body | {"body_bytes": len(await request.read())})

    async def _permitted(self, token: str | None, needs: Needs) -> dict[str, Any]:
        if token is None:
            raise Denied(401)
        claims = await self._verified(token)
        if needs.scope not in claims["scope"].split():
            raise Denied(403, "insufficient_scope", "the token does not cover this", needs.scope)
        if needs.user != (claims["sub"] != claims["client_id"]):
            raise Denied(403, "insufficient_scope", f"a token of {'a user' if needs.user else 'the application'}")
        return claims

    async def _verified(self, text: str) -> dict[str, Any]:
        """Return the claims of a token that is good here; raise `Denied` for every other."""
        expected = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._audience},
            exp={"essential": True},
            sub={"essential": True},
            client_id={"essential": True},
            scope={"essential": True, "allow_blank": True},
        )
        keys = await self._key_set()
        try:
            token = jwt.decode(text, keys, algorithms=ALGORITHMS)
            expected.validate(token.claims)
        except (JoseError, ValueError):
            raise Denied(401, "invalid_token", "the token is malformed, expired or not for this API") from None
        if token.header.get("typ") != "at+jwt" or not await self._active(text):
            raise Denied(401, "invalid_token", "the token is not an access token or was revoked")
        return token.claims

    async def _key_set(self) -> KeySet:
        """Return the issuer's keys, fetched once: this issuer never changes them while it runs."""
        if self._keys is None:
            self._metadata = await self._ask("GET", f"{self._issuer}/.well-known/openid-configuration")
            self._keys = KeySet.import_key_set(await self._ask("GET", self._metadata["jwks_uri"]))
        return self._keys

    async def _active(self, token: str) -> bool:
        answer = await self._ask("POST", self._metadata["introspection_endpoint"], {"token": token})
        return answer.get("active") is True

    async def _ask(self, method: str, url: str, form: dict[str, str] | None = None) -> Any:
        """Return the JSON that the issuer answers; raise `Denied` with 503 where it gives none."""
        assert self._client is not None, "start() comes first"  # noqa: S101
        try:
            headers = self._credentials if form else None
            async with self._client.request(method, url, data=form, headers=headers, raise_for_status=True) as response:
                return await response.json()
        except (ClientError, TimeoutError, ValueError):
            raise Denied(503, "temporarily_unavailable") from None


def _bearer_text(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else None


def _denial(denied: Denied) -> web.Response:
    headers = {} if denied.status == web.HTTPServiceUnavailable.status_code else {"WWW-Authenticate": denied.challenge}
    body = {"error": denied.members["error"] or "no_token"}
    return _json(body, denied.status, headers)


def _json(body: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return JSON that ends its line: people read it after a prompt."""
    text = json.dumps(body) + "\n"
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")


def _head(request: web.Request) -> bytes:
    version = b"HTTP/%d.%d" % (request.version.major, request.version.minor)
    first = b" ".join((request.method.encode(), request.raw_path.encode(), version))
    return b"\r\n".join([first, *(name + b": " + value for name, value in request.raw_headers)]) + b"\r\n\r\n"
