"""The whole program in this process, between a real authorization server and a recording upstream, on one event loop.

`whole` starts the three; nothing is a stand-in. The sidecar's clock can be put forward, so that tokens age without
waiting. The authorization server's clock stays, so the upstream judges a token by what was issued, not by its age.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import h11

from sidecar.app import serve
from sidecar.config import load
from tests.support.authorization_server import CLIENTS, LEGACY, AuthorizationServer
from tests.support.recording_upstream import RecordingUpstream, reread, response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from sidecar.app import Program
    from tests.support.recording_upstream import Seen, Step

DEADLINE = 10.0  # seconds for any one answer
ADMIN_TOKEN = "admin-token-of-the-tests"
ENVIRON = {"CLIENT_SECRET": LEGACY.secret, "ADMIN_TOKEN": ADMIN_TOKEN}
PROVIDER = 'idp: {{issuer: "{issuer}", client_id: legacy-app, client_secret: "${{CLIENT_SECRET}}", timeout: {{total: {timeout}}}}}'
BOTH = """
  - {name: stats, match: {host: stats.internal}, upstream: "UPSTREAM", as: app, scope: stats.read}
  - {name: profiles, match: {host: profiles.internal}, upstream: "UPSTREAM", as: user, scope: profiles.read}
"""
"""One route for the application's own token, one for the user's."""


class Clock:
    """The time of day, put forward by `ahead` seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Reply(NamedTuple):
    """A response as a strict reader reads it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return the values of every line called `name`."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for found, value in self.headers if found.lower() == wanted]

    def one(self, name: str) -> str:
        """Return the value of the one line called `name`, "" where there is none."""
        values = self.all(name)
        assert len(values) <= 1, values
        return values[0] if values else ""

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of the sidecar's own refusal, "" for the upstream's answer."""
        return str(self.document["code"]) if "problem+json" in self.one("content-type") else ""


class Caller:
    """One connection of a caller; requests go out as bytes, responses are read by h11."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._rest = b""

    async def ask(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
    ) -> Reply:
        """Send one request and return its response."""
        self.writer.write(head(method, target, headers, body) + (body or b""))
        return await self.reply(method)

    async def reply(self, method: str = "GET") -> Reply:
        """Return the next final response; raise `EOFError` where the connection ended before it was complete."""
        async with asyncio.timeout(DEADLINE):
            return await self._reply(method)

    async def ended(self) -> bool:
        """Say whether the sidecar closes the connection soon, without another byte."""
        async with asyncio.timeout(DEADLINE):
            try:
                return not self._rest and await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Go without a word: a TCP reset, which a closed sending side alone is not."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def _reply(self, method: str) -> Reply:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"x")]))
        parser.send(h11.EndOfMessage())
        found, body, rest = None, b"", self._rest
        if rest:
            parser.receive_data(rest)
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = await self.reader.read(65536)
                if not data and found is None:
                    raise EOFError("no response")
                parser.receive_data(data)
            elif isinstance(event, h11.Response):
                found = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert found is not None
                self._rest = parser.trailing_data[0]
                return Reply(found.status_code, found.headers.raw_items(), body)


def head(method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None) -> bytes:
    """Return a request head; Host follows the target unless it is given."""
    given = list(headers)
    if not any(name.lower() == "host" for name, _ in given):
        authority = target.split("/")[2] if "://" in target else target if method == "CONNECT" else "sidecar.internal"
        given.insert(0, ("Host", authority))
    if body is not None:
        given.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in given), "", ""]
    return "\r\n".join(lines).encode("latin-1")


class Whole:
    """The running parts. `url` is a route's URL by host, `seen` what the upstream got."""

    def __init__(
        self, server: AuthorizationServer, upstream: RecordingUpstream, program: Program, clock: Clock
    ) -> None:
        self.server = server
        self.upstream = upstream
        self.program = program
        self.clock = clock
        self._callers: list[Caller] = []

    async def caller(self, port: int | None = None) -> Caller:
        """Connect to the proxy."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.program.proxy_port)
        caller = Caller(reader, writer)
        self._callers.append(caller)
        return caller

    async def ask(
        self,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        *,
        method: str = "GET",
        body: bytes | None = None,
        session: str = "",
        port: int | None = None,
    ) -> Reply:
        """Send one request on a connection of its own."""
        caller = await self.caller(port)
        given = [*headers, *([("X-Session-Id", session)] if session else [])]
        try:
            return await caller.ask(method, target, given, body)
        finally:
            caller.close()

    async def admin(self, method: str, path: str, document: object = None) -> Reply:
        """Send one request to the admin listener, with its token."""
        caller = await self.caller(self.program.admin_port)
        headers = [("Host", "127.0.0.1"), ("Authorization", f"Bearer {ADMIN_TOKEN}")]
        body = None
        if document is not None:
            headers.append(("Content-Type", "application/json"))
            body = json.dumps(document).encode()
        try:
            return await caller.ask(method, path, headers, body)
        finally:
            caller.close()

    async def sign_in(self, user: str, session: str, scope: str = "profiles.read", **changed: object) -> dict[str, Any]:
        """Sign a user in and hand the tokens over as `session`; return them."""
        tokens = {**self.server.issue(user, scope, LEGACY.client_id), **changed}
        reply = await self.admin("PUT", f"/v1/sessions/{session}", {**tokens, "provider": "idp"})
        assert reply.status == 200, reply
        return tokens

    @property
    def seen(self) -> list[Seen]:
        """The requests that the upstream got, whole ones, in the order of their connections."""
        return seen(self.upstream)

    @property
    def tokens(self) -> list[str]:
        """The bearer tokens that the upstream got, "" for a request without; more than one line is an error."""
        return [bearer(one) for one in self.seen]

    def forget(self) -> None:
        """Forget what the upstream saw."""
        for connection in self.upstream.connections:
            connection.saw.clear()

    def refused(self, code: str) -> int:
        """Return how often the program counted a refusal."""
        return self.program.metrics.refusals_by_code()[code]

    def close(self) -> None:
        for caller in self._callers:
            caller.close()


def seen(upstream: RecordingUpstream) -> list[Seen]:
    """Return the whole requests that an upstream got."""
    found = []
    for stream in upstream.streams():
        reading = reread(stream)
        assert not reading.broken, reading
        found += reading.requests
    return found


def bearer(one: Seen) -> str:
    """Return the token of a request, "" where it has no Authorization."""
    values = one.all(b"authorization")
    assert len(values) <= 1, "more than one Authorization line"
    return values[0].decode().removeprefix("Bearer ") if values else ""


def subject_of(server: AuthorizationServer, token: str) -> str:
    """Return whose token it is, by the authorization server's own record; "" for an unknown one."""
    found = server.state.ledger.access.get(token)
    return str(found.claims["sub"]) if found else ""


def guarded(server: AuthorizationServer) -> Any:
    """Return an upstream's behaviour: 200 with the subject for a token that is good, else 401 by RFC 6750."""

    def answer(one: Seen) -> list[Step]:
        found = server.state.ledger.access.get(bearer(one))
        if found is None or not found.active(server.state.clock()):
            return [response(b"rejected", 401, b'WWW-Authenticate: Bearer error="invalid_token"')]
        document = {"subject": found.claims["sub"], "scope": found.claims["scope"], "bytes": len(one.body)}
        return [response(b"" if one.method == b"HEAD" else json.dumps(document).encode())]

    return answer


def text(
    server: AuthorizationServer,
    upstream: RecordingUpstream,
    routes: str = BOTH,
    more: str = "",
    patience: str = "500ms",
    providers: str = "",
) -> str:
    """Return a configuration with these routes; "UPSTREAM" stands for the URL.

    `more` are further top-level keys, `providers` further lines of that section.
    """
    provider = PROVIDER.format(issuer=server.issuer, timeout=patience)
    parts = [f"providers:\n  {provider}\n{providers}\nroutes:{routes}", more]
    for key, line in _USUAL.items():
        if not any(given.startswith(f"{key}:") for given in more.splitlines()):
            parts.append(line)
    return "\n".join(parts).replace("UPSTREAM", f"http://127.0.0.1:{upstream.port}") + "\n"


_USUAL = {
    "listeners": 'listeners: [{bind: "127.0.0.1:0"}]',
    "admin": 'admin: {bind: "127.0.0.1:0", token: "${ADMIN_TOKEN}"}',
    "store": 'store: {url: "memory:"}',
}


@asynccontextmanager
async def whole(
    folder: Path,
    routes: str = BOTH,
    more: str = "",
    *,
    patience: str = "500ms",
    providers: str = "",
    environ: dict[str, str] = ENVIRON,
) -> AsyncIterator[Whole]:
    """Run everything. The upstream judges tokens by the authorization server's record; `patience` is the provider's."""
    clock = Clock()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(AuthorizationServer(CLIENTS))
        upstream = RecordingUpstream()
        await upstream.start()
        stack.push_async_callback(upstream.stop)
        upstream.default = guarded(server)
        path = folder / "sidecar.yaml"
        path.write_text(text(server, upstream, routes, more, patience, providers))
        program = await stack.enter_async_context(serve(load(str(path), environ), clock=clock))
        program.path = str(path)
        running = Whole(server, upstream, program, clock)
        stack.callback(running.close)
        yield running


async def until(condition: Any, within: float = 5.0) -> None:
    """Wait for what another task does."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - the condition is of any kind
            await asyncio.sleep(0.005)
