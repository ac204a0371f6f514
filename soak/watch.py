"""Callers without pause, and the books of sessions that are lost meanwhile: when, why, and what their users are told.

Every loss is held to the one kind that is allowed (`losses`): `judge` returns what it cannot explain.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from soak.load import Caller, Tally, one
from soak.losses import Bounds, Harm, Reuse, fault, read, unaccounted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from soak.fleet import Fleet, Instance

SETTLE = 60  # seconds in which every lost session must have been answered with 401 and its user signed in again
HEARD = 1.5
"""Seconds after which every instance must have heard of a change in the store."""


class Watch:
    """The callers of a fleet. `harm` is to be told before anything is done to an instance."""

    def __init__(self, fleet: Fleet, callers: int, seed: int, pause: float = 0.05) -> None:
        self.tally = Tally()
        self.losses: dict[str, int] = {}
        self.unexplained: list[str] = []
        self.reuses: list[Reuse] = []
        self.token_requests = 0
        self.expired = 0  # tokens that the upstream saw too late: a process may be stopped between look and write
        self.served: dict[int, int] = {}  # answers of the upstream by instance
        self._fleet = fleet
        self._draw = random.Random(seed)
        self._pause = pause
        self._harms: list[Harm] = []
        self._acts: list[tuple[float, str, int]] = []
        self._stops = 0
        self._lost: dict[str, float] = {}
        self._back: dict[str, float] = {}
        self._tasks = [
            asyncio.create_task(self._call(instance)) for instance in fleet.instances for _ in range(callers)
        ]
        self._mending: set[asyncio.Task[None]] = set()

    def harm(self, instance: Instance, stop: bool = False) -> None:
        """Take note that an instance is killed now, or stopped."""
        self._harms.append(Harm(time.monotonic(), instance.number))
        self._stops += stop

    def go_on(self, instance: Instance) -> None:
        """Take note that a stopped instance goes on."""
        self.note("go on", instance)
        stop = max(at for at, harm in enumerate(self._harms) if harm.instance == instance.number)
        self._harms[stop] = self._harms[stop]._replace(until=time.monotonic())

    def note(self, act: str, instance: Instance) -> None:
        """Take note of what is done to an instance, for whoever looks for the cause of a loss."""
        self._acts.append((time.monotonic(), act, instance.number))

    async def end(self) -> None:
        """Stop the callers when every reuse was noticed as a loss and all are signed in again; close the books."""
        for _ in range(SETTLE):
            await asyncio.sleep(1.0)
            await self.books()
            if not self._lost and not unaccounted(self.losses, self.reuses):
                break
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.books()

    async def books(self) -> None:
        """Ask the far side what happened."""
        books = await self._fleet.far.ask("books")
        self.token_requests += books["token_requests"]
        self.reuses += [Reuse(**reuse) for reuse in books["reuses"]]
        for kind, count in books["wrong"].items():
            if kind == "expired":
                self.expired += count
            elif kind != "dead":  # what was lost may still be under way
                self.unexplained.append(f"the upstream saw {count} tokens: {kind}")

    def judge(self, bounds: Bounds) -> list[str]:
        """Return every reuse and every loss that is not of the one kind that is allowed, see `losses`."""
        wrong = list(self.unexplained)
        if self.expired > self._stops:
            wrong.append(f"the upstream saw {self.expired} expired tokens, with {self._stops} stops")
        traces = read(lines(self._fleet))
        found = [(fault(reuse, traces, self._harms, bounds), reuse) for reuse in self.reuses]
        wrong += [
            f"{why}: {reuse}, asked by {traces.asked.get(reuse.token)}, meanwhile {self._done(reuse)}"
            for why, reuse in found if why
        ]  # fmt: skip
        return wrong + unaccounted(self.losses, self.reuses)

    def _done(self, reuse: Reuse) -> list[str]:
        """Say what was done around a loss, in seconds from the rotation."""
        return [
            f"{act} {number} at {at - reuse.rotated:+.1f}"
            for at, act, number in self._acts
            if reuse.rotated - 20 < at < reuse.again
        ]

    async def _call(self, instance: Instance) -> None:
        caller = Caller(instance)
        try:
            while True:
                user = self._draw.choice(self._fleet.users)
                asked = time.time()
                answer = await one(caller, user, self.tally)
                if answer.status == 200:
                    self.served[instance.number] = self.served.get(instance.number, 0) + 1
                if answer.code == "login_required" and asked > self._back.get(user, 0.0) and user not in self._lost:
                    self._lose(user)
                await asyncio.sleep(0.3 if answer.status == 0 else self._draw.uniform(0, 2 * self._pause))
        finally:
            caller.close()

    def _lose(self, user: str) -> None:
        self._lost[user] = time.time()
        self.losses[user] = self.losses.get(user, 0) + 1
        task = asyncio.create_task(self._mend(user))
        self._mending.add(task)
        task.add_done_callback(self._mending.discard)

    async def _mend(self, user: str) -> None:
        """See that every instance that answers says the same, then sign the user in again."""
        await asyncio.sleep(HEARD)
        for instance in self._fleet.instances:
            caller = Caller(instance)
            answer = await caller.ask(user, within=2.0)
            caller.close()
            if answer.status and answer.code not in {"login_required", "overloaded"} and answer.status != 503:
                self.unexplained.append(f"{user} is signed out, but instance {instance.number} answers {answer}")
        while not await self._signed_in(user):  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.3)
        self._back[user] = time.time() + HEARD
        del self._lost[user]

    async def _signed_in(self, user: str) -> bool:
        for number in self._draw.sample(range(len(self._fleet.instances)), len(self._fleet.instances)):
            try:
                async with asyncio.timeout(2.0):
                    await self._fleet.put(user, number)
            except (OSError, TimeoutError, RuntimeError, IndexError, ValueError):
                continue
            return True
        return False


def lines(fleet: Fleet) -> Iterator[tuple[int, str]]:
    """Return the lines of all traces with their instances' numbers; one that was cut off is left out."""
    for instance in fleet.instances:
        for line in instance.trace.read_text().splitlines() if instance.trace.exists() else []:
            if line.count(" ") == 2:
                yield instance.number, line


async def windows(fleet: Fleet) -> dict[str, float]:
    """Return for how long rotations were not stored yet, in milliseconds: to the end of the store's write."""
    rotated, stored = await fleet.far.ask("rotated"), read(lines(fleet)).stored
    return spread([(at - rotated[token]) * 1000 for token, at in stored.items() if token in rotated])


def spread(values: list[float]) -> dict[str, float]:
    """Return count, median, 99th percentile and maximum."""
    if not values:
        return {"count": 0}
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "median": round(ordered[len(ordered) // 2], 2),
        "p99": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 2),
        "max": round(ordered[-1], 2),
    }
