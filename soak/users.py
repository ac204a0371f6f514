"""Requests of many users with random cancels while the store delays and drops connections.

No request may carry another user's token. For Redis a TCP proxy stands before the store; for SQLite another process
holds the write lock for seconds.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import TYPE_CHECKING, Any

from soak.command import main, options, progress
from soak.fleet import Fleet, running, spawn
from soak.load import Batch, Tally
from soak.losses import read
from soak.trouble import Wire
from soak.watch import lines

if TYPE_CHECKING:
    import argparse
    import subprocess

SERVED = 0.8  # share of the requests that must have reached the upstream with a token, or nothing was shown
EXPECTED = {"200", "cancelled", "closed", "store_unavailable", "provider_unavailable"}
"""`closed`: what was sent after a request that was refused, on a connection that ended with the refusal."""
TIMEOUT = 1.0
"""For Redis; longer than the sidecar's own, that a busy machine is no trouble: that is to come from the proxy alone."""
MOMENTS = (0.0, 0.0005, 0.002, 0.01, 0.1, 0.5)
LONGEST = 120.0
PROGRESS = 50_000


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    wires: list[Wire] = []

    async def between(port: int) -> int:
        wires.append(Wire(port, arguments.seed, arguments.delay, arguments.drops))
        return await wires[0].start()

    async with running(
        arguments.instances,
        store=arguments.store,
        seed=arguments.seed,
        between=between,
        redis_timeout=TIMEOUT,
        traced=True,
    ) as fleet:
        await fleet.far.ask("set", life=arguments.life, slow=0.2)
        await fleet.sign_in(arguments.users)
        for wire in wires:
            wire.calm = False
        locker = _locker(fleet, arguments)
        crowd = Crowd(fleet, arguments)
        try:
            await crowd.run()
        finally:
            if locker:
                locker.kill()
                locker.wait()
        books = await fleet.far.ask("books")
        dead = await fleet.far.ask("dead")
        traces = read(lines(fleet))
        for wire in wires:
            wire.stop()
        return {
            "program": "users",
            "store": arguments.store,
            "users": arguments.users,
            "requests": crowd.tally.total,
            "answers": crowd.tally.kinds,
            "longest_wait": round(crowd.tally.worst, 2),
            "token_requests": books["token_requests"],
            "seen_by_the_upstream": books["uses"],
            "connections_dropped": sum(wire.dropped for wire in wires),
            "pieces_delayed": sum(wire.delayed for wire in wires),
            "sessions_lost": len(dead),
            "complaints": fleet.complaints(),
            "failures": {
                "another_user": books["wrong"].get("other", 0),
                "no_good": {fault: count for fault, count in books["wrong"].items() if fault != "other"},
                "wrong": crowd.tally.wrong[:10],
                "answers": {kind: count for kind, count in crowd.tally.kinds.items() if kind not in EXPECTED},
                "reuses": [
                    f"{reuse}, asked by {traces.asked.get(reuse['token'])}, stored {traces.stored.get(reuse['bought'])}"
                    for reuse in books["reuses"][:10]
                ],
                "dead": dead[:10],
                "too_few_served": [crowd.tally.kinds] * (crowd.tally.kinds.get("200", 0) < SERVED * crowd.tally.total),
            },
        }


def _locker(fleet: Fleet, arguments: argparse.Namespace) -> subprocess.Popen[bytes] | None:
    if arguments.store != "sqlite":
        return None
    path = fleet.store.removeprefix("sqlite:")
    return spawn([sys.executable, "-m", "soak.trouble", path, str(arguments.seed), str(arguments.delay)])


class Crowd:
    """The callers: each asks for some users at once, on one connection, and sometimes leaves before the answers."""

    def __init__(self, fleet: Fleet, arguments: argparse.Namespace) -> None:
        self.tally = Tally()
        self._fleet = fleet
        self._arguments = arguments
        self._draw = random.Random(arguments.seed)
        self._left = arguments.requests
        self._began = time.monotonic()
        self._until = self._began + arguments.limit
        self._told = 0

    async def run(self) -> None:
        """Return when all requests have been made."""
        await asyncio.gather(
            *(self._call(Batch(instance)) for instance in self._fleet.instances for _ in range(self._arguments.callers))
        )

    async def _call(self, line: Batch) -> None:
        size = self._arguments.batch
        while self._left > 0 and time.monotonic() < self._until:
            self._left -= size
            if self.tally.total >= self._told + PROGRESS:
                self._told = self.tally.total
                progress(f"{self.tally.total} in {time.monotonic() - self._began:.0f} s: {self.tally}")
            users = self._draw.choices(self._fleet.users, k=size)
            await self._ask(line, users, cancel=self._draw.random() < self._arguments.cancels)
        line.close()

    async def _ask(self, line: Batch, users: list[str], cancel: bool) -> None:
        """Ask for some users at once. `cancel`: leave after a moment, whatever has come by then."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._draw.choice(MOMENTS) if cancel else LONGEST):
                await line.ask(users)
        except TimeoutError:
            line.close()
        seconds = time.monotonic() - began
        for user, answer in zip(users, line.answers, strict=False):
            self.tally.note(user, answer, seconds)
        missing = len(users) - len(line.answers)
        if missing:
            closed = not cancel and line.answers and line.answers[-1].status != 200
            kind = "cancelled" if cancel else "closed" if closed else "not_answered"
            self.tally.kinds[kind] = self.tally.kinds.get(kind, 0) + missing


if __name__ == "__main__":
    main(
        run,
        options(
            __doc__.splitlines()[0],
            instances=(2, "sidecar processes on one store"),
            callers=(20, "connections to each instance"),
            users=(1000, "sessions"),
            requests=(1_000_000, "how many"),
            limit=(7200.0, "seconds after which it ends, however many there were"),
            batch=(20, "requests that are sent at once on a connection, of different users"),
            cancels=(0.1, "share of the batches that are given up at some moment"),
            delay=(3.0, "the store's, at most; seconds"),
            drops=(0.002, "share of the pieces after which the connection to Redis is dropped"),
            life=(120.0, "seconds that a token lives"),
        ),
    )
