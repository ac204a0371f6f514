"""Sidecars are killed with SIGKILL at random points of their renewals, and started again.

No refresh token may be lost that was acknowledged (its access token was seen by the upstream), the store must be whole,
and the process ready again in under a second.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from soak.command import main, options, progress
from soak.fleet import STEP, Fleet, Instance, running, spawn_piped
from soak.forks import Nest
from soak.losses import Bounds
from soak.watch import Watch, spread, windows

if TYPE_CHECKING:
    import argparse

PATIENCE = 60.0
LIMIT = 1.0


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    async with running(
        arguments.instances, store=arguments.store, seed=arguments.seed, lease=arguments.lease, traced=True
    ) as fleet:
        await fleet.far.ask("set", life=arguments.life, slow=arguments.slow, late=arguments.late, strict=True)
        await fleet.sign_in(arguments.keys)
        watch = Watch(fleet, arguments.callers, arguments.seed, pause=0.04)
        killer = Killer(fleet, watch, arguments)
        try:
            await asyncio.gather(*(killer.kill_again_and_again(instance) for instance in fleet.instances))
        except BaseException:
            await killer.nest.stop()
            raise
        await asyncio.sleep(arguments.lease + 2)
        await watch.end()
        found, damage = await fleet.sessions(0), fleet.damage()
        if found != arguments.keys:
            damage.append(f"{found} sessions can be read, of {arguments.keys}")
        await killer.nest.stop()
        return {
            "program": "kills",
            "store": arguments.store,
            "kills": killer.kills,
            "of_them_during_token_requests": killer.hits,
            "token_requests": watch.token_requests,
            "answers": watch.tally.kinds,
            "sessions_lost_in_the_window": sum(watch.losses.values()),
            "reuses": len(watch.reuses),
            "ready_again_seconds": spread([start.seconds for start in killer.starts]),
            "of_them_cpu": spread([start.cpu for start in killer.starts]),
            "ready_within_a_second": sum(start.seconds < LIMIT for start in killer.starts),
            "window_ms": await windows(fleet),
            "complaints": fleet.complaints(),
            "failures": {
                "unexplained": watch.judge(Bounds(arguments.lease, arguments.late))[:20],
                "wrong": watch.tally.wrong[:10],
                "died": killer.died,
                "damage": damage,
                "not_ready_within_a_second": killer.slow() if arguments.judge_starts else [],
            },
        }


class Start(NamedTuple):
    """How long a start took until connections were accepted, and how much CPU time of it."""

    seconds: float
    cpu: float


class Killer:
    """Kills each instance, waits for its return, lets it work for a moment, and begins anew."""

    def __init__(self, fleet: Fleet, watch: Watch, arguments: argparse.Namespace) -> None:
        self.kills = self.hits = 0
        self.starts: list[Start] = []
        self.nest = Nest(spawn_piped)
        self._begun = 0
        self._measured = arguments.measured
        self.died: list[str] = []
        self._fleet = fleet
        self._watch = watch
        self._wanted = arguments.kills
        self._until = time.monotonic() + arguments.limit
        self._work = arguments.work
        self._draw = random.Random(arguments.seed)

    async def kill_again_and_again(self, instance: Instance) -> None:
        """Until all kills are done."""
        while self.kills < self._wanted and time.monotonic() < self._until and not self.died:
            await self._at_work(instance)
            self.kills += 1
            if self.kills % 50 == 0:
                lost = sum(self._watch.losses.values())
                starts = spread([start.seconds for start in self.starts])
                progress(f"{self.kills} kills, {self.hits} hits, {lost} lost, {self._watch.tally}, starts {starts}")
            self._watch.harm(instance)
            instance.kill()
            self.hits += (await self._fleet.far.ask("under_way")) > 0
            await self._watch.books()
            try:
                await self._start_again(instance)
            except RuntimeError as error:
                self.died.append(str(error))

    async def _start_again(self, instance: Instance) -> None:
        """Start it as it is started in earnest, and measure that, one time in `measured`."""
        self._begun += 1
        if self._begun % self._measured == 0:
            self.starts.append(Start(await instance.start(), instance.cpu()))
        else:
            await instance.fork(self.nest)

    def slow(self) -> list[str]:
        """Return what is wrong with the starts: half of them must have taken less than a second."""
        median = spread([start.seconds for start in self.starts]).get("median", 0.0)
        return [f"half of the starts took {median} s and more"] if median >= LIMIT else []

    async def _at_work(self, instance: Instance) -> None:
        """Return at a random moment after it has begun to answer again."""
        served = self._watch.served.get(instance.number, 0)
        for _ in range(int(PATIENCE / STEP)):
            if self._watch.served.get(instance.number, 0) > served:
                await asyncio.sleep(self._draw.uniform(0, 2 * self._work))
                return
            await asyncio.sleep(STEP)
        self.died.append(f"instance {instance.number} does not serve: {self._watch.tally}")


if __name__ == "__main__":
    main(
        run,
        options(
            __doc__.splitlines()[0],
            instances=(2, "sidecar processes on one store, killed by turns"),
            kills=(1000, "how many"),
            measured=(20, "one start in so many is a real one and measured; the others are forks, which cost little"),
            judge_starts=(1, "0: a median start of a second and more is no failure, on a machine that does much else"),
            limit=(7200.0, "seconds after which it ends, however many there were"),
            work=(0.3, "seconds of work between start and kill, on average"),
            callers=(6, "callers at each instance, without pause"),
            keys=(30, "users, so keys"),
            lease=(1.0, "of the locks, in seconds"),
            life=(1.5, "seconds that a token lives"),
            slow=(0.1, "the authorization server's time before it does anything, at most; seconds"),
            late=(0.05, "its time between rotation and answer, at most; seconds"),
        ),
    )
