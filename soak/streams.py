"""Long things through one sidecar, for real: a body of 10 GB each way, ten minutes of events, ten minutes of WebSocket.

    python -m soak.streams --mebibytes 10240 --seconds 600

Bodies go between raw sockets and are compared by SHA-256; the sidecar's peak of memory is the kernel's own (VmHWM).
Events carry the time at which they were sent, on the clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import statistics
import time
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import connect

from soak import command
from soak.fleet import HOST
from soak.lone import MIB, NAME, lone
from soak.stream_side import BLOCK

if TYPE_CHECKING:
    import argparse

    from soak.lone import Lone

GROWTH = 16 * MIB  # that a body may cost, whatever its length
PATIENCE = 120.0


def expected(length: int) -> str:
    """Return the hash of a body of so many bytes."""
    seen = hashlib.sha256()
    for at in range(0, length, len(BLOCK)):
        seen.update(BLOCK[: length - at])
    return seen.hexdigest()


def _connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=PATIENCE)


def _head(sock: socket.socket) -> bytes:
    """Read a response head; return what came after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(1 << 16)
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(head.decode("latin-1"))
    return rest


def download(port: int, length: int) -> str:
    """Fetch a body; return its hash."""
    with _connect(port) as sock:
        sock.sendall(f"GET /bytes/{length} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        rest = _head(sock)
        seen, left, buffer = hashlib.sha256(rest), length - len(rest), memoryview(bytearray(1 << 20))
        while left and (count := sock.recv_into(buffer)):
            seen.update(buffer[:count])
            left -= count
    return seen.hexdigest()


def upload(port: int, length: int) -> str:
    """Send a body; return the hash of what arrived."""
    with _connect(port) as sock:
        sock.sendall(f"PUT /sink HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {length}\r\n\r\n".encode())
        for at in range(0, length, len(BLOCK)):
            sock.sendall(BLOCK[: length - at])
        answer = _head(sock)
        while len(answer) < 64:
            answer += sock.recv(100)
    return answer.decode()


async def bodies(sidecar: Lone, length: int) -> tuple[dict[str, Any], list[str]]:
    """Move a body down and up, one after the other; return figures and failures."""
    figures: dict[str, Any] = {}
    failures: list[str] = []
    digest = await asyncio.to_thread(expected, length)
    for way in (download, upload):
        await asyncio.to_thread(way, sidecar.port, 64 * MIB)  # the first one warms up what every body needs
        before = sidecar.used()
        sidecar.forget_peak()
        began = time.monotonic()
        seen = await asyncio.to_thread(way, sidecar.port, length)
        seconds = time.monotonic() - began
        grown = sidecar.peak() - before.resident
        cpu = sidecar.used().cpu - before.cpu
        figures[way.__name__] = {
            "mebibytes": length // MIB, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
            "resident_before_mib": round(before.resident / MIB, 1), "growth_mib": round(grown / MIB, 1),
        }  # fmt: skip
        command.progress(f"{way.__name__}: {figures[way.__name__]}")
        failures += [f"{way.__name__}: the bytes differ"] * (seen != digest)
        failures += [f"{way.__name__}: {grown // MIB} MiB grown"] * (grown > GROWTH)
    return figures, failures


async def events(sidecar: Lone, every: float, seconds: float, late: float) -> tuple[dict[str, Any], list[str]]:
    """Listen to a stream of events to its end."""
    reader, writer = await asyncio.open_connection(HOST, sidecar.port)
    began = time.monotonic()
    writer.write(
        f"GET /events/{every}/{seconds} HTTP/1.1\r\nHost: {NAME}\r\nAccept: text/event-stream\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    delays: list[float] = []
    numbers: list[int] = []
    first = 0.0
    while size := int(await asyncio.wait_for(reader.readline(), PATIENCE), 16):
        data = await reader.readexactly(size + 2)
        now = time.monotonic()
        first = first or now - began
        for event in data.split(b"\n\n")[:-1]:
            _, number, sent = event.split()
            numbers.append(int(number))
            delays.append(now - float(sent))
    writer.close()
    wanted = int(seconds / every)
    failures = [f"events: {len(numbers)} of {wanted}, in order"] * (numbers != list(range(wanted)))
    failures += ["events: not a stream of events"] * (b"text/event-stream" not in head)
    failures += [f"events: one took {max(delays):.2f} s"] * (max(delays) > late)
    ranked = sorted(delays)
    return {
        "events": len(numbers), "seconds": round(time.monotonic() - began, 1), "first_ms": round(first * 1000, 1),
        "p50_ms": round(statistics.median(ranked) * 1000, 2),
        "p99_ms": round(ranked[len(ranked) * 99 // 100] * 1000, 2), "most_ms": round(ranked[-1] * 1000, 1),
    }, failures  # fmt: skip


async def sockets(sidecar: Lone, seconds: float, largest: int) -> tuple[dict[str, Any], list[str]]:
    """Hold a WebSocket open: pings, texts, binaries up to `largest` bytes, fragments, and a close with a code."""
    until = time.monotonic() + seconds
    counts = {"pings": 0, "messages": 0, "bytes": 0}
    failures: list[str] = []
    async with connect(
        f"ws://{NAME}/next", host=HOST, port=sidecar.port, max_size=1 << 27, compression=None, proxy=None
    ) as ours:
        size = 1
        while True:
            await asyncio.wait_for(await ours.ping(), PATIENCE)
            counts["pings"] += 1
            for message in (os.urandom(size), "é" * min(size, 1000)):
                await ours.send(message if size % 3 else [message[: len(message) // 2], message[len(message) // 2 :]])  # type: ignore[arg-type]
                back = await asyncio.wait_for(ours.recv(), PATIENCE)
                failures += ["websocket: a message differs"] * (back != message)
                counts["messages"] += 2
                counts["bytes"] += 2 * len(message)
            if time.monotonic() > until:
                break
            size = size * 3 + 1 if size < largest // 3 else 1
            await asyncio.sleep(min(1.0, seconds / 10))
        await ours.send("close 4321")
        await ours.wait_closed()
        failures += [f"websocket: closed with {ours.close_code}"] * (ours.close_code != 4321)
    return counts, failures


async def run(wanted: argparse.Namespace) -> dict[str, Any]:
    """Bodies first, alone, so that memory is theirs; then events and WebSocket at once."""
    figures: dict[str, Any] = {}
    async with lone("soak.stream_side") as (sidecar, _):
        figures["bodies"], wrong = await bodies(sidecar, wanted.mebibytes * MIB)
        told, talked = await asyncio.gather(
            events(sidecar, wanted.every, wanted.seconds, wanted.late),
            sockets(sidecar, wanted.seconds, wanted.largest * MIB),
        )
        figures["events"], figures["websocket"] = told[0], talked[0]
        return {**figures, "failures": {"found": [*wrong, *told[1], *talked[1]]}}


if __name__ == "__main__":
    command.main(
        run,
        command.options(
            __doc__ or "",
            mebibytes=(10_240, "of each body"),
            seconds=(600.0, "of events and of WebSocket"),
            every=(0.1, "seconds between two events"),
            largest=(16, "MiB of a WebSocket message"),
            late=(1.0, "seconds that no event may take; more on a machine that does other work"),
        ),
    )
