# ruff: noqa: INP001 - a script, not a package
"""The sidecar's neighbours in docker-compose.yml: `parts.py idp` is the authorization server, `parts.py api` the API.

Both come from `sidecar demo`. The first also does what a legacy application does after it has signed its users in: it
hands their token responses to the sidecar. Never let it serve people.
"""

from __future__ import annotations

import asyncio
import os
import sys

from aiohttp import ClientError, ClientSession, ClientTimeout

from sidecar.demo.api import Api
from sidecar.demo.authorization_server import AuthorizationServer
from sidecar.demo.issuer.clients import Client

ISSUER, SIDECAR = "http://idp:9000", "http://sidecar:8081"
USERS = ("alice", "bob")
ANYWHERE = "0.0.0.0"  # noqa: S104 - a container's own network


async def idp() -> None:
    """Serve the authorization server, and hand over two users' sessions once the sidecar is there."""
    clients = [Client("legacy-app", os.environ["CLIENT_SECRET"]), Client("demo-api", os.environ["API_SECRET"])]
    server = AuthorizationServer(clients)
    await server.start(ANYWHERE, 9000)
    server.state.issuer = ISSUER
    await hand_over(server)
    await asyncio.Event().wait()


async def hand_over(server: AuthorizationServer) -> None:
    """Put one session for each user; the sidecar may still be starting."""
    headers = {"Authorization": f"Bearer {os.environ['ADMIN_TOKEN']}"}
    async with ClientSession(SIDECAR, headers=headers, timeout=ClientTimeout(total=5)) as client:
        for user in USERS:
            tokens = server.issue(user, "profiles.read", "legacy-app")
            while not await is_taken(client, f"/v1/sessions/{user}-session", tokens):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.5)
            print(f"the session of {user} is {user}-session", flush=True)  # noqa: T201


async def is_taken(client: ClientSession, path: str, tokens: dict[str, object]) -> bool:
    """Whether the sidecar took the session."""
    try:
        async with client.put(path, json=tokens) as answer:
            return answer.ok
    except (ClientError, TimeoutError):
        return False


async def api() -> None:
    """Serve the API."""
    await Api(ISSUER, Client("demo-api", os.environ["API_SECRET"])).start(ANYWHERE, 9001)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run({"idp": idp, "api": api}[sys.argv[1]]())
