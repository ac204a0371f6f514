"""Everything that the story happens on: the authorization server, the API, the sidecar with a real file, two sessions.

Starts and stops; judges nothing. The sidecar starts as under `sidecar run`: from a YAML file and an environment.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import ClientSession, ClientTimeout

from sidecar.demo import legacy_app
from sidecar.demo.api import Api, Received
from sidecar.demo.authorization_server import AuthorizationServer
from sidecar.demo.issuer.clients import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Any

    from sidecar.demo.legacy_app import Exchange

LEGACY_APP, API_CLIENT = "legacy-app", "demo-api"
USER_SCOPE = "profiles.read"
SCOPES = frozenset({"stats.read", USER_SCOPE, "openid", "offline_access"})

FIVE_LINES = """\
providers:
  idp: {{issuer: {issuer}, client_id: legacy-app, client_secret: "${{CLIENT_SECRET}}"}}
routes:
  - {{match: {{host: stats.internal}},    upstream: "${{API}}", as: app,  scope: stats.read}}
  - {{match: {{host: profiles.internal}}, upstream: "${{API}}", as: user, scope: profiles.read}}
"""
DEMO_LINES = """\
  - {{match: {{path: /profiles}}, strip_prefix: true, upstream: "${{API}}", as: user, scope: profiles.read}}
listeners: [{{bind: "127.0.0.1:0"}}]
admin: {{bind: "127.0.0.1:0", token: "${{ADMIN_TOKEN}}"}}
store: {{url: "sqlite:{folder}/sidecar.db"}}
"""


class Turn(NamedTuple):
    """One request of the legacy application, and every request that the API received because of it."""

    exchange: Exchange
    received: tuple[Received, ...]


@dataclass(slots=True)
class Stage:
    """The running parts. `proxy` and `admin` are HOST:PORT; `five_lines` is the configuration worth showing."""

    server: AuthorizationServer
    api: Api
    proxy: str
    admin: str
    five_lines: str
    admin_token: str = field(repr=False)
    client: ClientSession = field(repr=False)
    sessions: dict[str, str] = field(default_factory=dict, repr=False)

    async def sign_in(self, user: str) -> int:
        """Sign `user` in and hand the tokens to the sidecar; return the status of the session API."""
        session = self.sessions.setdefault(user, f"{user}-{secrets.token_hex(8)}")
        tokens = self.server.issue(user, USER_SCOPE, LEGACY_APP)
        return await self.put_session(session, tokens)

    async def put_session(self, session: str, tokens: Mapping[str, Any]) -> int:
        """Hand a token response over as the session `session`; return the status."""
        url, headers = f"http://{self.admin}/v1/sessions/{session}", {"Authorization": f"Bearer {self.admin_token}"}
        async with self.client.put(url, json={**tokens, "provider": "idp"}, headers=headers) as answer:
            return answer.status

    async def ask(self, url: str, headers: Mapping[str, str], proxy: str = "") -> Turn:
        """Let the legacy application ask for `url`."""
        before = len(self.api.received)
        exchange = await legacy_app.get(url, headers, proxy)
        return Turn(exchange, tuple(self.api.received[before:]))


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Start everything on free loopback ports; stop everything and leave nothing behind."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecar-demo-"))
        client = _client(LEGACY_APP, SCOPES)
        resource = _client(API_CLIENT, frozenset())
        server = await stack.enter_async_context(AuthorizationServer([client, resource]))
        api = await stack.enter_async_context(Api(server.issuer, resource))
        admin_token = secrets.token_urlsafe(16)
        environ = {"CLIENT_SECRET": client.secret, "API": api.url, "ADMIN_TOKEN": admin_token}
        five_lines = FIVE_LINES.format(issuer=server.issuer)
        text = five_lines + DEMO_LINES.format(folder=folder)
        proxy, admin = await stack.enter_async_context(start_sidecar(text, Path(folder), environ))
        caller = await stack.enter_async_context(ClientSession(timeout=ClientTimeout(total=10)))
        yield Stage(server, api, proxy, admin, five_lines, admin_token, caller)


@asynccontextmanager
async def start_sidecar(text: str, folder: Path, environ: Mapping[str, str]) -> AsyncIterator[tuple[str, str]]:
    """Run the sidecar on a configuration; give HOST:PORT of its proxy and of its admin listener."""
    from sidecar.app import serve  # noqa: PLC0415 - the command line shows its help without loading the whole program
    from sidecar.config import load  # noqa: PLC0415

    path = folder / "sidecar.yaml"
    await asyncio.to_thread(path.write_text, text, encoding="utf-8")
    async with serve(load(str(path), environ)) as running:
        yield f"127.0.0.1:{running.proxy_port}", f"127.0.0.1:{running.admin_port}"


def _client(client_id: str, scopes: frozenset[str]) -> Client:
    return Client(client_id, secrets.token_urlsafe(16), scopes=scopes)
