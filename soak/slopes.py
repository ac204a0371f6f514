"""Hours of mixed work of one sidecar: resident memory, descriptors, tasks and rows of its store must not grow.

    python -m soak.slopes --minutes 480

Sessions come and go, some signed out, some forgotten and left to expire; tokens expire and are revoked, so that
requests are rejected and sent again; the provider fails now and then; callers give up, reconnect, send and fetch large
bodies, and hold WebSockets. The sidecar's time of day runs faster (`--scale`). After a warm-up a line is fitted through
each kind of reading.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from soak.command import main, options, progress
from soak.fleet import HOST, Fleet, free_port, running, session, spawn
from soak.load import Caller, Tally, one
from soak.slope import fit
from soak.stream_side import BLOCK

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

MIB = 1 << 20
LONGEST = 60.0
SERVED = 0.5  # share of the requests that are answered by the upstream, or nothing was shown
EXPECTED = {"200", "401", "login_required", "provider_unavailable", "provider_invalid", "broken", "overloaded"}
"""`broken`: a connection that the sidecar closed while it was idle. All others than these are failures."""
MORE = """  - {{name: bodies, match: {{host: bodies.internal}}, upstream: "http://127.0.0.1:{port}", as: user}}
  - {{name: sockets, match: {{host: sockets.internal}}, upstream: "http://127.0.0.1:{next_one}", as: user}}
sessions: {{idle: 4h, absolute: 12h}}
"""


class Reading(NamedTuple):
    """What was seen at a time: MiB of resident memory, descriptors, tasks, rows of the store."""

    at: float
    resident: float
    descriptors: int
    tasks: int
    rows: int


NOISE = {"resident": 3.0, "descriptors": 25.0, "tasks": 25.0, "rows": 100.0}
"""What a reading may have grown by although nothing leaks: the load is drawn at random."""
TOMBSTONE_LIFE = 86_400.0
"""Seconds of the sidecar's time for which a store keeps the version of what was deleted: only then rows are level."""
MOST_PER_HOUR = {"resident": 1.0, "descriptors": 0.0, "tasks": 0.0, "rows": 0.0}


class Load:
    """What is asked of the sidecar. The users whose sessions should live are `live`, oldest first."""

    def __init__(self, fleet: Fleet, wanted: argparse.Namespace) -> None:
        self.tally = Tally()
        self.did: Counter[str] = Counter()
        self._fleet = fleet
        self._wanted = wanted
        self._live: deque[str] = deque()
        self._draw = random.Random(wanted.seed)
        self._port = fleet.instances[0].port

    async def run(self, seconds: float) -> None:
        """Work for so long; raise what any part of it raises."""
        wanted = self._wanted
        while len(self._live) < wanted.sessions:
            await self.renew()
        parts: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (1 / wanted.turnover, self.renew), (0.5, self.body), (1.0, self.revoke), (10.0, self.fail),
            (5.0, self.forget), *[(1.0, self.socket)] * 5,
        ]  # fmt: skip
        callers = [Caller(self._fleet.instances[0]) for _ in range(wanted.callers)]
        parts += [(wanted.callers / wanted.rate, self._visit(caller)) for caller in callers]
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for pause, part in parts:
                group.create_task(self._repeat(part, pause, until))
        for caller in callers:
            caller.close()

    async def renew(self) -> None:
        """Sign a new user in; let the oldest one go, by a sign-out or without a word."""
        self.did["sign-in"] += 1
        user = f"u{self.did['sign-in']}"
        await self._fleet.put(user)
        self._live.append(user)
        if len(self._live) > self._wanted.sessions:
            gone = self._live.popleft()
            if self._draw.random() < 0.6:
                self.did["sign-out"] += 1
                await self._fleet.delete(gone, 0)

    async def body(self) -> None:
        """Send or fetch a large body; give up half-way now and then."""
        length = self._draw.randint(1, 4 * MIB)
        reader, writer = await asyncio.open_connection(HOST, self._port)
        with suppress(OSError, asyncio.IncompleteReadError):
            async with asyncio.timeout(LONGEST):
                await self._send(writer, length)
                await self._read(reader)
        writer.close()
        self.did["body"] += 1

    async def socket(self) -> None:
        """Open a WebSocket, talk for a moment, leave: in order or not. Some end with their session."""
        named = {"X-Session-Id": session(self._any())}
        with suppress(OSError, WebSocketException):
            async with asyncio.timeout(LONGEST), connect(
                "ws://sockets.internal/", host=HOST, port=self._port, additional_headers=named, proxy=None
            ) as ours:  # fmt: skip
                for _ in range(self._draw.randrange(20)):
                    await ours.send("x" * self._draw.randrange(10_000))
                    await ours.recv()
                    await asyncio.sleep(0.1)
                if self._draw.random() < 0.3:
                    ours.transport.abort()
        self.did["socket"] += 1

    async def revoke(self) -> None:
        """Make access tokens worthless that the sidecar takes for good."""
        users = self._draw.sample(list(self._live), k=min(5, len(self._live)))
        self.did["revoked"] += await self._fleet.far.ask("revoke", users=users)

    async def fail(self) -> None:
        """Let the provider fail for a moment."""
        await self._fleet.far.ask("set", status=503)
        await asyncio.sleep(1)
        await self._fleet.far.ask("set", status=0)
        self.did["outage"] += 1

    async def forget(self) -> None:
        """Keep the far side from growing."""
        await self._fleet.far.ask("forget")
        books = await self._fleet.far.ask("books")
        self.did["token request"] += books["token_requests"]
        self.did["another's token"] += books["wrong"].get("other", 0)

    def _visit(self, caller: Caller) -> Callable[[], Awaitable[None]]:
        async def visit() -> None:
            draw = self._draw.random()
            if draw < 0.05:  # gives up before the answer
                await caller.ask(self._any(), within=0.001)
                self.did["given up"] += 1
                return
            if draw < 0.15:
                caller.close()
                self.did["reconnected"] += 1
            user = self._any() if draw < 0.95 else f"u{self._draw.randint(1, self.did['sign-in'])}"  # maybe gone
            await one(caller, user, self.tally, again=True)

        return visit

    async def _send(self, writer: asyncio.StreamWriter, length: int) -> None:
        down = self._draw.random() < 0.5
        line = f"GET /bytes/{length}" if down else f"PUT /sink HTTP/1.1\r\nContent-Length: {length}"
        first, _, rest = line.partition("\r\n")
        first += " HTTP/1.1" * down
        lines = [first, "Host: bodies.internal", f"X-Session-Id: {session(self._any())}", "Connection: close", rest]
        writer.write("\r\n".join([one for one in lines if one] + ["", ""]).encode())
        for at in range(0, 0 if down else length, len(BLOCK)):
            writer.write(BLOCK[: length - at])
            await writer.drain()
            if self._draw.random() < 0.02:
                writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(1 << 18):
            if self._draw.random() < 0.02:
                return

    async def _repeat(self, part: Callable[[], Awaitable[None]], pause: float, until: float) -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            await part()
            await asyncio.sleep(max(0.0, pause * self._draw.uniform(0.5, 1.5) - (time.monotonic() - began)))

    def _any(self) -> str:
        return self._draw.choice(self._live)


class Watch:
    """Reads the sidecar's figures until it is cancelled."""

    def __init__(self, fleet: Fleet, tasks: Path) -> None:
        self.readings: list[Reading] = []
        self._fleet = fleet
        self._tasks = tasks

    async def run(self, every: float) -> None:
        began = told = time.monotonic()
        while True:
            await asyncio.sleep(every)
            now = time.monotonic()
            with suppress(ValueError):  # the number of tasks is just being written
                self.readings.append(self.look(now - began))
            if now - told > 60:
                told = now
                progress(str(self.readings[-1]))

    def look(self, at: float) -> Reading:
        proc = Path(f"/proc/{self._fleet.instances[0].process.pid}")
        pages = int(proc.joinpath("statm").read_text().split()[1])
        with closing(sqlite3.connect(f"file:{self._fleet.store[7:]}?mode=ro", uri=True)) as connection:
            tables = ("records", "locks", "changes")
            rows = sum(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables)
        descriptors = len(list(proc.joinpath("fd").iterdir()))
        return Reading(at, pages * 4096 / MIB, descriptors, int(self._tasks.read_text()), rows)


def judged(readings: list[Reading], warm_up: float, scale: float) -> tuple[dict[str, Any], list[str]]:
    """Return the slopes per hour of the readings after the warm-up, and those that rise.

    Rows are judged where the warm-up is as long as the store remembers what was deleted.
    """
    kept = [reading for reading in readings if reading.at >= warm_up]
    figures: dict[str, Any] = {"readings": len(kept)}
    rising: list[str] = []
    for name, most in MOST_PER_HOUR.items():
        values = [float(getattr(reading, name)) for reading in kept]
        line = fit([reading.at for reading in kept], values)
        figures[name] = {
            "per_hour": round(line.slope * 3600, 2), "error": round(line.error * 3600, 2),
            "first": round(values[0], 1), "last": round(values[-1], 1), "most": round(max(values), 1),
        } if values else {}  # fmt: skip
        level = name != "rows" or warm_up * scale >= TOMBSTONE_LIFE
        rising += [name] * (level and line.rises(most / 3600, NOISE[name]))
    return figures, rising


async def run(wanted: argparse.Namespace) -> dict[str, Any]:
    """Run it once."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        tasks = Path(folder) / "tasks"
        bodies = spawn([sys.executable, "-m", "soak.stream_side", str(port)], stderr=subprocess.DEVNULL)
        try:
            how = ("soak.slopes_side", str(wanted.scale), str(tasks))
            more = MORE.format(port=port, next_one=port + 1)
            async with running(1, seed=wanted.seed, how=how, more=more) as fleet:
                return await _work(fleet, tasks, wanted)
        finally:
            bodies.kill()
            bodies.wait()


async def _work(fleet: Fleet, tasks: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    await fleet.far.ask("set", life=wanted.life, slow=0.05, strict=True)
    load, watch, seconds = Load(fleet, wanted), Watch(fleet, tasks), wanted.minutes * 60
    watching = asyncio.create_task(watch.run(wanted.every))
    await load.run(seconds)
    watching.cancel()
    await load.forget()
    figures, rising = judged(watch.readings, seconds * wanted.warm_up, wanted.scale)
    cpu = fleet.instances[0].cpu()
    return {
        "program": "slopes", "minutes": wanted.minutes, "scale": wanted.scale, "requests": load.tally.total,
        "answers": load.tally.kinds, "did": dict(load.did), "cpu_seconds": round(cpu, 1), **figures,
        "complaints": fleet.complaints(),
        "failures": {
            "rising": rising, "wrong": load.tally.wrong[:10], "anothers_token": load.did["another's token"],
            "answers": {kind: count for kind, count in load.tally.kinds.items() if kind not in EXPECTED},
            "too_few_served": load.tally.kinds.get("200", 0) < SERVED * load.tally.total,
            "too_few_readings": figures["readings"] < 3,
            "damage": fleet.damage(),
        },
    }  # fmt: skip


if __name__ == "__main__":
    main(
        run,
        options(
            __doc__.splitlines()[0],
            minutes=(480.0, "how long"),
            scale=(240.0, "how many times as fast the sidecar's time of day runs"),
            sessions=(60, "that live at once"),
            turnover=(10.0, "sign-ins a second, each with an end of another session"),
            rate=(100.0, "requests a second"),
            callers=(20, "connections"),
            life=(1200.0, "seconds of the sidecar's time that a token lives"),
            every=(2.0, "seconds between two readings"),
            warm_up=(0.45, "share of the time before the first reading that counts"),
        ),
    )
