"""The upstream of `soak.streams`, as a process: bodies of any length, events at a pace, WebSockets.

Its argument is a port: bodies and events are there, WebSockets at the next one. The bytes of a body are the same for
each length, so both ends know their hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from contextlib import suppress

import uvloop
from websockets.asyncio.server import ServerConnection, serve

BLOCK = bytes(range(256)) * 1024  # 256 KiB
LIMIT = 1 << 24


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            target = head.split(" ", 2)[1]
            fields = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
            }
            kind, _, argument = target[1:].partition("/")
            if kind == "bytes":
                await _give(writer, int(argument))
            elif kind == "sink":
                await _take(reader, writer, int(fields["content-length"]))
            else:
                await _tell(writer, *map(float, argument.split("/")))
    writer.close()


async def _give(writer: asyncio.StreamWriter, length: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
    for at in range(0, length, len(BLOCK)):
        writer.write(BLOCK[: length - at])
        await writer.drain()


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
    seen, left = hashlib.sha256(), length
    while left and (data := await reader.read(min(left, len(BLOCK)))):
        seen.update(data)
        left -= len(data)
    text = seen.hexdigest().encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))


async def _tell(writer: asyncio.StreamWriter, every: float, seconds: float) -> None:
    """Send an event each so many seconds: the monotonic time at which it is sent."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    began = time.monotonic()
    for number in range(int(seconds / every)):
        await asyncio.sleep(max(0.0, began + number * every - time.monotonic()))
        event = b"data: %d %f\n\n" % (number, time.monotonic())
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def echo(connection: ServerConnection) -> None:
    """Send each message back; close with the code that a message asks for."""
    async for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            await connection.close(int(message.split()[1]), "as asked")
            return
        await connection.send(message)


async def main(port: int) -> None:
    async with (
        await asyncio.start_server(answer, "127.0.0.1", port, limit=1 << 20),
        serve(echo, "127.0.0.1", port + 1, max_size=1 << 27, compression=None),
    ):
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
