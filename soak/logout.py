"""Sessions are ended on one instance while every instance sends their tokens without pause.

One second after the answer to DELETE no token of the session may reach the upstream, whichever instance is asked.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from soak.command import main, options, progress
from soak.fleet import Fleet, running
from soak.load import Caller, Tally, one
from soak.watch import spread

if TYPE_CHECKING:
    import argparse

LIMIT = 1.0
EXPECTED = {"200", "login_required", "store_unavailable"}  # the last on a machine that is too busy for Redis' timeout
CALLERS_OF_ONE = 2  # at each instance, for the session that is about to end


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    async with running(arguments.instances, store=arguments.store, seed=arguments.seed) as fleet:
        await fleet.far.ask("set", life=arguments.life, slow=0.3)
        await fleet.sign_in(arguments.logouts + arguments.others)
        victims, others = fleet.users[: arguments.logouts], fleet.users[arguments.logouts :]
        draw, tally = random.Random(arguments.seed), Tally()
        load = [
            asyncio.create_task(_call(Caller(instance), others, draw, tally, arguments.pause))
            for instance in fleet.instances
            for _ in range(arguments.callers)
        ]
        ends = [await _end(fleet, user, draw, tally) for user in victims]
        for task in load:
            task.cancel()
        await asyncio.gather(*load, return_exceptions=True)
        late = [seconds for seconds, _ in ends]
        return {
            "program": "logout",
            "store": arguments.store,
            "instances": arguments.instances,
            "logouts": len(ends),
            "requests": tally.total,
            "answers": tally.kinds,
            "last_token_after_seconds": spread([max(0.0, seconds) for seconds in late]),
            "complaints": fleet.complaints(),
            "failures": {
                "late": [seconds for seconds in late if seconds > LIMIT],
                "not_refused": [words for _, words in ends if words],
                "wrong": tally.wrong[:10],
                "answers": {kind: count for kind, count in tally.kinds.items() if kind not in EXPECTED},
            },
        }


async def _call(caller: Caller, users: list[str], draw: random.Random, tally: Tally, pause: float) -> None:
    try:
        while True:
            await one(caller, draw.choice(users), tally)
            await asyncio.sleep(draw.uniform(0, 2 * pause))
    finally:
        caller.close()


async def _end(fleet: Fleet, user: str, draw: random.Random, tally: Tally) -> tuple[float, str]:
    """End one session under load; return when its token was last seen after the answer, and what is wrong."""
    tasks = [
        asyncio.create_task(_call(Caller(instance), [user], draw, tally, 0.002))
        for instance in fleet.instances
        for _ in range(CALLERS_OF_ONE)
    ]
    await asyncio.sleep(draw.uniform(0.0, 0.8))  # its token has expired: some ends meet its renewal
    at, status = draw.randrange(len(fleet.instances)), 503
    while status == 503:
        status = await fleet.delete(user, at)
    answered = time.monotonic()
    await asyncio.sleep(LIMIT + 1.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    last = (await fleet.far.ask("last_use")).get(user, 0.0) - answered
    after = [await Caller(instance).ask(user) for instance in fleet.instances]
    words = "" if status == 204 and all(answer.code == "login_required" for answer in after) else f"{status} {after}"
    progress(f"{user}: last token {last:+.3f} s after the answer, {tally}")
    return last, words


if __name__ == "__main__":
    main(
        run,
        options(
            __doc__.splitlines()[0],
            instances=(4, "sidecar processes on one store"),
            callers=(5, "callers at each instance for other sessions"),
            pause=(0.02, "seconds between their requests, on average"),
            others=(50, "sessions that live on"),
            logouts=(50, "sessions that are ended"),
            life=(5.0, "seconds that a token lives"),
        ),
    )
