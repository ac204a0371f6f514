"""The upstream of `soak.floods`: small answers at once, large ones as fast as they are taken. Its argument is a port.

Two of these run, one for the flood, so that what good traffic waits for is the sidecar alone.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import cast

import uvloop

SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 170\r\n\r\n" + b"x" * 170
BIG = 16 << 20
PIECE = bytes(64 * 1024)
UNSENT = 8 * 1024  # in the kernel: an upstream has a machine of its own, whose memory is not what is measured


class Upstream(asyncio.Protocol):
    """One connection. The bodies that `flooder` sends have no end: they are read and forgotten."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=len(PIECE))
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT)
        self._left = 0
        self._may = True

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /next/big"):
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
            self._left = BIG
            self._go_on()
        elif data.startswith(b"GET "):
            self._transport.write(SMALL)

    def pause_writing(self) -> None:
        self._may = False

    def resume_writing(self) -> None:
        self._may = True
        self._go_on()

    def _go_on(self) -> None:
        while self._may and self._left and not self._transport.is_closing():
            self._transport.write(PIECE)
            self._left -= len(PIECE)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
