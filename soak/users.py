"""Requests of many users with random cancels while the store delays and drops connections.

No request may carry another user's token. For Redis a TCP proxy stands before the store; for SQLite another process
holds the write lock for seconds.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from soak.command import main, options, progress
from soak.fleet import Fleet, running, spawn
from soak.load import Caller, Tally, one
from soak.trouble import Wire

if TYPE_CHECKING:
    import argparse
    import subprocess

SERVED = 0.8  # share of the requests that must have reached the upstream with a token, or nothing was shown
EXPECTED = {"200", "cancelled", "store_unavailable", "provider_unavailable"}


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    wires: list[Wire] = []

    async def between(port: int) -> int:
        wires.append(Wire(port, arguments.seed, arguments.delay, arguments.drops))
        return await wires[0].start()

    async with running(arguments.instances, store=arguments.store, seed=arguments.seed, between=between) as fleet:
        await fleet.far.ask("set", life=arguments.life, slow=0.2)
        await _signed_in(fleet, arguments.users)
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
                "another_user": {fault: count for fault, count in books["wrong"].items() if fault != "expired"},
                "expired": books["wrong"].get("expired", 0),
                "wrong": crowd.tally.wrong[:10],
                "answers": {kind: count for kind, count in crowd.tally.kinds.items() if kind not in EXPECTED},
                "reuses": books["reuses"][:10],
                "dead": dead[:10],
                "too_few_served": [crowd.tally.kinds] * (crowd.tally.kinds.get("200", 0) < SERVED * crowd.tally.total),
            },
        }


async def _signed_in(fleet: Fleet, users: int) -> None:
    """Sign all in, again and again where the store is in trouble already."""
    with suppress(RuntimeError, OSError):
        await fleet.sign_in(users)
        return
    for user in fleet.users:
        for _ in range(50):
            with suppress(RuntimeError, OSError):
                await fleet.put(user)
                break
            await asyncio.sleep(0.1)


def _locker(fleet: Fleet, arguments: argparse.Namespace) -> subprocess.Popen[bytes] | None:
    if arguments.store != "sqlite":
        return None
    path = fleet.store.removeprefix("sqlite:")
    return spawn([sys.executable, "-m", "soak.trouble", path, str(arguments.seed), str(arguments.delay)])


class Crowd:
    """The callers: each asks for one user after another on one connection, and sometimes leaves before the answer."""

    def __init__(self, fleet: Fleet, arguments: argparse.Namespace) -> None:
        self.tally = Tally()
        self._fleet = fleet
        self._arguments = arguments
        self._draw = random.Random(arguments.seed)
        self._left = arguments.requests
        self._until = time.monotonic() + arguments.limit

    async def run(self) -> None:
        """Return when all requests have been made."""
        await asyncio.gather(
            *(
                self._call(Caller(instance))
                for instance in self._fleet.instances
                for _ in range(self._arguments.callers)
            )
        )

    async def _call(self, caller: Caller) -> None:
        while self._left > 0 and time.monotonic() < self._until:
            self._left -= 1
            if self._left % 50_000 == 0:
                progress(f"{self.tally.total}: {self.tally}")
            user = self._draw.choice(self._fleet.users)
            if self._draw.random() < self._arguments.cancels:
                await self._cancelled(caller, user)
            else:
                await one(caller, user, self.tally)
        caller.close()

    async def _cancelled(self, caller: Caller, user: str) -> None:
        """Leave after a moment, whatever has come by then."""
        try:
            async with asyncio.timeout(self._draw.choice((0.0, 0.0005, 0.002, 0.01, 0.1, 0.5))):
                await one(caller, user, self.tally)
        except TimeoutError:
            caller.close()
            self.tally.kinds["cancelled"] = self.tally.kinds.get("cancelled", 0) + 1


if __name__ == "__main__":
    main(
        run,
        options(
            __doc__.splitlines()[0],
            instances=(2, "sidecar processes on one store"),
            callers=(50, "connections to each instance"),
            users=(1000, "sessions"),
            requests=(1_000_000, "how many"),
            limit=(7200.0, "seconds after which it ends, however many there were"),
            cancels=(0.05, "share of the requests that are given up"),
            delay=(1.0, "the store's, at most; seconds"),
            drops=(0.002, "share of the pieces after which the connection to Redis is dropped"),
            life=(20.0, "seconds that a token lives"),
        ),
    )
