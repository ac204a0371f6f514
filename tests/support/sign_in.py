"""A whole sidecar that signs users in, an authorization server, an upstream, and a browser that follows by hand.

The browser is httpx with a cookie jar: each step of a sign-in can be looked at, left out or forged.
"""

from __future__ import annotations

import re
import secrets
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from html import unescape
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from sidecar.app import serve
from sidecar.config import load
from tests.support.authorization_server import LEGACY, AuthorizationServer, Client
from tests.support.program import ADMIN_TOKEN, Clock, Whole, guarded
from tests.support.recording_upstream import RecordingUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.app import Program

CONFIG = """
providers:
  idp: {{issuer: "{issuer}", client_id: legacy-app, client_secret: "${{CLIENT_SECRET}}", timeout: {{total: 2s}}{provider}}}
{providers}
login: {{bind: "127.0.0.1:{port}", public_url: "{public}", scope: openid profiles.read offline_access{return_to}{login}}}
routes:
  - {{name: profiles, match: {{host: profiles.internal}}, upstream: "{upstream}", as: user, provider: idp, scope: {scope}}}
  - {{name: own, match: {{host: own.internal}}, upstream: "{upstream}", as: app, provider: idp, scope: stats.read}}
listeners: [{{bind: "127.0.0.1:0"}}]
admin: {{bind: "127.0.0.1:0", token: "${{ADMIN_TOKEN}}"}}
store: {{url: "{store}"}}
{more}
"""
COOKIE = "sidecar_session"


def free_port() -> int:
    """Return a port that nobody listens on, and that the system gives to nobody who leaves the choice to it."""
    while True:
        port = 10_000 + secrets.randbelow(10_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class SignIn(Whole):
    """The running parts; `public` is the sign-in's origin."""

    program: Program

    def __init__(
        self, server: AuthorizationServer, upstream: RecordingUpstream, path: Path, clock: Clock, public: str
    ) -> None:
        super().__init__(server, upstream, None, clock)  # type: ignore[arg-type]
        self.public = public
        self._path = path
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Start the sidecar."""
        settings = load(str(self._path), {"CLIENT_SECRET": LEGACY.secret, "ADMIN_TOKEN": ADMIN_TOKEN})
        self.program = await self._stack.enter_async_context(serve(settings, clock=self.clock))
        self.program.path = str(self._path)

    async def stop(self) -> None:
        """Stop the sidecar."""
        self.close()
        await self._stack.aclose()

    def rewrite(self, old: str, new: str) -> None:
        """Change the configuration file."""
        text = self._path.read_text()
        assert old in text
        self._path.write_text(text.replace(old, new))

    async def restart(self) -> None:
        """End the sidecar and start it anew, with the file as it is now."""
        await self.stop()
        self._stack = AsyncExitStack()
        await self.start()

    def browser(self) -> Browser:
        """Return a new browser without cookies."""
        return Browser(self.public)

    async def call(self, browser: Browser) -> Any:
        """Call the API through the proxy as the application does: with the browser's own Cookie header."""
        return await self.ask("http://profiles.internal/me", [("Cookie", f"{COOKIE}={browser.session}")])

    def logout_token(self, sign: Any = None, **changed: Any) -> str:
        """Return a logout token of the authorization server; None for a claim leaves it out."""
        now = int(self.clock())
        claims: dict[str, Any] = {
            "iss": self.server.issuer,
            "aud": LEGACY.client_id,
            "iat": now,
            "exp": now + 120,
            "jti": secrets.token_hex(8),
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        }
        kept = {name: value for name, value in {**claims, **changed}.items() if value is not None}
        return str((sign or self.server.state.signer).sign(kept, "logout+jwt"))


class Browser:
    """A browser that goes one step at a time."""

    def __init__(self, public: str) -> None:
        self.public = public
        self.client = httpx.AsyncClient(timeout=10, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.client.aclose()

    @property
    def session(self) -> str:
        """The session's id, "" where there is none."""
        return self.client.cookies.get(COOKIE) or ""

    async def get(self, url: str, **more: Any) -> httpx.Response:
        """Fetch a page of the sidecar or another server."""
        return await self.client.get(urljoin(self.public, url), **more)

    async def post(self, url: str, **more: Any) -> httpx.Response:
        """Send a form."""
        return await self.client.post(urljoin(self.public, url), **more)

    async def begin(self, return_to: str | None = None, **more: str) -> str:
        """Begin a sign-in; return the authorization request's URL."""
        query = {**({"return_to": return_to} if return_to is not None else {}), **more}
        response = await self.get("/oauth2/login", params=query)
        assert response.status_code == 303, response.text
        return response.headers["location"]

    async def choose(self, url: str, user: str) -> str:
        """Sign in at the authorization server; return the callback's URL."""
        page = await self.client.get(url)
        assert page.status_code == 200, page.text
        [action] = re.findall(r'action="([^"]+)"', page.text)
        response = await self.client.post(urljoin(url, unescape(action)), data={"user": user})
        assert response.status_code == 303, response.text
        return response.headers["location"]

    async def sign_in(self, user: str, return_to: str | None = None) -> httpx.Response:
        """Go through a whole sign-in; return the callback's answer."""
        return await self.client.get(await self.choose(await self.begin(return_to), user))


def query_of(url: str) -> dict[str, str]:
    """Return the parameters of a URL, each of which stands there once."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, strict_parsing=True).items()}


@asynccontextmanager
async def signing_in(
    folder: Path,
    *,
    provider: str = "",
    providers: str = "",
    return_to: str = "",
    login: str = "",
    more: str = "",
    store: str = "memory:",
    scope: str = "profiles.read",
    public: str = "",
) -> AsyncIterator[SignIn]:
    """Run everything. The arguments are further keys of the configuration's parts."""
    clock, port = Clock(), free_port()
    public = public or f"http://127.0.0.1:{port}"
    async with AsyncExitStack() as stack:
        redirect = frozenset({f"{public}/oauth2/callback"})
        client = Client(LEGACY.client_id, LEGACY.secret, redirect_uris=redirect)
        server = await stack.enter_async_context(AuthorizationServer([client]))
        upstream = RecordingUpstream()
        await upstream.start()
        stack.push_async_callback(upstream.stop)
        upstream.default = guarded(server)
        path = folder / "sidecar.yaml"
        path.write_text(
            CONFIG.format(
                issuer=server.issuer, port=port, public=public, return_to=return_to or f', return_to: ["{public}/app", "http://localhost:{port}/other/"]', upstream=f"http://127.0.0.1:{upstream.port}",
                provider=provider, providers=providers, login=login, more=more, store=store, scope=scope,
            )
        )  # fmt: skip
        running = SignIn(server, upstream, path, clock, public)
        await running.start()
        stack.push_async_callback(running.stop)
        yield running
