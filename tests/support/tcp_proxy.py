"""A TCP proxy that harms what passes: delays, garbage, half replies, resets."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager


class Proxy:
    """`delay` is in seconds, before each piece of a reply. `harm` takes a reply's bytes and returns others; b"" resets."""

    def __init__(self, target):
        self.target = target
        self.port = 0
        self.delay = 0.0
        self.harm = None
        self.accepted = 0
        self._tasks = set()
        self._writers = set()

    async def serve(self, reader, writer):
        self.accepted += 1
        self._tasks.add(asyncio.current_task())
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers |= {writer, far_writer}
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump_back(far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in (writer, far_writer):
                each.transport.abort()
            self._writers -= {writer, far_writer}
            self._tasks.discard(asyncio.current_task())

    async def _pump(self, reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def _pump_back(self, reader, writer):
        while data := await reader.read(65536):
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.harm:
                data = self.harm(data)
                if not data:
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
            writer.write(data)
            await writer.drain()

    async def stop(self):
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def proxy(target):
    """Run a proxy to the port `target`."""
    one = Proxy(target)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        await one.stop()
