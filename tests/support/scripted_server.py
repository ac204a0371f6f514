"""A raw HTTP/1.1 server on loopback whose answers are any bytes at any pace: what a real server cannot be made to do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class Received:
    """One request as its bytes said it."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def path(self) -> str:
        """The request target."""
        return self.line.split(" ")[1]

    @property
    def form(self) -> list[tuple[str, str]]:
        """The parameters of the body, in order."""
        return parse_qsl(self.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)


Script = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def response(body: bytes = b"", status: int = 200, *headers: str) -> bytes:
    """Return a response with Content-Length and the given header lines."""
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def token(**members: object) -> bytes:
    """Return a good token response, with some members changed."""
    document = {"access_token": "at", "token_type": "Bearer", "expires_in": 3600, **members}
    return response(json.dumps(document).encode(), 200, "Content-Type: application/json")


def always(answer: bytes) -> Script:
    """Give the same answer every time."""

    async def script(_request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return script


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another task does, at most five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition is of any kind
            await asyncio.sleep(0.005)


@dataclass(slots=True)
class ScriptedServer:
    """Use as `async with`. `script` may be changed at any time; after it the connection serves the next request."""

    script: Script
    tls: ssl.SSLContext | None = None
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                request = await _read(reader)
                self.requests.append(request)
                await self.script(request, writer)
                await writer.drain()
        writer.transport.abort() if writer.is_closing() else writer.close()


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.rstrip("\r\n").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Received(line, headers, await reader.readexactly(length))
