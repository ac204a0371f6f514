"""What browsers and the provider reach as the public address: each connection goes to the next sidecar's sign-in.

So a sign-in that begins on one instance is completed on another, and a logout token comes to either.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from soak.fleet import HOST


class Front:
    """A TCP relay that takes turns. Each connection serves one request: it is closed after the answer."""

    def __init__(self) -> None:
        self.port = 0
        self.taken: list[int] = []  # by whom, in order
        self._ports: list[int] = []
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        """The public URL."""
        return f"http://{HOST}:{self.port}"

    async def start(self) -> None:
        """Listen; `serve` says later who is behind."""
        self._server = await asyncio.start_server(self._relay, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def serve(self, ports: list[int]) -> None:
        """Take turns among these ports."""
        self._ports = ports
        self._turns = itertools.cycle(range(len(ports)))

    def stop(self) -> None:
        self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._turns)
        self.taken.append(number)
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(HOST, self._ports[number])
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
