"""Instances are stopped for three leases, killed and asked to end at random while they hold locks and renew.

No session may be lost but in the documented window, and never by an end in order; each loss is counted and answered
with 401 by every instance.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from typing import TYPE_CHECKING, Any

from soak.command import main, options, progress
from soak.fleet import Fleet, Instance, running
from soak.losses import Bounds
from soak.watch import Watch, windows

if TYPE_CHECKING:
    import argparse

ACTS = ("stop", "kill", "end")


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    acts = arguments.acts.split(",")
    async with running(
        arguments.instances, store=arguments.store, seed=arguments.seed, lease=arguments.lease, traced=True,
        patience=arguments.patience,
    ) as fleet:  # fmt: skip
        policy = {"life": arguments.life, "leeway": arguments.leeway, "strict": True}
        await fleet.far.ask("set", slow=arguments.slow, late=arguments.late, **policy)
        await fleet.sign_in(arguments.keys)
        watch = Watch(fleet, arguments.callers, arguments.seed)
        tormentor = Tormentor(fleet, watch, arguments)
        began = time.monotonic()
        while time.monotonic() < began + arguments.duration:
            await tormentor.act(acts, began + arguments.duration - time.monotonic())
            await watch.books()
        await tormentor.done()
        await asyncio.sleep(2)
        await watch.end()
        bounds = Bounds(arguments.lease or 15.0, arguments.late, one_writer=arguments.store == "sqlite")
        return {
            "program": "holders",
            "store": arguments.store,
            "instances": arguments.instances,
            "lease": arguments.lease or 15.0,
            "leeway": arguments.leeway,
            "acts": tormentor.acts,
            "token_requests": watch.token_requests,
            "answers": watch.tally.kinds,
            "longest_wait": round(watch.tally.worst, 2),
            "sessions_lost": sum(watch.losses.values()),
            "reuses": len(watch.reuses),
            "expired_tokens_seen": watch.expired,
            "window_ms": await windows(fleet),
            "complaints": fleet.complaints(),
            "failures": {
                "unexplained": watch.judge(bounds)[:20],
                "wrong": watch.tally.wrong[:10],
                "died": tormentor.died,
                "damage": fleet.damage(),
            },
        }


class Tormentor:
    """Does something to one instance after another; leaves at least one alone."""

    def __init__(self, fleet: Fleet, watch: Watch, arguments: argparse.Namespace) -> None:
        self.acts: dict[str, int] = {}
        self.died: list[str] = []
        self._fleet = fleet
        self._watch = watch
        self._lease = arguments.lease or 15.0
        self._every = arguments.every
        self._draw = random.Random(arguments.seed)
        self._busy: dict[int, asyncio.Task[None]] = {}

    async def act(self, acts: list[str], left: float) -> None:
        """Wait a little, `left` seconds at most, then act on an instance that is well; leave the last one alone."""
        await asyncio.sleep(min(left, self._draw.uniform(0, 2 * self._every)))
        well = [instance for instance in self._fleet.instances if instance.number not in self._busy]
        if len(well) < 2:
            return
        instance, act = self._draw.choice(well), self._draw.choice(acts)
        self.acts[act] = self.acts.get(act, 0) + 1
        self._watch.note(act, instance)
        task = asyncio.create_task(getattr(self, "_" + act)(instance))
        self._busy[instance.number] = task
        task.add_done_callback(lambda done: self._over(instance, done))

    async def done(self) -> None:
        """Return when all instances are well again."""
        while self._busy:
            await asyncio.wait(self._busy.values())

    def _over(self, instance: Instance, task: asyncio.Task[None]) -> None:
        del self._busy[instance.number]
        if task.exception() is not None:
            self.died.append(str(task.exception()))
        progress(f"{self.acts}, {self._watch.tally}, {sum(self._watch.losses.values())} lost")

    async def _stop(self, instance: Instance) -> None:
        seconds = 3 * self._lease
        self._watch.harm(instance, stop=True)
        instance.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        instance.send(signal.SIGCONT)
        self._watch.go_on(instance)

    async def _kill(self, instance: Instance) -> None:
        self._watch.harm(instance)
        instance.kill()
        await instance.start()

    async def _end(self, instance: Instance) -> None:
        """In order: nothing may be lost, so this is no harm."""
        await instance.terminate()
        await instance.start()


if __name__ == "__main__":
    main(
        run,
        options(
            __doc__.splitlines()[0],
            instances=(4, "sidecar processes on one store"),
            callers=(5, "callers at each instance, without pause"),
            keys=(40, "users, so keys"),
            duration=(300.0, "seconds"),
            every=(1.5, "seconds between two acts, on average"),
            acts=(",".join(ACTS), "what is done: stop, kill, end"),
            lease=(3.0, "of the locks, in seconds; 0 leaves it at the program's own 15"),
            patience=(2.0, "the total timeout for the authorization server, in seconds; shorter than the lease"),
            leeway=(0.0, "seconds for which the authorization server forgives the second use of a refresh token"),
            life=(4.0, "seconds that a token lives"),
            slow=(0.5, "the authorization server's time before it does anything, at most; seconds"),
            late=(0.3, "its time between rotation and answer, at most; seconds"),
        ),
    )
