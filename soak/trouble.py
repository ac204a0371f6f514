"""A store in trouble: a TCP proxy that delays and drops, and a process that holds SQLite's write lock."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import time
from contextlib import suppress

from soak.fleet import HOST

PIECE = 65536
DELAYED = 0.02  # share of the pieces


class Wire:
    """A TCP proxy to a port: now and then it delays what it passes on, or drops both connections."""

    def __init__(self, target: int, seed: int, delay: float, drops: float) -> None:
        self.dropped = self.delayed = 0
        self.calm = True  # until the trouble is to begin
        self._target = target
        self._draw = random.Random(seed)
        self._delay = delay
        self._drops = drops

    async def start(self) -> int:
        """Listen; return the port."""
        self._server = await asyncio.start_server(self._accepted, HOST, 0)
        return int(self._server.sockets[0].getsockname()[1])

    def stop(self) -> None:
        self._server.close()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
            ways = [
                asyncio.create_task(self._pass_on(reader, far_writer)),
                asyncio.create_task(self._pass_on(far_reader, writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()
        writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(PIECE):
                chance = 1.0 if self.calm else self._draw.random()
                if chance < self._drops:
                    self.dropped += 1
                    writer.write(data[: self._draw.randrange(len(data) + 1)])
                    return
                if chance < DELAYED:
                    self.delayed += 1
                    await asyncio.sleep(self._draw.uniform(0, self._delay))
                writer.write(data)
                await writer.drain()


def lock_now_and_then(path: str, seed: int, longest: float) -> None:
    """Hold the write lock of a SQLite file again and again, for up to `longest` seconds, until killed."""
    draw = random.Random(seed)
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    while True:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(draw.uniform(0, longest))
        connection.execute("ROLLBACK")
        time.sleep(draw.uniform(0, 4 * longest))


if __name__ == "__main__":
    lock_now_and_then(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
