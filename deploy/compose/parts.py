# ruff: noqa: INP001 - a script, not a package
"""The sidecar's neighbours in Compose: `parts.py idp` is the authorization server, `api` the API, `app` an application.

The first two come from `sidecar demo`. The authorization server also does what a legacy application does after it has
signed its users in: it hands their token responses to the sidecar. Never let it serve people. The application asks for
two users through every sidecar, says so when an answer changes, and shows the last answers at `/`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from sidecar.demo.api import Api
from sidecar.demo.authorization_server import AuthorizationServer
from sidecar.demo.issuer.clients import Client

ISSUER = "http://idp:9000"
SIDECAR = os.environ.get("SIDECAR", "http://sidecar:8081")
SIDECARS = os.environ.get("SIDECARS", "http://sidecar:8080").split()
USERS = ("alice", "bob")
ANYWHERE = "0.0.0.0"  # noqa: S104 - a container's own network
EVERY = 0.2


async def idp() -> None:
    """Serve the authorization server, and hand over two users' sessions once the sidecar is there."""
    clients = [Client("legacy-app", os.environ["CLIENT_SECRET"]), Client("demo-api", os.environ["API_SECRET"])]
    server = AuthorizationServer(clients)
    server.policy.access_life = float(os.environ.get("ACCESS_LIFE", "300"))
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


async def app() -> None:
    """Ask for every user through every sidecar, without end, and serve what they answered last."""
    told = {sidecar: dict.fromkeys(USERS, "") for sidecar in SIDECARS}
    pages = web.Application()
    pages.router.add_get("/", lambda _request: _page(told))
    runner = web.AppRunner(pages, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, ANYWHERE, 9002).start()
    async with ClientSession(timeout=ClientTimeout(total=5)) as client:
        await asyncio.gather(*(look(client, sidecar, user, told[sidecar]) for sidecar in SIDECARS for user in USERS))


async def _page(told: dict[str, dict[str, str]]) -> web.Response:
    return web.json_response(told)


async def look(client: ClientSession, sidecar: str, user: str, told: dict[str, str]) -> None:
    """Ask for one user through one sidecar again and again: plain HTTP, a key, a session id, and no OAuth at all."""
    headers = {"X-Api-Key": os.environ["LEGACY_KEY"], "X-Session-Id": f"{user}-session", "Host": "profiles.internal"}
    while True:
        try:
            async with client.get(f"{sidecar}/profile", headers=headers) as answer:
                document = await answer.json(content_type=None)
                found = f"{answer.status} {document.get('subject') or document.get('code')}"
        except (ClientError, TimeoutError) as error:
            found = type(error).__name__
        if found != told[user]:
            told[user] = found
            print(f"{user} through {sidecar}: {found}", flush=True)  # noqa: T201
        await asyncio.sleep(EVERY)


async def until_told_to_end(part: str) -> None:
    """Run a part until SIGTERM, which the first process of a container would not heed by itself."""
    work = asyncio.create_task({"idp": idp, "api": api, "app": app}[part]())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    await asyncio.wait([work])
    if not work.cancelled():
        work.result()


if __name__ == "__main__":
    asyncio.run(until_told_to_end(sys.argv[1]))
