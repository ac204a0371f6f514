"""Connections that do harm by being slow: `PORT KIND COUNT`, where KIND is one of `KINDS` or `mixed`.

Every connection does its little each second, spread over the second. Those that the sidecar ends are opened again. Says
`open N` on standard output once all of them have been open, then each second how many were ended meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from itertools import cycle, islice
from typing import cast

import uvloop

from soak.fleet import HOST
from soak.lone import NAME

HEAD = f"Host: {NAME}\r\n".encode()
ENDLESS = b"Content-Length: 1000000000\r\n\r\n"
KINDS: dict[str, tuple[bytes, bytes]] = {
    "idle": (b"", b""),
    "head": (b"GET /next/small HTTP/1.1\r\n" + HEAD + b"X-Slow: ", b"x"),
    "body": (b"POST /next/sink HTTP/1.1\r\n" + HEAD + ENDLESS, b"x"),
    "reader": (b"GET /next/big HTTP/1.1\r\n" + HEAD + b"\r\n", b""),
    "chunks": (b"POST /next/sink HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
}
"""What a connection of each kind sends at first, and then each second; `reader` takes `SIP` bytes each second."""
SLICES = 200  # of a second: what comes at once is a burst, which is something else
AT_ONCE = 200  # connections being opened
SMALL_WINDOW = 4096  # bytes
SIP = 64  # bytes


class Slow(asyncio.Protocol):
    """One connection."""

    def __init__(self, crowd: Crowd, kind: str) -> None:
        self._crowd = crowd
        self.kind = kind
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(KINDS[self.kind][0])

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._crowd.lost(self)

    @property
    def alive(self) -> bool:
        return self._transport is not None

    def do_little(self) -> None:
        if self._transport is not None and (little := KINDS[self.kind][1]):
            self._transport.write(little)


class SlowReader:
    """One connection of the kind `reader`: a socket of its own, since a transport reads all that comes."""

    kind = "reader"

    def __init__(self, crowd: Crowd, sock: socket.socket) -> None:
        self._crowd = crowd
        self._sock = sock
        self.alive = True

    def do_little(self) -> None:
        try:
            if self.alive and not self._sock.recv(SIP):
                self._end()
        except BlockingIOError:
            pass
        except OSError:
            self._end()

    def _end(self) -> None:
        self.alive = False
        self._sock.close()
        self._crowd.lost(self)


class Crowd:
    """All connections."""

    def __init__(self, port: int, kinds: list[str]) -> None:
        self._port = port
        self.members: list[Slow | SlowReader] = []
        self.ended = 0
        self._missing = list(kinds)

    def lost(self, one: Slow | SlowReader) -> None:
        self.ended += 1
        self._missing.append(one.kind)

    async def fill(self) -> None:
        """Open what is missing."""
        while self._missing:
            some, self._missing = self._missing[:AT_ONCE], self._missing[AT_ONCE:]
            await asyncio.gather(*map(self._open, some))
        self.members = [one for one in self.members if one.alive]

    async def _open(self, kind: str) -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        if kind == "reader":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
        try:
            await loop.sock_connect(sock, (HOST, self._port))
            self.members.append(await self._begin(sock, kind))
        except OSError:
            sock.close()
            self._missing.append(kind)
            await asyncio.sleep(0.1)

    async def _begin(self, sock: socket.socket, kind: str) -> Slow | SlowReader:
        loop = asyncio.get_running_loop()
        if kind == "reader":
            await loop.sock_sendall(sock, KINDS[kind][0])
            return SlowReader(self, sock)
        _, one = await loop.create_connection(lambda: Slow(self, kind), sock=sock)
        return one


async def main(port: int, kind: str, count: int) -> None:
    kinds = list(islice(cycle(KINDS if kind == "mixed" else [kind]), count))
    crowd = Crowd(port, kinds)
    await crowd.fill()
    print("open", len(crowd.members), flush=True)
    while True:
        for part in range(SLICES):
            for one in crowd.members[part::SLICES]:
                one.do_little()
            await asyncio.sleep(1 / SLICES)
        print("ended", crowd.ended, flush=True)
        await crowd.fill()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
