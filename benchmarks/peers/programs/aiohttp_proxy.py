"""A streaming reverse proxy on aiohttp alone, as short as one would write it, with its access log off."""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict, CIMultiDictProxy

HOP_BY_HOP = ("Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade")
SESSION = web.AppKey("session", ClientSession)


def kept(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    found: CIMultiDict[str] = CIMultiDict(headers)
    for name in HOP_BY_HOP:
        found.popall(name, None)
    return found


class Proxy:
    """Forwards each request to one upstream with the token in front."""

    def __init__(self, upstream: str, token: str, server_name: str | None) -> None:
        self.upstream, self.authorization, self.server_name = upstream, f"Bearer {token}", server_name

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        headers = kept(request.headers)
        headers["Authorization"] = self.authorization
        async with request.app[SESSION].request(
            request.method,
            self.upstream + (request.raw_path if request.raw_path[0] == "/" else request.url.raw_path_qs),
            headers=headers,
            data=request.content if request.body_exists else None,
            allow_redirects=False,
            server_hostname=self.server_name,
        ) as received:
            response = web.StreamResponse(
                status=received.status, reason=received.reason, headers=kept(received.headers)
            )
            await response.prepare(request)
            async for chunk in received.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


async def serve(options: argparse.Namespace) -> None:
    context = ssl.create_default_context(cafile=options.ca) if options.ca else None
    app = web.Application(client_max_size=0)
    connector = TCPConnector(limit=0, ssl=context or True, keepalive_timeout=3600)
    app[SESSION] = ClientSession(
        connector=connector, timeout=ClientTimeout(total=None), cookie_jar=DummyCookieJar(), auto_decompress=False
    )
    proxy = Proxy(options.upstream, os.environ["PROXY_TOKEN"], options.server_name)
    app.router.add_route("*", "/{path:.*}", proxy)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=3600)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port, backlog=4096).start()
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), required=True)
    parser.add_argument("--ca")
    parser.add_argument("--server-name")
    options = parser.parse_args()
    if options.loop == "uvloop":
        import uvloop  # noqa: PLC0415 - measured with and without

        uvloop.run(serve(options))
    else:
        asyncio.run(serve(options))


if __name__ == "__main__":
    main()
